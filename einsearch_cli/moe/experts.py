"""The matrices of the experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.autocast import autocast_dtype, cast
from einsearch_cli.layers.execution.autograd import execute
from einsearch_cli.layers.execution.scaling import reference_scale
from einsearch_cli.layers.feature_orders import OrderedModule, sized_for
from einsearch_cli.moe.grouped import (
    EachExpert,
    can_be_grouped,
    contract_each,
    contract_experts,
    contract_in_groups,
)
from einsearch_cli.moe.grouping import Groups
from einsearch_cli.structures import FeatureOrder, Structure

_WEIGHT = "weight"


class NoWeight(nn.Module):
    """A module without a weight; assigning or registering one raises an error.

    >>> from einsearch_cli.moe import StructuredMoE
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
        """Register a parameter; a `weight`, or what tools store instead of it, is refused."""
        if name.startswith(_WEIGHT):  # `weight_orig`, `weight_g`
            self._refuse(name)
        super().register_parameter(name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register a buffer; a `weight`, or what tools store instead of it, is refused."""
        if name.startswith(_WEIGHT):
            self._refuse(name)
        super().register_buffer(name, tensor, persistent)

    def _refuse(self, name: str) -> None:
        raise LayerError(
            f"{name!r} of {type(self).__name__}: a layer of experts has no weight, and no call would use this one",
            remedy="change the factors of the experts: the parameters with `factors` in their names",
        )


class Experts(NoWeight, OrderedModule):
    """Many matrices of one structure; each row of the input is multiplied by that of its expert.

    Factors are stored as (experts, batch, fan_in, fan_out). The index of the expert is one more batch index. So fan-in,
    fan-out, initial deviation, cap and learning rate are those of a single `EinsumLinear`, whose plan every expert
    follows. Arguments and errors are those of `EinsumLinear`, plus the number of experts.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        structure: Structure,
        experts: int,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        order: FeatureOrder | str | None = None,
    ) -> None:
        super().__init__()
        self.experts = experts
        sized = sized_for(structure, in_features, out_features, order)
        self._hold(sized, device, dtype or torch.get_default_dtype(), (experts,))
        self.reset_parameters()

    def forward(self, rows: Tensor, groups: Groups) -> Tensor:
        """Map rows sorted by expert, (rows, padded_in), to (rows, padded_out)."""
        factors = self._factors()
        if rows.is_cpu:
            rows, *factors = cast(autocast_dtype(rows), rows, *factors)
            y: Tensor = execute(EachExpert(self.plan, groups.sizes()), rows, self.gain, None, *factors)
            return y
        scales_E = reference_scale(self.gain, factors, self.plan.limits)
        rows, *factors = cast(autocast_dtype(rows), rows, *factors)
        # The meta device serves the counter of FLOPs, which does not know grouped_mm.
        if rows.dtype is torch.bfloat16 and not rows.is_meta and can_be_grouped(self.plan, rows):
            return contract_in_groups(self.plan, rows, groups.ends_E, scales_E, factors)
        return contract_each(self.plan, rows, groups.sizes(), scales_E, factors)

    def plain_forward(self, rows_ERF: Tensor) -> Tensor:
        """Multiply separate rows for every expert, (E, R, padded_in), to (E, R, padded_out), independently of values.

        The operations are such that torch differentiates, traces and transforms them itself, on any device.
        """
        factors = self._factors()
        scales_E = reference_scale(self.gain, factors, self.plan.limits)
        rows_ERF, *factors = cast(autocast_dtype(rows_ERF), rows_ERF, *factors)
        return torch.stack(contract_experts(self.plan, rows_ERF.unbind(), range(self.experts), scales_E, factors))

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"structure={str(self.structure)!r}, experts={self.experts}{self._order_shown()}"
        )
