"""The normal form on arrays: the number of the point as which a structure is named."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from einsearch_cli.structures.compositions import Numbers
from einsearch_cli.structures.grid import Grid
from einsearch_cli.structures.index_classes import Renaming
from einsearch_cli.taxonomy.linear_forms import LinearForms
from einsearch_cli.taxonomy.partial import Partial


class CanonicalNames:
    """Names factors in the cheapest order of meeting the activation; ties go to the smallest θ."""

    def __init__(self, grid: Grid, forms: LinearForms) -> None:
        self._grid = grid
        self._forms = forms

    def of(self, found: Partial) -> Numbers:
        """Numbers of the normal forms."""
        return self._smallest(found, found.inputs, found.outputs, reverse=False)

    def of_transposes(self, found: Partial) -> Numbers:
        """Numbers of the normal forms of the transposed matrices.

        An order of the factors costs a transpose what the reverse costs the structure.
        """
        inputs, outputs = self._grid.transposed_sides(found.inputs, found.outputs)
        return self._smallest(found, inputs, outputs, reverse=True)

    def among(self, found: Partial, names: Numbers, renamings: list[Renaming]) -> NDArray[np.bool_]:
        """Whether one of the renamings leads to the name."""
        own = np.zeros(len(found), dtype=bool)
        for renaming in renamings:
            own |= self._renamed(found.inputs, found.outputs, found.bonds, renaming) == names
        return own

    def _smallest(self, found: Partial, inputs: Numbers, outputs: Numbers, reverse: bool) -> Numbers:
        cheapest = self._forms.cheapest(found.values_FP, self._forms.orders)
        names = np.full(len(found), np.iinfo(np.int64).max)
        last = self._grid.classes.factors - 1
        for renaming in self._grid.classes.renamings:
            order = tuple(last - new for new in renaming) if reverse else renaming
            rows = np.flatnonzero(self._forms.cost(found.values_FP, order) == cheapest)
            there = self._renamed(inputs[rows], outputs[rows], found.bonds[rows], renaming)
            names[rows] = np.minimum(names[rows], there)
        return names

    def _renamed(self, inputs: Numbers, outputs: Numbers, bonds: Numbers, renaming: Renaming) -> Numbers:
        return self._grid.number(
            self._grid.renamed_inputs[renaming][inputs],
            self._grid.renamed_outputs[renaming][outputs],
            self._grid.renamed_bonds(bonds, renaming),
        )
