"""Partially chosen structures: arrays of them, and their completion by one block of bonds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from einsearch_cli.structures.grid import Numbers
from einsearch_cli.structures.index_classes import IndexClasses
from einsearch_cli.taxonomy.linear_forms import FormValues

_COLUMNS = ("inputs", "outputs", "bonds", "needs", "symmetric", "values_FP")
"""The arrays of `Partial`; the last axis of each counts the structures."""


@dataclass(frozen=True, slots=True)
class Partial:
    """Structures with both sides and some of their bonds chosen. Axes: F linear forms, P structures."""

    inputs: Numbers
    outputs: Numbers
    bonds: Numbers
    needs: Numbers
    """Bit k is set if need k of `IndexClasses.needs` is met."""
    symmetric: NDArray[np.bool_]
    """Whether a renaming leaves both sides as they are."""
    values_FP: FormValues
    share: float
    """The share of the whole search that is done with these."""

    def __len__(self) -> int:
        return len(self.inputs)

    def only(self, chosen: NDArray[np.bool_]) -> Partial:
        """Some of the structures; they take over the share of those left out."""
        if chosen.all():
            return self
        return self._pick(chosen, self.share)

    def rows(self, start: int, stop: int) -> Partial:
        """Consecutive structures with their part of the share."""
        stop = min(stop, len(self))
        return self._pick(slice(start, stop), self.share * (stop - start) / len(self))

    def _pick(self, chosen: Any, share: float) -> Partial:
        return replace(self, share=share, **{name: getattr(self, name)[..., chosen] for name in _COLUMNS})

    def times(self, block: Block) -> Partial:
        """Each structure with every combination of a block's bonds."""
        values, forms = len(block.bonds_K), self.values_FP.shape[0]
        return Partial(
            np.repeat(self.inputs, values),
            np.repeat(self.outputs, values),
            (self.bonds[:, None] + block.bonds_K).ravel(),
            (self.needs[:, None] | block.needs_K).ravel(),
            np.repeat(self.symmetric, values),
            (self.values_FP[:, :, None] + block.values_FK[:, None, :]).reshape(forms, -1),
            self.share,
        )


@dataclass(frozen=True, slots=True)
class Block:
    """Bonds that are chosen together: K combinations of their values."""

    bonds_K: Numbers
    needs_K: Numbers
    values_FK: FormValues


def joined(parts: list[Partial]) -> Partial:
    """Join several arrays of partial structures into one."""
    if len(parts) == 1:
        return parts[0]
    columns = {name: np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in _COLUMNS}
    return replace(parts[0], share=sum(part.share for part in parts), **columns)


def needs_met(classes: IndexClasses, rows: NDArray[Any], masks: tuple[int, ...]) -> Numbers:
    """A bit mask per row: bit k is set if a class that need k lists has an exponent. The columns of `rows` are `masks`."""
    met = np.zeros(len(rows), dtype=np.int64)
    for k, need in enumerate(classes.needs):
        columns = [column for column, mask in enumerate(masks) if mask in need]
        met |= rows[:, columns].any(axis=1).astype(np.int64) << k
    return met
