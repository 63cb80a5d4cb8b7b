"""`einsearch classify` for structures with letters as exponents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from einsearch_cli.cli.columns import card
from einsearch_cli.cli.output import Format, render
from einsearch_cli.errors import SpecError

if TYPE_CHECKING:
    from einsearch_cli.taxonomy.symbolic import FreeTaxonomy


def is_symbolic(specs: Sequence[str]) -> bool:
    """Whether the words of a command line are structures with free exponents.

    Raises:
        SpecError: if only some of them are.
    """
    from einsearch_cli.structures.free_exponents import has_free_exponents

    free = [spec for spec in specs if has_free_exponents(spec)]
    if free and len(free) < len(specs):
        raise SpecError(
            f"{free[0][:60]!r} has letters as exponents and other structures have not: they give different tables",
            remedy="classify them in two calls",
        )
    return bool(free)


def symbolic_text(
    specs: Sequence[str], output: Format, sized: Sequence[str], block_diagonal: bool, room: int | None
) -> str:
    """The formulas of structures with free exponents, for `room` columns; `sized` lists options that need numbers."""
    from einsearch_cli.structures.free_exponents import parse_free_structure
    from einsearch_cli.taxonomy.symbolic import FreeTaxonomy

    if sized:
        raise SpecError(
            f"{sized[0]} was given with {specs[0][:60]!r}: a structure with letters as exponents has no sizes",
            remedy=f"leave {sized[0]} out, or write numbers for the letters",
        )
    found = [FreeTaxonomy(parse_free_structure(spec, block_diagonal=block_diagonal)) for spec in specs]
    objects = [item.to_json() for item in found]
    if output is Format.json and len(objects) == 1:
        return json.dumps(objects[0], indent=2, ensure_ascii=False)
    if output is Format.table:
        return "\n\n".join(card(_card(item), room) for item in found)
    rows = [
        {"structure": str(item.free), "family": item.family}
        | {"ω": item.omega, "ψ": item.psi, "ν": item.nu, "params": item.params, "FLOPs/token": item.flops_per_token}
        for item in found
    ]
    return render(rows, objects, output)


def _card(item: FreeTaxonomy) -> list[tuple[str, str]]:
    """One structure for people."""
    from einsearch_cli.taxonomy import readable_formula

    return [
        ("structure", str(item.free)),
        ("family", item.family),
        ("where", ", ".join(item.range_text) or "everywhere"),
        ("", ""),
        ("ω  sharing", str(item.omega)),
        ("ψ  rank", str(item.psi)),
        ("ν  compute", str(item.nu)),
        ("", ""),
        ("params", readable_formula(str(item.params))),
        ("FLOPs/token", readable_formula(str(item.flops_per_token))),
        ("", ""),
        *((("ψ is limited" if i == 0 else ""), f"{exponent}  by {cut}") for i, (cut, exponent) in enumerate(item.cuts)),
        ("", ""),
        ("note", "where an index vanishes, a factor may be part of another one, and ω and ν may be smaller"),
    ]
