"""Networks with whole sizes as structures."""

from __future__ import annotations

from einsearch_cli.structures import NamedStructure
from einsearch_cli.structures.einsum_notation import parse_einsum

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def spec_of(sizes: dict[str, int]) -> NamedStructure:
    """The structure with exactly these sizes, read from an einsum equation."""
    letter = dict(zip(sizes, LETTERS, strict=False))
    factors = sorted(set("".join(sizes)) - {"X", "Y"})
    operands = ["".join(letter[c] for c in sizes if tensor in c) for tensor in ["X", *factors, "Y"]]
    equation = f"{','.join(operands[:-1])}->{operands[-1]}"
    return parse_einsum(equation, {letter[c]: str(size) for c, size in sizes.items()})
