"""Layers of experts refuse a parameter named `weight`: they have none, so no call would use it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from einsearch_cli.errors import LayerError

_WEIGHT = "weight"


class NoWeight(nn.Module):
    """A module without a weight, which raises an error where one is assigned or registered.

    >>> from einsearch_cli.layers import StructuredMoE
    >>> StructuredMoE(16, 16, "btt-moe:experts=2,top=1").weight = 0  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    einsearch_cli.errors.LayerError: 'weight' of StructuredMoE: a layer of experts has no weight, ...
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name == _WEIGHT:
            self._refuse(name)
        super().__setattr__(name, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter; a `weight`, or what tools store in its place, is refused."""
        if name.startswith(_WEIGHT):  # `weight_orig`, `weight_g`
            self._refuse(name)
        super().register_parameter(name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register a buffer; a `weight`, or what tools store in its place, is refused."""
        if name.startswith(_WEIGHT):
            self._refuse(name)
        super().register_buffer(name, tensor, persistent)

    def _refuse(self, name: str) -> None:
        raise LayerError(
            f"{name!r} of {type(self).__name__}: a layer of experts has no weight, and no call would use this one",
            remedy="change the factors of the experts: the parameters with `factors` in their names",
        )
