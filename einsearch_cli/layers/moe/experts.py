"""The matrices of the experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from einsearch_cli.layers.autocast import autocast_dtype, cast
from einsearch_cli.layers.factors import draw_factors_, new_factors
from einsearch_cli.layers.feature_orders import OrderedModule, sized_for
from einsearch_cli.layers.memory import check_allocation
from einsearch_cli.layers.moe.expert_scales import expert_scales, fast_expert_scales
from einsearch_cli.layers.moe.grouped import (
    can_be_grouped,
    contract_each,
    contract_each_in_chunks,
    contract_experts,
    contract_in_groups,
)
from einsearch_cli.layers.moe.grouping import Groups
from einsearch_cli.layers.moe.no_weight import NoWeight
from einsearch_cli.layers.plans.planner import stored_plan
from einsearch_cli.structures import FeatureOrder, Structure


class Experts(NoWeight, OrderedModule):
    """Many matrices of one structure; each row of the input meets that of its expert.

    Factors are stored as (experts, batch, fan_in, fan_out). The index of the expert is one
    more batch index: fan-in, fan-out, initial deviation, cap and learning rate are those of
    a single `EinsumLinear`, whose plan every expert follows.

    Args:
        in_features: width of a row.
        out_features: width of the result.
        structure: of every expert.
        experts: how many there are.
        device: where the parameters live.
        dtype: a floating dtype, torch's default one if None.
        order: of the features, as of `EinsumLinear`.

    Raises:
        SizeError: if the structure does not fit the widths, or the parameters of all
            experts do not fit the memory of the device.
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
        dtype = dtype or torch.get_default_dtype()
        self.in_features = in_features
        self.out_features = out_features
        self.structure = structure
        self.experts = experts
        self.sized = sized_for(structure, in_features, out_features, order)
        check_allocation(self.sized, device, dtype, copies=experts)
        self.plan = stored_plan(self.sized)
        self.factors = new_factors(self.plan, device, dtype, copies=(experts,))
        self._stds = tuple(role.init_std for role in self.plan.roles)
        self.gain = nn.Parameter(torch.empty(experts, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the factors anew, each expert's like those of an `EinsumLinear`; gains one."""
        draw_factors_(self.factors, self.plan)
        nn.init.ones_(self.gain)

    @torch.no_grad()
    def zero_last_factor_(self) -> None:
        """Make all matrices zero by the factors that meet last."""
        nn.init.zeros_(self.factors[self.plan.steps[-1].factor])

    def learning_rate_multipliers(self) -> dict[str, float]:
        """Adam learning rates of the factors relative to the muP rate of a dense layer, by parameter name."""
        return {
            f"factors.{role.factor}": self.in_features / role.fan_in / len(self.plan.roles)
            for role in sorted(self.plan.roles, key=lambda role: role.factor)
        }

    def forward(self, rows: Tensor, groups: Groups) -> Tensor:
        """(rows, padded_in), sorted by expert, to (rows, padded_out)."""
        factors = [self.factors[step.factor] for step in self.plan.steps]
        on_cpu = rows.device.type == "cpu"
        scales_E = (fast_expert_scales if on_cpu else expert_scales)(self.gain, factors, self._stds)
        rows, *factors = cast(autocast_dtype(rows), rows, *factors)
        if on_cpu:
            return contract_each_in_chunks(self.plan, rows, groups.sizes(), scales_E, factors)
        # The counter of FLOPs, which is what the meta device is for, does not know grouped_mm.
        if rows.dtype is torch.bfloat16 and not rows.is_meta and can_be_grouped(self.plan, rows):
            return contract_in_groups(self.plan, self.sized, rows, groups.ends_E, scales_E, factors)
        return contract_each(self.plan, rows, groups.sizes(), scales_E, factors)

    def plain_forward(self, rows_ERF: Tensor) -> Tensor:
        """Every expert on rows of its own, (E, R, padded_in) to (E, R, padded_out), whatever their values are.

        In operations that torch differentiates, traces and transforms by itself, on any device.
        """
        factors = [self.factors[step.factor] for step in self.plan.steps]
        scales_E = expert_scales(self.gain, factors, self._stds)
        rows_ERF, *factors = cast(autocast_dtype(rows_ERF), rows_ERF, *factors)
        return torch.stack(contract_experts(self.plan, rows_ERF.unbind(), range(self.experts), scales_E, factors))

    def padded(self, x: Tensor) -> Tensor:
        """Features padded with zeros to the product of the sizes of the input indices."""
        padding = self.sized.padded_in - self.in_features
        return functional.pad(x, (0, padding)) if padding else x

    def cut(self, y: Tensor) -> Tensor:
        """The features without the padding of the output."""
        return y[..., : self.out_features] if self.sized.padded_out > self.out_features else y

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are without the plan, which all layers of one structure share."""
        return {**self.__dict__, "plan": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "plan": stored_plan(state["sized"])})  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"structure={str(self.structure)!r}, experts={self.experts}{self._order_shown()}"
        )
