"""Minima and maxima of linear expressions on a range, in as few pieces as possible."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

from einsearch_cli.structures.linear_expression import Linear
from einsearch_cli.structures.polytope import Polytope

if TYPE_CHECKING:
    import sympy

MAX_CELLS = 300
"""The most parts of a range for which a formula without nested min and max is searched; a part takes 5 ms."""
Steps = tuple[Linear, ...]


@dataclass(frozen=True, slots=True)
class MaxMin:
    """The smallest of several maxima, minus another maximum: every formula of the taxonomy has this form."""

    least: tuple[Steps, ...]
    less: Steps = ()

    @classmethod
    def smallest(cls, expressions: Sequence[Linear]) -> MaxMin:
        return cls(tuple((expression,) for expression in expressions))

    @classmethod
    def largest(cls, expressions: Sequence[Linear]) -> MaxMin:
        return cls((tuple(expressions),))

    @classmethod
    def best_of(cls, orders: Sequence[Steps], less: Sequence[Linear], domain: Polytope) -> MaxMin:
        """The smallest over orders of their largest step, minus the largest of `less`; one min or max if that is equal."""
        steps = [largest_of(order, domain) for order in orders]
        sizes = largest_of(less, domain)
        cells = _cells(steps, sizes, domain)
        if cells is not None:
            forms = list(dict.fromkeys(form for form, _ in cells))
            if _is(cells, forms, lambda form, other, cell: cell.never_above(other, form)):
                return cls.largest(forms)
            if _is(cells, forms, lambda form, other, cell: cell.never_above(form, other)):
                return cls.smallest(forms)
        if len(sizes) == 1:
            return cls(tuple(tuple(step - sizes[0] for step in order) for order in steps))
        return cls(tuple(steps), sizes)

    def sympy(self) -> sympy.Expr:
        import sympy

        least = sympy.Min(*(sympy.Max(*map(_sympy, steps)) for steps in self.least))
        return least - sympy.Max(*map(_sympy, self.less)) if self.less else least


def _sympy(expression: Linear) -> sympy.Expr:
    import sympy

    terms = [sympy.Rational(k.numerator, k.denominator) * sympy.Symbol(s, real=True) for s, k in expression.terms]
    return sympy.Add(sympy.Rational(expression.constant.numerator, expression.constant.denominator), *terms)


def largest_of(expressions: Sequence[Linear], domain: Polytope) -> Steps:
    """Expressions that are the largest somewhere in the domain."""
    return _needed(expressions, lambda one, rest: _never_beats(one, rest, domain))


def smallest_of(expressions: Sequence[Linear], domain: Polytope) -> Steps:
    """Expressions that are the smallest somewhere in the domain."""
    return _needed(expressions, lambda one, rest: _never_beats(_negative(one), [_negative(r) for r in rest], domain))


def _negative(expression: Linear) -> Linear:
    return Linear.of(0) - expression


def _needed(expressions: Sequence[Linear], superfluous: Callable[[Linear, list[Linear]], bool]) -> Steps:
    kept = list(dict.fromkeys(expressions))
    for expression in list(kept):
        rest = [other for other in kept if other != expression]
        if rest and superfluous(expression, rest):
            kept = rest
    return tuple(kept)


def _never_beats(expression: Linear, rest: Sequence[Linear], domain: Polytope) -> bool:
    """Whether `expression` is nowhere larger than all the others on an open part of the range."""
    if any(domain.never_above(expression, other) for other in rest):
        return True
    return len(rest) > 1 and domain.within(expression - other for other in rest).inside is None


def without_dominated(orders: Sequence[Steps], domain: Polytope) -> tuple[Steps, ...]:
    """Orders that no other order beats: at every d, step by step, at most as expensive."""
    kept = list(orders)
    for order in orders:
        if any(_dominates(other, order, domain) for other in kept if other != order):
            kept.remove(order)
    return tuple(kept)


def _dominates(cheap: Steps, other: Steps, domain: Polytope) -> bool:
    """Whether the steps can be paired so that each of `cheap` never costs more than its partner."""
    below = [[domain.never_above(a, b) for b in other] for a in cheap]
    return any(all(below[i][j] for i, j in enumerate(pairing)) for pairing in permutations(range(len(other))))


Cells = list[tuple[Linear, Polytope]]


def _cells(orders: Sequence[Steps], less: Steps, domain: Polytope) -> Cells | None:
    """Parts of the range in which the value is one linear expression, or None if they are too many."""
    if math.prod(map(len, orders)) * len(orders) * len(less) > MAX_CELLS:
        return None
    found: Cells = []
    for position, steps in enumerate(orders):
        others = [other for i, other in enumerate(orders) if i != position]
        for step in steps:
            for size in less:
                bounds = [step - s for s in steps if s != step] + [size - s for s in less if s != size]
                found += [(step - size, cell) for cell in _where_best(step, others, domain.within(bounds))]
    return found


def _where_best(step: Linear, others: Sequence[Steps], cell: Polytope) -> Iterator[Polytope]:
    """The parts where every other order has some step that is at least as large."""
    if cell.inside is None:
        return
    if not others:
        yield cell
        return
    for larger in others[0]:
        yield from _where_best(step, others[1:], cell.within([larger - step]))


def _is(cells: Cells, forms: Sequence[Linear], compare: Callable[[Linear, Linear, Polytope], bool]) -> bool:
    """Whether, in every cell, its expression compares so with all the others."""
    return all(compare(form, other, cell) for form, cell in cells for other in forms if other != form)
