"""How parameters, rank and compute grow with the dimension: ω, ψ and ν.

All exponents are exact and hold for d_in = d_out = d → ∞. Indices of fixed
size do not grow and count as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, combinations, permutations

from einsearch_cli.structures.normal_form import Carriers, largest_step, text_of_carriers
from einsearch_cli.structures.structure import Structure


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
    """Parameter sharing: FLOPs per parameter grow as d^ω. 0 spends every FLOP on its own parameter."""
    psi: Fraction
    """Rank grows as d^ψ; 1 is full rank."""
    nu: Fraction
    """FLOPs per token grow as d^(1+ν); dense is 1."""
    parameter_exponent: Fraction
    """Parameters grow as d^n."""
    cut: Cut
    """The cut that limits the rank; where several do, the one nearest to the input."""


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
    largest = min(largest_step(exponents, order) for order in permutations(factors))
    cut = min(cuts(structure), key=lambda cut: cut_exponent(cut, exponents))
    psi = min(Fraction(1), cut_exponent(cut, exponents))
    return Taxonomy(omega=largest - n, psi=psi, nu=largest - 1, parameter_exponent=n, cut=cut)


def cuts(structure: Structure) -> Iterator[Cut]:
    """All 2^N splits of the factors, from X alone to X with every factor."""
    factors = structure.factors
    carriers = [frozenset(text) for text, _ in structure.indices]
    for inside in chain.from_iterable(combinations(factors, size) for size in range(len(factors) + 1)):
        left = {"X", *inside}
        right = {"Y", *factors} - left
        crossing = tuple(text_of_carriers(c) for c in carriers if c & left and c & right)
        yield Cut(("X", *inside), (*(f for f in factors if f not in inside), "Y"), crossing)


def cut_exponent(cut: Cut, exponents: Mapping[Carriers, Fraction]) -> Fraction:
    """The exponent of the product of the sizes that cross the cut."""
    return sum((exponents[frozenset(carriers)] for carriers in cut.indices), Fraction(0))
