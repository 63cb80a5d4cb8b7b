"""ν over all contraction trees: factors may be multiplied with each other before they meet the activation.

T = d^τ tokens share a call. A step that holds the activation is done for every token. A step between factors is done
once per call, so per token it costs d^τ times less. The exponent of the FLOPs per token is the largest step, where a
step between factors of exponent s counts as s - τ:

    1 + ν_τ = min over trees of max(steps with x, steps between factors - τ)

ν_τ falls with τ, from ν_0 ≤ ν (one token) to at most 1, since for many tokens
forming W costs nothing and one dense product is left. ω_τ = 1 + ν_τ - n may be
negative: then W is cheaper to apply than its factors are to read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

from einsearch_cli.structures.structure import Structure
from einsearch_cli.taxonomy.costs import is_carried
from einsearch_cli.taxonomy.exponents import taxonomy_of

TensorSet = frozenset[str]


@dataclass(frozen=True, slots=True)
class TreeTaxonomy:
    """ν and ω for the best contraction tree.

    >>> from einsearch_cli.structures import parse_structure
    >>> merged = tree_taxonomy(parse_structure("btt:r=d"), Fraction(1))
    >>> str(merged.nu), str(merged.omega), merged.tree
    ('1', '-1/2', 'x(AB)')
    """

    token_exponent: Fraction
    """The exponent τ: T = d^τ tokens share a call."""
    nu: Fraction
    omega: Fraction
    tree: str
    """The tree with the fewest products of factors, such as `(xA)B`; `x(AB)` multiplies them first."""

    def to_json(self) -> dict[str, str]:
        return {
            "token_exponent": str(self.token_exponent),
            "nu": str(self.nu),
            "omega": str(self.omega),
            "tree": self.tree,
        }


@dataclass(frozen=True, slots=True, order=True)
class _Way:
    """The best way to the product of some tensors: the cheapest, then the fewest products of factors, then by text."""

    largest: Fraction
    merges: int
    text: str


def tree_taxonomy(structure: Structure, token_exponent: Fraction) -> TreeTaxonomy:
    """The taxonomy over all contraction trees for T = d^τ tokens.

    The best tree of a set of tensors is made of the best trees of two parts, so
    it is found from smaller sets. `LinearForms` does the same on arrays.
    """
    names = ("X", *structure.factors)
    exponents = list(structure.exponents.items())
    # A single tensor costs less than any step.
    best = {frozenset({name}): _Way(-token_exponent - 1, 0, "x" if name == "X" else name) for name in names}
    for whole, splits in _products(names):
        candidates = []
        for left, right in splits:
            present = (e for c, e in exponents if is_carried(c, left) or is_carried(c, right))
            step = sum(present, Fraction(0))
            merges = "X" not in whole
            step -= token_exponent if merges else 0
            a, b = best[left], best[right]
            text = "".join(way.text if len(way.text) == 1 else f"({way.text})" for way in (a, b))
            candidates.append(_Way(max(step, a.largest, b.largest), a.merges + b.merges + merges, text))
        best[whole] = min(candidates)
    found = best[frozenset(names)]
    n = taxonomy_of(structure).parameter_exponent
    return TreeTaxonomy(token_exponent, found.largest - 1, found.largest - n, found.text)


def _products(names: Sequence[str]) -> Iterator[tuple[TensorSet, list[tuple[TensorSet, TensorSet]]]]:
    """All sets of two tensors or more, the smaller ones first, each with its splits into two parts."""
    for size in range(2, len(names) + 1):
        for chosen in combinations(names, size):
            rest = chosen[1:]
            lefts = (frozenset({chosen[0], *more}) for k in range(len(rest)) for more in combinations(rest, k))
            whole = frozenset(chosen)
            yield whole, [(left, whole - left) for left in lefts]
