"""The factors of a layer as parameters."""

from __future__ import annotations

import torch
from torch import nn

from einsearch_cli.layers.plans.plan import Plan


def new_factors(
    plan: Plan, device: torch.device | str | int | None, dtype: torch.dtype, copies: tuple[int, ...] = ()
) -> nn.ParameterDict:
    """One parameter (*copies, batch, fan_in, fan_out) for every factor, by name; without values yet."""
    return nn.ParameterDict(
        {
            step.factor: nn.Parameter(torch.empty(*copies, *step.weight_shape, device=device, dtype=dtype))
            for step in sorted(plan.steps, key=lambda step: step.factor)
        }
    )


@torch.no_grad()
def draw_factors_(factors: nn.ParameterDict, plan: Plan) -> None:
    """Normal, each factor with the standard deviation of its role."""
    for role in plan.roles:
        nn.init.normal_(factors[role.factor], std=role.init_std)
