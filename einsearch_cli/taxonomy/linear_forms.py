"""The taxonomy on arrays: every cut, step and factor size is a sum of chosen exponents.

Axes in this file: F forms, C index classes, P points. All numbers are whole
q-ths; the definitions are those of `taxonomy_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from einsearch_cli.structures.index_classes import IndexClasses, Renaming
from einsearch_cli.taxonomy.limits import common_unit

FormValues = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Move:
    """One contraction of two tensors. A tensor is a set of factors, with or without the activation (see `LinearForms`)."""

    whole: int
    left: int
    right: int
    row: int
    """The linear form that sums the exponents present."""
    merges: bool
    """Whether the move multiplies factors only, which happens once per call."""


@dataclass(frozen=True)
class LinearForms:
    """The index classes that every cut, step and factor size sums.

    A cut is a set of factors on the side of X. An index is present in a step if the activation has it (from X or an
    earlier factor) or the factor has it, and if a later factor or Y needs it. With `tokens` there are also the steps of
    trees that multiply factors first (see `tree_taxonomy`). A set of factors is a bit mask; the bit after those of the
    factors stands for the activation.
    """

    classes: IndexClasses
    tokens: int | None = None
    """τ in the unit of the values; None if trees are not considered."""

    @classmethod
    def of(cls, classes: IndexClasses, unit: int, tokens: Fraction | None) -> LinearForms:
        """The forms of the classes, with τ in whole numbers of 1/unit.

        More tokens than the largest step make no difference: all steps between factors
        then cost less than the last one.
        """
        return cls(classes, None if tokens is None else min(int(tokens * unit), largest_value(classes, unit)))

    @cached_property
    def cuts(self) -> tuple[int, ...]:
        """Sets of factors on the side of X, without the empty and the full set, which cut at the whole dimension."""
        return tuple(range(1, self._everything))

    @cached_property
    def steps(self) -> tuple[tuple[int, int], ...]:
        """The set of factors that have met the activation, and the one that meets it now."""
        factors = range(self.classes.factors)
        return tuple((met, f) for met in range(2**self.classes.factors) for f in factors if not met >> f & 1)

    @cached_property
    def step_rows(self) -> dict[tuple[int, int], int]:
        return {step: len(self.cuts) + k for k, step in enumerate(self.steps)}

    @cached_property
    def factor_rows(self) -> tuple[int, ...]:
        first = len(self.cuts) + len(self.steps)
        return tuple(range(first, first + self.classes.factors))

    @cached_property
    def orders(self) -> tuple[Move, ...]:
        """All steps in which one factor meets the activation."""
        x = self._activation
        return tuple(Move(x | met | 1 << f, x | met, 1 << f, row, False) for (met, f), row in self.step_rows.items())

    @cached_property
    def ways(self) -> tuple[Move, ...]:
        """All moves that count for ν; moves that make smaller sets come first."""
        if self.tokens is None:
            return self.orders
        first = self.factor_rows[-1] + 1
        more = [Move(a | b, a, b, first + k, not a & self._activation) for k, (a, b) in enumerate(self._products)]
        return tuple(sorted((*self.orders, *more), key=lambda move: move.whole.bit_count()))

    @cached_property
    def _products(self) -> list[tuple[int, int]]:
        """Pairs of tensors that only trees contract: the activation or a factor with others, and a product of factors."""
        if self.tokens is None:
            return []
        groups = range(1, self._everything + 1)
        lefts = [
            (self._activation | met, group) for met in range(self._everything) for group in groups if not met & group
        ]
        merges = [(a, b) for b in groups for a in range(1, b) if not a & b]
        return [(left, group) for left, group in lefts if group.bit_count() > 1] + merges

    @cached_property
    def matrix_FC(self) -> NDArray[np.bool_]:
        """The classes that each form sums, columns in the order of the θ vector."""
        everything = self._everything
        rows = [[self._between(carriers, cut, everything & ~cut) for carriers in self._columns] for cut in self.cuts]
        rows += [
            [self._between(carriers, met | 1 << f, everything & ~met) for carriers in self._columns]
            for met, f in self.steps
        ]
        rows += [[bool(mask >> f & 1) for _, _, mask in self._columns] for f in range(self.classes.factors)]
        rows += [[self._has(a, c) or self._has(b, c) for c in self._columns] for a, b in self._products]
        return np.array(rows, dtype=bool)

    @property
    def _everything(self) -> int:
        return (1 << self.classes.factors) - 1

    @property
    def _activation(self) -> int:
        return self._everything + 1

    @cached_property
    def _columns(self) -> list[tuple[bool, bool, int]]:
        """For every class: whether X carries it, whether Y does, and its set of factors."""
        ends = ((True, True), (True, False), (False, True), (False, False))
        return [(x, y, mask) for (x, y), masks in zip(ends, self.classes.groups, strict=True) for mask in masks]

    @staticmethod
    def _between(carriers: tuple[bool, bool, int], left: int, right: int) -> bool:
        """Whether an index has a carrier among X and `left`, and one among Y and `right`."""
        x, y, mask = carriers
        return (x or bool(mask & left)) and (y or bool(mask & right))

    def _has(self, tensor: int, carriers: tuple[bool, bool, int]) -> bool:
        """Whether a product of tensors has an index: it has a carrier inside and one outside."""
        x, y, mask = carriers
        inside = tensor & self._everything
        if tensor & self._activation:
            return self._between(carriers, inside, self._everything & ~inside)
        return bool(mask & inside) and (x or y or bool(mask & ~inside))

    def cheapest(self, values_FP: FormValues, moves: tuple[Move, ...]) -> FormValues:
        """The largest step of the best way to contract everything."""
        best: dict[int, FormValues] = {}
        for move in moves:
            cost = values_FP[move.row] - (self.tokens or 0) if move.merges else values_FP[move.row]
            for part in (move.left, move.right):
                cost = np.maximum(cost, best[part]) if part in best else cost
            best[move.whole] = np.minimum(best[move.whole], cost) if move.whole in best else cost
        return best[self._activation | self._everything]

    def cost(self, values_FP: FormValues, renaming: Renaming) -> FormValues:
        """The largest step of the order in which the factors get their names under a renaming."""
        met, found = 0, np.zeros(values_FP.shape[1], dtype=values_FP.dtype)
        for factor in sorted(range(self.classes.factors), key=lambda f: renaming[f]):
            found = np.maximum(found, values_FP[self.step_rows[met, factor]])
            met |= 1 << factor
        return found

    def taxonomy(self, values_FP: FormValues, one: int) -> tuple[FormValues, FormValues, FormValues]:
        """ω, ψ and ν, where `one` stands for the exponent 1.

        >>> forms = LinearForms(IndexClasses(2))
        >>> monarch = forms.matrix_FC.astype(int) @ np.array([[2, 0, 2, 0, 2, 2, 0]]).T
        >>> [int(number[0]) for number in forms.taxonomy(monarch, 4)]
        [0, 4, 2]
        """
        largest = self.cheapest(values_FP, self.ways)
        params = values_FP[list(self.factor_rows)].max(axis=0)
        psi = values_FP[: len(self.cuts)].min(axis=0, initial=one)
        return largest - params, psi, largest - one


def largest_value(classes: IndexClasses, one: int) -> int:
    """An upper bound of all forms: no exponent is larger than 1, and the exponents of a side sum to 1."""
    return (2 + len(classes.bonds)) * one


def taxonomy_of_points(
    points_PC: FormValues, classes: IndexClasses, one: int, tokens: Fraction | None = None
) -> tuple[FormValues, FormValues, FormValues]:
    """ω, ψ and ν of every point in units of 1/`common_unit(one, tokens)`; exponents are in units of 1/one."""
    unit = common_unit(one, tokens)
    forms = LinearForms.of(classes, unit, tokens)
    return forms.taxonomy(forms.matrix_FC.astype(np.int64) @ points_PC.astype(np.int64).T * (unit // one), unit)
