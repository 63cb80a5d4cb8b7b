"""One way in: whatever text describes a structure, `parse_structure` reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.carrier_notation import parse_carriers, parse_theta, theta_text
from einsearch_cli.structures.einsum_notation import einsum_text, parse_einsum
from einsearch_cli.structures.families import family_text, parse_family
from einsearch_cli.structures.structure import Structure

_MAX_LENGTH = 2000


@dataclass(frozen=True, slots=True)
class NamedStructure:
    """A structure as a user wrote it: perhaps with a name and with dimensions."""

    structure: Structure
    name: str | None = None
    d_in: int | None = None
    d_out: int | None = None


def parse_structure(text: str, *, block_diagonal: bool = False) -> Structure:
    """Read a structure in any of its text notations.

    - θ vector: `(0.5|0|0.5|0|0.5|0.5|0)`;
    - carrier sets: `XA^1/2 XAB=4 YB YAB=4`;
    - einsum equation with sizes: `bgn,gnr,gro->bo; g=4, n=rest, r=64, o=rest`;
    - family: `dense`, `low-rank:r=64`, `btt:r=2`, `block-dense:blocks=4,r=512`.

    Carrier sets may hold both X and Y with `block_diagonal`; in an equation, a letter
    of input and output that no factor has is then such an index if it has a size.

    Raises:
        StructureError: saying what is wrong, the rule, and what to write instead.

    >>> parse_structure("btt:r=1") == parse_structure("(0.5|0|0.5|0|0.5|0.5|0)")
    True
    """
    return read_structure(text, block_diagonal=block_diagonal).structure


def read_structure(text: str, sizes: dict[str, str] | None = None, *, block_diagonal: bool = False) -> NamedStructure:
    """Like `parse_structure`, keeping the dimensions that whole einsum sizes fix."""
    text = text.strip()
    if not text or len(text) > _MAX_LENGTH:
        raise StructureError(
            f"the text of a structure has {len(text)} characters: it must have 1 to {_MAX_LENGTH}",
            remedy="write for example btt:r=2",
        )
    if "->" in text:
        spec = parse_einsum(text, sizes, block_diagonal=block_diagonal)
        return NamedStructure(spec.structure, d_in=spec.d_in, d_out=spec.d_out)
    if sizes:
        raise StructureError(
            f"sizes were given for {text[:80]!r}: only einsum equations take them", remedy="leave --sizes out"
        )
    if "|" in text or re.fullmatch(r"[0-9./,\s()]+", text):
        return NamedStructure(parse_theta(text))
    if re.fullmatch(r"(?:[A-Z]{2,}|[A-Z]\w*[^\W\x00-\x7f]\w*)(?:[\^=].*)?", text.split()[0]):
        return NamedStructure(parse_carriers(text, block_diagonal=block_diagonal))
    return NamedStructure(parse_family(text))


def notations(structure: Structure, d_in: int, d_out: int) -> dict[str, str | None]:
    """Every notation of a structure; None where it has none.

    >>> notations(parse_structure("monarch:blocks=4"), 1024, 1024)["einsum"]
    '...ab,abd,bcd->...cd; a=1/4*d, b=4, c=1/4*d, d=4'
    """
    sized = structure.at(d_in, d_out)
    return {
        "carriers": str(structure),
        "theta": theta_text(structure),
        "family": family_text(structure),
        "einsum": einsum_text(structure, sized.einsum, sized.letters),
        "yaml": "{" + ", ".join(f"{c}: {_yaml_value(text)}" for c, text in structure.to_json().items()) + "}",
    }


def _yaml_value(text: str) -> str:
    return f"'{text}'" if text.startswith("=") else text
