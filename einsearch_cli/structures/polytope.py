"""Exact questions about a range of letters, such as whether one linear expression is at most another on all of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from einsearch_cli.structures.linear_expression import UNIT, Linear

Point = dict[str, Fraction]
_SLACK = "slack"
"""A letter that occurs in no expression, since its name is longer than one character."""


@dataclass(frozen=True)
class Polytope:
    """All points where some linear expressions are ≥ 0, with a point where none of them is 0.

    Linear programs over it are solved in rational numbers, so answers are exact. They start at the inner point, so no
    first phase is needed.
    """

    bounds: tuple[Linear, ...]
    inside: Point | None
    """A point where all bounds are positive; None if there is none."""

    @classmethod
    def of(cls, bounds: Iterable[Linear]) -> Polytope:
        """The points where all `bounds` are ≥ 0; bounds that are constants ≥ 0 change nothing."""
        kept = tuple(dict.fromkeys(b for b in bounds if b.terms or b.constant < 0))
        symbols = sorted({symbol for bound in kept for symbol in bound.symbols})
        slack, point = _widest(kept, dict.fromkeys(symbols, Fraction(0)))
        return cls(kept, point if slack > 0 else None)

    def within(self, bounds: Iterable[Linear]) -> Polytope:
        """The part of this range where further expressions are ≥ 0."""
        return Polytope.of((*self.bounds, *bounds))

    def largest(self, expression: Linear) -> Fraction:
        """The largest value of an expression that is bounded on the range, which must have an inner point."""
        if self.inside is None:
            raise ValueError("a polytope without inside has no largest value")
        return maximise(expression, self.bounds, self.inside)[0]

    def never_above(self, left: Linear, right: Linear) -> bool:
        """Whether left ≤ right everywhere."""
        difference = left - right
        return difference.constant <= 0 if difference.is_constant else self.largest(difference) <= 0

    def irredundant(self) -> tuple[Linear, ...]:
        """The bounds without those that follow from the others."""
        kept = list(self.bounds)
        for bound in self.bounds:
            others = [other for other in kept if other != bound]
            # Allowing the bound to be broken by up to 1 keeps the program bounded.
            relaxed = [*others, bound + UNIT]
            if self.inside is not None and maximise(bound.times(Fraction(-1)), relaxed, self.inside)[0] <= 0:
                kept = others
        return tuple(kept)


def _widest(bounds: Sequence[Linear], start: Point) -> tuple[Fraction, Point]:
    """The point where the smallest of `bounds`, counted up to 1, is largest; the search may start anywhere."""
    slack = Linear.of(0, {_SLACK: Fraction(1)})
    begin = min((bound.at(start) for bound in bounds), default=Fraction(1))
    first = {**start, _SLACK: min(begin, Fraction(1))}
    best, found = maximise(slack, [*(bound - slack for bound in bounds), UNIT - slack], first)
    return best, {symbol: value for symbol, value in found.items() if symbol != _SLACK}


def maximise(objective: Linear, bounds: Sequence[Linear], start: Point) -> tuple[Fraction, Point]:
    """The largest value of `objective` where all `bounds` are ≥ 0, and where it is taken.

    The simplex method in rational numbers, with Bland's rule, which cannot
    cycle. `start` must satisfy the bounds, and the objective must be bounded.

    >>> from einsearch_cli.structures.linear_expression import parse_linear as p
    >>> value, point = maximise(p("a + b"), [p("1 - a"), p("2 - a - 2*b"), p("a"), p("b")], {"a": 0, "b": 0})
    >>> value == Fraction(3, 2), point == {"a": 1, "b": Fraction(1, 2)}
    (True, True)
    """
    symbols = list(start)
    # Every symbol is start + up - down with up, down ≥ 0; rows say slack = right side - row · variables ≥ 0.
    rows = [[*_row(bound, symbols, sign=-1), bound.at(start)] for bound in bounds]
    goal = [*_row(objective, symbols, sign=1), Fraction(0)]
    count = 2 * len(symbols)
    basis = list(range(count, count + len(rows)))
    columns = list(range(count))
    while (
        entering := next((j for j in sorted(range(count), key=columns.__getitem__) if goal[j] > 0), None)
    ) is not None:
        leaving = _leaving(rows, basis, entering)
        _pivot(rows, goal, leaving, entering)
        basis[leaving], columns[entering] = columns[entering], basis[leaving]
    values = dict(zip(basis, (row[-1] for row in rows), strict=True))
    point = {
        s: start[s] + values.get(2 * i, Fraction(0)) - values.get(2 * i + 1, Fraction(0)) for i, s in enumerate(symbols)
    }
    return objective.at(point), point


def _row(expression: Linear, symbols: Sequence[str], sign: int) -> list[Fraction]:
    coefficients = dict(expression.terms)
    return [sign * direction * coefficients.get(symbol, Fraction(0)) for symbol in symbols for direction in (1, -1)]


def _leaving(rows: Sequence[Sequence[Fraction]], basis: Sequence[int], entering: int) -> int:
    """The row that first stops the entering variable; ties go to the smallest variable."""
    limits = [(row[-1] / row[entering], basis[i], i) for i, row in enumerate(rows) if row[entering] > 0]
    return min(limits)[2]


def _pivot(rows: list[list[Fraction]], goal: list[Fraction], leaving: int, entering: int) -> None:
    """Exchange a variable of the basis for one outside it, in place."""
    pivot = rows[leaving]
    scale = 1 / pivot[entering]
    new = [value * scale for value in pivot]
    new[entering] = scale
    rows[leaving] = new
    for row in [*(r for i, r in enumerate(rows) if i != leaving), goal]:
        factor = row[entering]
        if factor:
            row[:] = [value - factor * other for value, other in zip(row, new, strict=True)]
            row[entering] = -factor * scale
