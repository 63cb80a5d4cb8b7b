"""The taxonomy of structures with free exponents: ω, ψ, ν, parameters and FLOPs as formulas.

Every number of the taxonomy is made of sums of exponents by minima and maxima, so it is piecewise linear in the
letters. Exact linear programs leave out whatever never matters within the range of the letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import TYPE_CHECKING

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.families import family_of
from einsearch_cli.structures.free_exponents import FreeStructure
from einsearch_cli.structures.linear_expression import UNIT, ZERO, Linear
from einsearch_cli.structures.polytope import Polytope
from einsearch_cli.taxonomy.exponents import Cut, cuts, in_step
from einsearch_cli.taxonomy.piecewise_linear import MaxMin, largest_of, smallest_of, without_dominated

if TYPE_CHECKING:
    import sympy

MAX_FREE_FACTORS = 4
"""The most factors for which formulas are worked out: 5 have 120 orders, and their formulas are unreadable."""


@dataclass(frozen=True)
class FreeTaxonomy:
    """ω, ψ, ν, parameters and FLOPs of a structure, in its letters and the dimension d.

    The formulas hold for d_in = d_out = d wherever all exponents are positive. Where an exponent becomes 0, a factor
    may be absorbed by another one, and ω and ν can be smaller than the formulas say.

    >>> from einsearch_cli.structures.free_exponents import parse_free_structure
    >>> found = FreeTaxonomy(parse_free_structure("XA^1 AB^r YB^1"))
    >>> found.omega, found.psi, found.nu, found.params
    (0, r, r, 2*d**(r + 1))
    """

    free: FreeStructure

    def __post_init__(self) -> None:
        if len(self.free.factors) > MAX_FREE_FACTORS:
            raise StructureError(
                f"{str(self.free)[:80]!r} has {len(self.free.factors)} factors: formulas are worked out for up to "
                f"{MAX_FREE_FACTORS}",
                remedy="give numbers as exponents",
            )

    @property
    def family(self) -> str:
        """The family of the structure inside the range."""
        inside = self.free.domain.inside
        return family_of(self.free.at(inside or {}))

    @cached_property
    def orders(self) -> tuple[tuple[Linear, ...], ...]:
        """The steps of the orders in which the factors can meet the activation, without orders that are never best."""
        found = {tuple(sorted(self._steps(order), key=str)): None for order in permutations(self.free.factors)}
        return without_dominated(list(found), self.free.domain)

    def _steps(self, order: Sequence[str]) -> list[Linear]:
        return [self._sum(in_step(self._exponents, order[: i + 1], last, order)) for i, last in enumerate(order)]

    @cached_property
    def _exponents(self) -> dict[str, Linear]:
        return dict(self.free.indices)

    def _sum(self, indices: Iterable[str]) -> Linear:
        """The sum of the exponents of all these indices."""
        return sum((self._exponents[carriers] for carriers in indices), ZERO)

    @cached_property
    def factor_sizes(self) -> tuple[Linear, ...]:
        return tuple(self._sum(c for c in self._exponents if factor in c) for factor in self.free.factors)

    @cached_property
    def cuts(self) -> tuple[tuple[Cut, Linear], ...]:
        """Cuts that limit the rank somewhere in the range, each with its exponent."""
        found: dict[Linear, Cut] = {}
        for cut in cuts(self.free):
            found.setdefault(self._sum(cut.indices), cut)
        return tuple((found[e], e) for e in smallest_of([*found, UNIT], self.free.domain) if e in found)

    @cached_property
    def psi(self) -> sympy.Expr:
        """The rank exponent ψ: the rank grows as d^ψ."""
        return MaxMin.smallest([exponent for _, exponent in self.cuts]).sympy()

    @cached_property
    def nu(self) -> sympy.Expr:
        """The compute exponent ν: FLOPs per token grow as d^(1+ν)."""
        return MaxMin.best_of(self.orders, [UNIT], self.free.domain).sympy()

    @cached_property
    def omega(self) -> sympy.Expr:
        """The parameter sharing ω: FLOPs per parameter grow as d^ω."""
        return MaxMin.best_of(self.orders, self.factor_sizes, self.free.domain).sympy()

    @cached_property
    def parameter_exponent(self) -> sympy.Expr:
        return MaxMin.largest(largest_of(self.factor_sizes, self.free.domain)).sympy()

    @cached_property
    def params(self) -> sympy.Expr:
        """Parameters of a d × d layer."""
        return _powers(self.factor_sizes)

    @cached_property
    def flops_per_token(self) -> sympy.Expr:
        """FLOPs per token of a d × d layer in the best order."""
        import sympy

        return 2 * sympy.Min(*(_powers(steps) for steps in self.orders))

    @property
    def range_text(self) -> tuple[str, ...]:
        """The inequalities of the letters, such as `0 <= a <= 1` and `a + b <= 1`."""
        return range_text(self.free.domain)

    def to_json(self) -> dict[str, object]:
        """The formulas as one JSON object; sympy reads the texts."""
        return {
            "structure": self.free.to_json(),
            "symbols": list(self.free.symbols),
            "range": list(self.range_text),
            "family": self.family,
            "omega": str(self.omega),
            "psi": str(self.psi),
            "nu": str(self.nu),
            "parameter_exponent": str(self.parameter_exponent),
            "params": str(self.params),
            "flops_per_token": str(self.flops_per_token),
            "cuts": [{"cut": str(cut), "exponent": str(exponent)} for cut, exponent in self.cuts],
        }


def _powers(exponents: Iterable[Linear]) -> sympy.Expr:
    import sympy

    d = sympy.Symbol("d", positive=True)
    return sympy.Add(*(d ** MaxMin.largest([exponent]).sympy() for exponent in exponents))


def range_text(domain: Polytope) -> tuple[str, ...]:
    """The bounds that do not follow from others; the bounds of one letter are joined."""
    lower: dict[str, str] = {}
    upper: dict[str, str] = {}
    others: list[str] = []
    for bound in domain.irredundant():
        if len(bound.terms) > 1:
            others.append(_inequality(bound))
            continue
        [(symbol, coefficient)] = bound.terms
        (lower if coefficient > 0 else upper)[symbol] = str(-bound.constant / coefficient)
    single = []
    for symbol in sorted(lower.keys() | upper.keys()):
        left = f"{lower[symbol]} <= " if symbol in lower else ""
        single.append(left + symbol + (f" <= {upper[symbol]}" if symbol in upper else ""))
    return (*single, *others)


def _inequality(bound: Linear) -> str:
    """A bound as an inequality: `a + b <= 1` for 1 - a - b."""
    letters = Linear.of(0, dict(bound.terms))
    if all(coefficient < 0 for _, coefficient in bound.terms):
        return f"{ZERO - letters} <= {bound.constant}"
    return f"{letters} >= {-bound.constant}"
