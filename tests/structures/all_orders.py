"""The slow route: every order of the factors, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import permutations

from einsearch_cli.structures.extent import ONE
from einsearch_cli.structures.normal_form import FACTOR_LETTERS, Carriers, Extents, carrier_classes, factors_of


def step_exponents(exponents: Mapping[Carriers, Fraction], order: tuple[str, ...]) -> Iterator[Fraction]:
    """Sum of the exponents of all indices present in each step.

    An index is present in a step if the activation has it (from X or an earlier factor) or the factor has it, and if a
    later factor or Y needs it.
    """
    met = {"X"}
    for position, factor in enumerate(order):
        waiting = {"Y", *order[position:]}
        met.add(factor)
        yield sum((e for carriers, e in exponents.items() if carriers & met and carriers & waiting), Fraction(0))


def largest_step(exponents: Mapping[Carriers, Fraction], order: tuple[str, ...]) -> Fraction:
    return max(step_exponents(exponents, order))


def named_by_trying_all_orders(extents: Extents) -> Extents:
    """The naming by the cheapest order with the smallest θ, written out with a number for every class."""
    factors = factors_of(extents)
    exponents = {carriers: extent.exponent for carriers, extent in extents.items()}
    orders = list(permutations(factors))
    cheapest = min(largest_step(exponents, order) for order in orders)
    classes = list(carrier_classes(len(factors), block_diagonal=True))

    def renamed(order: tuple[str, ...]) -> Extents:
        names = dict(zip(order, FACTOR_LETTERS, strict=False)) | {"X": "X", "Y": "Y"}
        return {frozenset(names[t] for t in carriers): extent for carriers, extent in extents.items()}

    def theta(extents: Extents) -> list[tuple[Fraction, Fraction]]:
        return [(extent.exponent, extent.coefficient) for extent in (extents.get(c, ONE) for c in classes)]

    candidates = [renamed(order) for order in orders if largest_step(exponents, order) == cheapest]
    return min(candidates, key=theta)
