"""AdamW: Loshchilov and Hutter 2019 (arXiv 1711.05101)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from einsearch_cli.training.optimizers import OptimizerKind, register

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from einsearch_cli.models import StructuredNetwork
    from einsearch_cli.training.flat_update import FlatAdamW, FlatLayout
    from einsearch_cli.training.groups import Group, Options
    from einsearch_cli.training.optimizers import UpdateSettings


class AdamW(OptimizerKind):
    """`torch.optim.AdamW`, fused, with the learning rates of spectral muP."""

    name = "adamw"
    state_names = ("exp_avg", "exp_avg_sq", "step")
    least_state_bytes = 2 * 4
    has_flat_steps = True

    def options(
        self, model: StructuredNetwork, *, base_width: int, learning_rate: float, weight_decay: float
    ) -> dict[str, Options]:
        """Learning rates by `StructuredNetwork.learning_rate_multipliers`, and weight decay."""
        from einsearch_cli.training.groups import parameter_options

        multipliers = model.learning_rate_multipliers(base_width)
        return parameter_options(model, multipliers, learning_rate=learning_rate, weight_decay=weight_decay)

    def make(self, groups: Sequence[Group], settings: UpdateSettings) -> Optimizer:
        """AdamW with the fused step, one kernel for a group."""
        import torch

        return torch.optim.AdamW(groups, betas=(settings.beta1, settings.beta2), fused=True)

    def flat_steps(
        self, layout: FlatLayout, values_RP: Tensor, options: Sequence[Mapping[str, Options]], settings: UpdateSettings
    ) -> FlatAdamW:
        """On a CPU, the same kernel called for every run and group; on a GPU, one update for all of them at once."""
        from einsearch_cli.training.flat_update import FlatAdamW, JointAdamW

        betas, kind = (settings.beta1, settings.beta2), FlatAdamW if values_RP.is_cpu else JointAdamW
        return kind(layout, values_RP, options, betas=betas, clip_norm=settings.clip_norm)


register(AdamW())
