"""How parameters, rank and compute grow with the dimension: ω, ψ and ν.

All exponents are exact and hold for d_in = d_out = d → ∞. Indices of fixed
size do not grow and count as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import combinations
from typing import Protocol, TypeVar

from einsearch_cli.structures.normal_form import Carriers
from einsearch_cli.structures.structure import Structure

Cost = TypeVar("Cost")
Index = TypeVar("Index", str, Carriers)
"""A carrier set, as text or as a set."""


class Network(Protocol):
    """A structure, with numbers or letters as exponents: its factors, and its carrier sets with their exponents."""

    @property
    def factors(self) -> tuple[str, ...]: ...
    @property
    def indices(self) -> tuple[tuple[str, object], ...]: ...


@dataclass(frozen=True, slots=True)
class Cut:
    """A split of the tensors with X on one side and Y on the other.

    The rank of the matrix is at most the product of the sizes of the indices
    with carriers on both sides.
    """

    input_side: tuple[str, ...]
    output_side: tuple[str, ...]
    indices: tuple[str, ...]
    """Carrier sets that cross the cut."""

    def __str__(self) -> str:
        crossing = ", ".join(self.indices) or "nothing"
        return f"{' '.join(self.input_side)} | {' '.join(self.output_side)} through {crossing}"


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """The three numbers that place a structure (Potapczynski et al. 2024, "A Taxonomy of the Space of Einsum Linear Structures").

    >>> from einsearch_cli.structures import parse_structure
    >>> str(taxonomy_of(parse_structure("low-rank")).psi)
    '1/2'
    """

    omega: Fraction
    """Parameter sharing: FLOPs per parameter grow as d^ω; 0 means that every FLOP uses its own parameter."""
    psi: Fraction
    """Rank grows as d^ψ; 1 is full rank."""
    nu: Fraction
    """FLOPs per token grow as d^(1+ν); dense is 1."""
    parameter_exponent: Fraction
    """Parameters grow as d^n."""
    cut: Cut
    """The cut that limits the rank; if several do, the one nearest to the input."""


def taxonomy_of(structure: Structure) -> Taxonomy:
    """ω, ψ and ν by their general definitions, for any number of factors.

    ψ is the smallest cut between X and Y, n the largest factor, 1 + ν the
    largest step of the best order in which the factors meet the activation.

    >>> from einsearch_cli.structures import parse_structure
    >>> wrong_order = taxonomy_of(parse_structure("(1/3|2/3|0|3/4|1/4|0|0)"))
    >>> str(wrong_order.psi), str(wrong_order.nu), str(wrong_order.omega)
    ('7/12', '1/3', '1/4')
    """
    exponents = structure.exponents
    factors = structure.factors
    n = max(sum((e for c, e in exponents.items() if f in c), Fraction(0)) for f in factors)
    largest = smallest_largest_step(exponents, factors)
    cut = minimum_cut(structure)
    psi = min(Fraction(1), cut_exponent(cut, exponents))
    return Taxonomy(omega=largest - n, psi=psi, nu=largest - 1, parameter_exponent=n, cut=cut)


def smallest_largest_step(exponents: Mapping[Carriers, Fraction], factors: tuple[str, ...]) -> Fraction:
    """The largest step of the best order in which the factors meet the activation."""

    def after(largest: Fraction, met: frozenset[str], last: str) -> Fraction:
        present = in_step(exponents, met, last, factors)
        return max(largest, sum((exponents[carriers] for carriers in present), Fraction(0)))

    return best_order(factors, Fraction(0), after)[0]


def best_order(
    factors: tuple[str, ...], nothing: Cost, after: Callable[[Cost, frozenset[str], str], Cost]
) -> tuple[Cost, tuple[str, ...]]:
    """The cheapest order in which the factors meet the activation, and its cost.

    The cost of a step depends on which factors were met before it, not on their order. So the best way to each set of
    factors is found from smaller sets.

    Args:
        factors: in alphabetical order, which breaks ties.
        nothing: cost before the first step.
        after: cost after one more step, from the cost before it, the factors met with it, and the last of them.
    """
    best: dict[frozenset[str], tuple[Cost, tuple[str, ...]]] = {frozenset(): (nothing, ())}
    for size in range(1, len(factors) + 1):
        for chosen in map(frozenset, combinations(factors, size)):
            ways = ((best[chosen - {last}], last) for last in chosen)
            best[chosen] = min((after(cost, chosen, last), (*order, last)) for (cost, order), last in ways)
    return best[frozenset(factors)]


def in_step(indices: Iterable[Index], met: Iterable[str], last: str, factors: Iterable[str]) -> list[Index]:
    """The indices present when the last of the factors met so far meets the activation.

    The activation or this factor holds them, and Y, this factor or a later one still needs them.
    """
    held = {"X", *met}
    waiting = {"Y", last, *factors} - (held - {last})
    return [index for index in indices if not held.isdisjoint(index) and not waiting.isdisjoint(index)]


def minimum_cut(structure: Structure) -> Cut:
    """The cut that limits the rank as d → ∞; if several do, the one nearest to the input.

    >>> from einsearch_cli.structures import parse_structure
    >>> str(minimum_cut(parse_structure("low-rank")))
    'X A | B Y through AB'
    """
    exponents = structure.exponents
    return min(cuts(structure), key=lambda cut: cut_exponent(cut, exponents))


@lru_cache(maxsize=64)
def cuts(structure: Network) -> tuple[Cut, ...]:
    """All 2^N splits of the factors, from X alone to X with every factor."""
    factors, found = structure.factors, []
    indices = [(carriers, frozenset(carriers)) for carriers, _ in structure.indices]
    for size in range(len(factors) + 1):
        for inside in combinations(factors, size):
            left = {"X", *inside}
            others = (*(factor for factor in factors if factor not in left), "Y")
            crossing = tuple(text for text, tensors in indices if tensors & left and tensors - left)
            found.append(Cut(("X", *inside), others, crossing))
    return tuple(found)


def cut_exponent(cut: Cut, exponents: Mapping[Carriers, Fraction]) -> Fraction:
    """The exponent of the product of the sizes that cross the cut."""
    return sum((exponents[frozenset(carriers)] for carriers in cut.indices), Fraction(0))
