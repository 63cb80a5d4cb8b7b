"""A dense matrix as a tensor with one axis for every index of input and output, in a layer's own order."""

from __future__ import annotations

import torch
from torch import Tensor

from einsearch_cli.layers.einsum_linear import EinsumLinear


class Target:
    """What the product of a layer's factors is to come near to.

    Entries that exist only because of padding are free: the layer never uses
    them, so `filled` takes what the factors give there.
    """

    def __init__(self, layer: EinsumLinear, weight: Tensor) -> None:
        sized = self.sized = layer.sized
        self.axes = tuple(c for c, _ in sized.sizes if set(c) & set("XY"))
        self._inputs, self._outputs = (
            [c for c in sized.carriers_of(tensor) if c not in order] + list(order)
            for tensor, order in (("X", layer.plan.input_order), ("Y", layer.plan.output_order))
        )
        rows, columns = sized.padded_out - layer.out_features, sized.padded_in - layer.in_features
        self.values = self._by_index(torch.nn.functional.pad(weight, (0, columns, 0, rows)))
        self._known: Tensor | None = None
        if rows or columns:
            known = torch.nn.functional.pad(torch.ones_like(weight), (0, columns, 0, rows))
            self._known = self._by_index(known).bool()

    @property
    def has_free_entries(self) -> bool:
        return self._known is not None

    def filled(self, product: Tensor) -> Tensor:
        """The target, with the entries of a product of factors where it is free."""
        return self.values if self._known is None else torch.where(self._known, self.values, product)

    def _by_index(self, weight: Tensor) -> Tensor:
        """(padded_out, padded_in) to the axes; of an index that X and Y share, the diagonal."""
        letters = self.sized.letters
        shape = [self.sized.size(c) for c in (*self._outputs, *self._inputs)]
        separate = "".join(letters[c] for c in (*self._outputs, *self._inputs))
        return torch.einsum(f"{separate}->{''.join(letters[c] for c in self.axes)}", weight.reshape(shape))
