"""Pairs of an input and an output side, one of each class under renaming of the factors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from einsearch_cli.structures.grid import Grid, Numbers
from einsearch_cli.structures.index_classes import IndexClasses, Renaming, renamed
from einsearch_cli.taxonomy.linear_forms import FormValues
from einsearch_cli.taxonomy.partial import Partial, needs_met


class SidePairs:
    """The pairs of sides of a grid whose exponents are within `low` and `high`.

    Two pairs are equal if a renaming in `group` takes one to the other; `group` holds the renamings that keep points
    within these limits. `weights_FC` gives what an exponent adds to every linear form.
    """

    def __init__(self, grid: Grid, low: NDArray[Any], high: NDArray[Any], weights_FC: FormValues) -> None:
        self.grid = grid
        self.group = renamings_within(grid.classes, low, high)
        self._low, self._high, self._weights_FC = low, high, weights_FC

    def __len__(self) -> int:
        return sum(len(inputs) * len(outputs) for inputs, outputs, _ in self._groups)

    def chunks(self, size: int) -> Iterator[Partial]:
        """All pairs, in chunks of about `size`."""
        for inputs, outputs, symmetric in self._groups:
            at_once = max(1, size // max(1, len(outputs)))
            for start in range(0, len(inputs) if len(outputs) else 0, at_once):
                some = inputs[start : start + at_once]
                for begin in range(0, len(outputs), size):
                    end = begin + size
                    yield self._product(some, outputs[begin:end], symmetric[begin:end])

    def _product(self, inputs: Numbers, outputs: Numbers, symmetric: NDArray[np.bool_]) -> Partial:
        i, j = np.repeat(inputs, len(outputs)), np.tile(outputs, len(inputs))
        return Partial(
            inputs=i,
            outputs=j,
            bonds=np.zeros(len(i), dtype=np.int64),
            needs=self._needs[0][i] | self._needs[1][j],
            symmetric=np.tile(symmetric, len(inputs)),
            values_FP=self._values[0][:, i] + self._values[1][:, j],
            share=len(i) / len(self),
        )

    @cached_property
    def _groups(self) -> list[tuple[Numbers, Numbers, NDArray[np.bool_]]]:
        """Groups of input sides, with the output sides that may follow them, and which of these keep a symmetry."""
        # Of each class of pairs, keep the one with the smallest input number, and among these the smallest output number.
        # A renaming that makes the input smaller rules the pair out; only renamings that leave the input unchanged have a
        # say about the output. So inputs fixed by the same renamings share one list of outputs. With three factors on a
        # grid of 1/4, 7,803 of 44,100 pairs remain.
        columns = self.grid.inputs.shape[1]
        inputs = np.flatnonzero(_within(self.grid.inputs, self._low[:columns], self._high[:columns]))
        after = np.array([self.grid.renamed_inputs[renaming][inputs] for renaming in self.group])
        smallest = (after >= inputs).all(axis=0)
        inputs, after = inputs[smallest], after[:, smallest]
        keys = np.concatenate([after == inputs, self.grid.filled[inputs][None, :]], axis=0)
        patterns, which = np.unique(keys, axis=1, return_inverse=True)
        return [
            (inputs[which.ravel() == k], *self._outputs(pattern[:-1].astype(bool), int(pattern[-1])))
            for k, pattern in enumerate(patterns.T)
        ]

    def _outputs(self, fixing: NDArray[np.bool_], total: int) -> tuple[Numbers, NDArray[np.bool_]]:
        """Output sides for inputs that the marked renamings leave unchanged, and which outputs are unchanged too."""
        first = self.grid.inputs.shape[1]
        last = first + self.grid.outputs.shape[1]
        rows = self.grid.output_rows[total]
        allowed = _within(self.grid.outputs[rows.start : rows.stop], self._low[first:last], self._high[first:last])
        outputs = np.arange(rows.start, rows.stop)[allowed]
        smallest = np.ones(len(outputs), dtype=bool)
        symmetric = np.zeros(len(outputs), dtype=bool)
        for renaming in (r for r, fixes in zip(self.group[1:], fixing[1:], strict=True) if fixes):
            after = self.grid.renamed_outputs[renaming][outputs]
            smallest &= after >= outputs
            symmetric |= after == outputs
        return outputs[smallest], symmetric[smallest]

    @cached_property
    def _values(self) -> tuple[FormValues, FormValues]:
        """The part of every linear form that comes from each input and output side."""
        first = self.grid.inputs.shape[1]
        last = first + self.grid.outputs.shape[1]
        weights_FC, dtype = self._weights_FC, self._weights_FC.dtype
        inputs, outputs = weights_FC[:, :first] @ self.grid.inputs.T, weights_FC[:, first:last] @ self.grid.outputs.T
        return inputs.astype(dtype), outputs.astype(dtype)

    @cached_property
    def _needs(self) -> tuple[Numbers, Numbers]:
        classes = self.grid.classes
        inputs = needs_met(classes, self.grid.inputs, (*classes.shared, *classes.sides))
        return inputs, needs_met(classes, self.grid.outputs, classes.sides)


def renamings_within(classes: IndexClasses, low: NDArray[Any], high: NDArray[Any]) -> list[Renaming]:
    """The renamings that take every point within the limits of the index classes to another such point."""
    places = [(group, mask) for group, masks in enumerate(classes.groups) for mask in masks]
    limits = dict(zip(places, zip(low.tolist(), high.tolist(), strict=True), strict=True))
    return [
        renaming
        for renaming in classes.renamings
        if all(limits[group, mask] == limits[group, renamed(mask, renaming)] for group, mask in places)
    ]


def _within(rows: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(((rows >= low) & (rows <= high)).all(axis=1))
