"""`parse_structure` reads every text that describes a structure."""

from __future__ import annotations

import re
from dataclasses import replace

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.carrier_notation import parse_carriers, parse_theta, theta_text
from einsearch_cli.structures.einsum_notation import einsum_text, parse_einsum
from einsearch_cli.structures.families import family_text, parse_family
from einsearch_cli.structures.moe import LayerSpec, MixtureOfExperts, NamedStructure, is_mixture, split_mixture
from einsearch_cli.structures.structure import Structure

_MAX_LENGTH = 2000


def parse_structure(text: str, *, block_diagonal: bool = False) -> Structure:
    """Read a structure in any of its text notations.

    - θ vector: `(0.5|0|0.5|0|0.5|0.5|0)`;
    - carrier sets: `XA^1/2 XAB=4 YB YAB=4`;
    - einsum equation with sizes: `bgn,gnr,gro->bo; g=4, n=rest, r=64, o=rest`;
    - family: `dense`, `low-rank:r=64`, `btt:r=2`, `block-dense:blocks=4,r=512`.

    Carrier sets may hold both X and Y with `block_diagonal`; in an equation, a letter
    of input and output that no factor has is then such an index if it has a size.
    Layers of experts are read by `parse_layer`.

    Raises:
        StructureError: saying what is wrong, the rule, and what to write instead.

    >>> parse_structure("btt:r=1") == parse_structure("(0.5|0|0.5|0|0.5|0.5|0)")
    True
    """
    found = read_structure(text, block_diagonal=block_diagonal)
    if found.mixture is not None:
        raise StructureError(
            f"{text[:80]!r} is a layer of experts: here a structure is needed, without experts",
            remedy=f"write the expert alone, {found.structure}",
        )
    return found.structure


def parse_layer(text: str) -> LayerSpec:
    """Read a structure, or a layer of experts.

    - `FAMILY-moe` with the family's own parameters: `btt-moe:experts=16,top=2`,
      `low-rank-moe:r=32,experts=8,top=2`, `dense-moe:experts=8,top=2`;
    - any structure followed by `moe`: `XA^1/2 XAB^1/2 YA^1/2 YB^1/2 moe:experts=8,top=2`;
    - `ffn-moe:experts=8,top=2`: dense feed-forward networks as experts, other layers dense.

    Raises:
        StructureError: saying what is wrong, the rule, and what to write instead.

    >>> print(parse_layer("btt-moe:experts=16,top=2"))
    XA^1/2 XAB^1/2 YB^1/2 YAB^1/2 moe:experts=16,top=2
    """
    return read_structure(text).layer


def read_structure(text: str, sizes: dict[str, str] | None = None, *, block_diagonal: bool = False) -> NamedStructure:
    """Like `parse_structure`, keeping the dimensions that whole einsum sizes fix."""
    text = text.strip()
    if not text or len(text) > _MAX_LENGTH:
        raise StructureError(
            f"the text of a structure has {len(text)} characters: it must have 1 to {_MAX_LENGTH}",
            remedy="write for example btt:r=2",
        )
    if is_mixture(text):
        return _read_mixture(text, sizes, block_diagonal)
    if "->" in text:
        return parse_einsum(text, sizes, block_diagonal=block_diagonal)
    if sizes:
        raise StructureError(
            f"sizes were given for {text[:80]!r}: only einsum equations take them", remedy="leave --sizes out"
        )
    if "|" in text or re.fullmatch(r"[0-9./,\s()]+", text):
        return NamedStructure(parse_theta(text))
    first = text.split()[0]
    if re.fullmatch(r"[A-Z]{2,}(?:[\^=].*)?", first) or re.fullmatch(r"[^\W0-9_a-z]{2,}(?:[\^=].*)?", first):
        return NamedStructure(parse_carriers(text, block_diagonal=block_diagonal))
    return NamedStructure(parse_family(text))


def _read_mixture(text: str, sizes: dict[str, str] | None, block_diagonal: bool) -> NamedStructure:
    expert, experts, top, feed_forward = split_mixture(text)
    found = read_structure(expert, sizes, block_diagonal=block_diagonal)
    if found.mixture is not None:
        raise StructureError(
            f"{text[:80]!r} has experts within experts: an expert is a plain structure",
            remedy="write 'moe' once",
        )
    return replace(found, mixture=MixtureOfExperts(found.structure, experts, top, feed_forward))


def notations(structure: Structure, d_in: int, d_out: int) -> dict[str, str | None]:
    """A structure in every notation; None for a notation that cannot express it.

    >>> notations(parse_structure("monarch:blocks=4"), 1024, 1024)["einsum"]
    '...ba,abd,bcd->...cd; a=1/4*d, b=4, c=1/4*d, d=4'
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
