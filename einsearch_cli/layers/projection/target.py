"""A dense matrix as a tensor with one axis for every index of input and output, in an order of features."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from einsearch_cli.sizing import SizedStructure

_NOISE = 1e-13
"""Part of the squared norm below which a difference of squares is none."""


class Target:
    """What the product of a structure's factors is to come near to.

    Entries that exist only because of padding are free: a layer never uses
    them, so `filled` takes what the factors give there.

    Args:
        sized: with the order in which the features of the matrix count.
        weight: (d_out, d_in).
    """

    def __init__(self, sized: SizedStructure, weight: Tensor) -> None:
        self.sized = sized
        self.axes = tuple(c for c, _ in sized.sizes if set(c) & set("XY") and set(c) - set("XY"))
        self.copies = sized.size("XY")
        """Along an index that no factor carries the matrix is the same again and again; `values` are the means."""
        rows, columns = sized.padded_out - sized.d_out, sized.padded_in - sized.d_in
        counts = self._by_index(torch.nn.functional.pad(torch.ones_like(weight), (0, columns, 0, rows)))
        self.values = self._by_index(torch.nn.functional.pad(weight, (0, columns, 0, rows))) / counts.clamp_min(1)
        self._known = counts > 0 if rows or columns else None
        outside = weight.square().sum().item() - (counts * self.values.square()).sum().item()
        self._outside = outside if outside > _NOISE * weight.square().sum().item() else 0.0

    @property
    def has_free_entries(self) -> bool:
        return self._known is not None

    def filled(self, product: Tensor) -> Tensor:
        """The target, with the entries of a product of factors where it is free."""
        return self.values if self._known is None else torch.where(self._known, self.values, product)

    def distance(self, product: Tensor) -> float:
        """From the dense matrix to the matrix of a product, what lies outside of all blocks included."""
        inside = (self.filled(product) - product).square().sum().item()
        return math.sqrt(self._outside + self.copies * inside)

    def _by_index(self, weight: Tensor) -> Tensor:
        """(padded_out, padded_in) to the axes; of an index that X and Y share, the diagonal; without factors, summed."""
        letters, both = self.sized.letters, (*self.sized.features("Y"), *self.sized.features("X"))
        shape = [self.sized.size(c) for c in both]
        separate = "".join(letters[c] for c in both)
        return torch.einsum(f"{separate}->{''.join(letters[c] for c in self.axes)}", weight.reshape(shape))
