"""`einsearch families`: the named structures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from einsearch_cli.cli import console
from einsearch_cli.cli.output import Format, format_option, render

if TYPE_CHECKING:
    from einsearch_cli.structures import Family

HELP = """List the named families with their carrier sets, parameters and formulas.

ω, ψ and ν are formulas in n, the number of axes of the input and of the output,
and in the exponents of the parameters: r = d^ρ, blocks = d^β. A fixed size has
exponent 0.

Examples:

  einsearch families

  einsearch families --format json
"""


def families_command(
    output: Format = format_option(),
) -> None:
    from einsearch_cli.structures import FAMILIES

    lines = [line for family in FAMILIES.values() for line in _lines(family)]
    console.data(
        render(
            [_row(line) for line in lines], lines, output, least=(), folded=("carrier sets", "ω", "ψ", "ν", "source")
        )
    )


def _lines(family: Family) -> list[dict[str, str]]:
    """The family at its default order, and at order 3 if that differs."""
    from einsearch_cli.structures.extent import Extent
    from einsearch_cli.structures.families import carriers_at, usage

    found = [(usage(family), family.carriers)]
    if family.has_orders and family.parameters["n"] != Extent.fixed(3):
        found.append((usage(family, 3), carriers_at(family, 3)))
    formulas = family.formulas
    return [
        {
            "structure": text,
            "family": family.name,
            "carrier sets": carriers,
            "omega": formulas.omega,
            "psi": formulas.psi,
            "nu": formulas.nu,
            "where": formulas.where,
            "source": family.source,
        }
        for text, carriers in found
    ]


def _row(line: dict[str, str]) -> dict[str, str]:
    """One line for people, with formulas as papers print them."""
    return {
        "structure": line["structure"],
        "carrier sets": line["carrier sets"],
        "ω": _printed(line["omega"]),
        "ψ": _printed(line["psi"]),
        "ν": _printed(line["nu"]) + (f"  ({line['where']})" if line["where"] else ""),
        "source": line["source"],
    }


def _printed(formula: str) -> str:
    """A formula as papers print it: `2nρ − 1` for `2*n*ρ - 1`.

    >>> _printed("max(ρ, 2*n*ρ - 1)")
    'max(ρ, 2nρ − 1)'
    """
    return formula.replace("*", "").replace("-", "−")
