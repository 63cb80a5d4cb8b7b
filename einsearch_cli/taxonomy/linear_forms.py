"""The taxonomy on arrays: cuts, steps and factor sums as sums of chosen exponents.

Axes in this file: F forms, C index classes, P points. All numbers are whole
q-ths; the definitions are those of `taxonomy_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from einsearch_cli.structures.index_classes import IndexClasses, Renaming

Values = NDArray[Any]
Step = tuple[int, int]
"""The set of factors that have met the activation, and the one that meets it now."""


@dataclass(frozen=True)
class LinearForms:
    """Which index classes every cut, step and factor sums up.

    A cut is a set of factors on the side of X. An index is present in a step if
    the activation has it (it came with X or an earlier factor) or the factor
    has it, and someone still needs it.
    """

    classes: IndexClasses

    @cached_property
    def cuts(self) -> tuple[int, ...]:
        """Sets of factors on the side of X; those of none and of all factors are cut at the whole dimension."""
        return tuple(range(1, 2**self.classes.factors - 1))

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        factors = range(self.classes.factors)
        return tuple((met, f) for met in range(2**self.classes.factors) for f in factors if not met >> f & 1)

    @cached_property
    def step_rows(self) -> dict[Step, int]:
        return {step: len(self.cuts) + k for k, step in enumerate(self.steps)}

    @cached_property
    def factor_rows(self) -> tuple[int, ...]:
        first = len(self.cuts) + len(self.steps)
        return tuple(range(first, first + self.classes.factors))

    @cached_property
    def matrix_FC(self) -> NDArray[np.bool_]:
        """Which classes each form sums up, columns in the order of the θ vector."""
        everything = 2**self.classes.factors - 1
        rows = [[self._between(carriers, cut, everything & ~cut) for carriers in self._columns] for cut in self.cuts]
        rows += [
            [self._between(carriers, met | 1 << f, everything & ~met) for carriers in self._columns]
            for met, f in self.steps
        ]
        rows += [[bool(mask >> f & 1) for _, _, mask in self._columns] for f in range(self.classes.factors)]
        return np.array(rows, dtype=bool)

    @cached_property
    def _columns(self) -> list[tuple[bool, bool, int]]:
        """(carried by X, carried by Y, set of factors) of every class."""
        ends = ((True, True), (True, False), (False, True), (False, False))
        return [(x, y, mask) for (x, y), masks in zip(ends, self.classes.groups, strict=True) for mask in masks]

    @staticmethod
    def _between(carriers: tuple[bool, bool, int], left: int, right: int) -> bool:
        """Whether an index has a carrier among X and `left`, and one among Y and `right`."""
        x, y, mask = carriers
        return (x or bool(mask & left)) and (y or bool(mask & right))

    def cheapest(self, values_FP: Values) -> Values:
        """The largest step of the best order in which the factors meet the activation."""
        best = {0: np.zeros(values_FP.shape[1], dtype=values_FP.dtype)}
        for step, row in self.step_rows.items():
            met, factor = step
            after = met | 1 << factor
            cost = np.maximum(best[met], values_FP[row])
            best[after] = np.minimum(best[after], cost) if after in best else cost
        return best[2**self.classes.factors - 1]

    def cost(self, values_FP: Values, renaming: Renaming) -> Values:
        """The largest step of the order in which the factors get their names under a renaming."""
        met, found = 0, np.zeros(values_FP.shape[1], dtype=values_FP.dtype)
        for factor in sorted(range(self.classes.factors), key=lambda f: renaming[f]):
            found = np.maximum(found, values_FP[self.step_rows[met, factor]])
            met |= 1 << factor
        return found

    def taxonomy(self, values_FP: Values, one: int) -> tuple[Values, Values, Values]:
        """ω, ψ and ν, where `one` stands for the exponent 1.

        >>> forms = LinearForms(IndexClasses(2))
        >>> monarch = forms.matrix_FC.astype(int) @ np.array([[2, 0, 2, 0, 2, 2, 0]]).T
        >>> [int(number[0]) for number in forms.taxonomy(monarch, 4)]
        [0, 4, 2]
        """
        largest = self.cheapest(values_FP)
        params = values_FP[list(self.factor_rows)].max(axis=0)
        psi = values_FP[: len(self.cuts)].min(axis=0, initial=one)
        return largest - params, psi, largest - one


def taxonomy_of_points(points_PC: Values, classes: IndexClasses, one: int) -> tuple[Values, Values, Values]:
    """ω, ψ and ν of every point, whose exponents are whole numbers with `one` for the exponent 1."""
    forms = LinearForms(classes)
    return forms.taxonomy(forms.matrix_FC.astype(np.int64) @ points_PC.astype(np.int64).T, one)
