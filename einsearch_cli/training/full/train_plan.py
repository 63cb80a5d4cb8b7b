"""The costs of a full run and its speed on this machine, before it starts."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Final

import torch

from einsearch_cli.data.tokens import TokenData
from einsearch_cli.machine import memory_bytes
from einsearch_cli.models.transformer import Accelerator, Estimate, TransformerConfig, estimate
from einsearch_cli.training.full.network import Network
from einsearch_cli.training.full.phases import Phases, phases_of
from einsearch_cli.training.full.train_spec import TrainSpec
from einsearch_cli.training.full.world import World
from einsearch_cli.training.update import GuideStep

_WEIGHT_AND_GRADIENT: Final = 2 * 4
"""Bytes of a parameter and its gradient in float32."""
_MOST_TIMED_FLOPS: Final = 5e12
"""Training FLOPs of the largest step that is timed on a CPU: a minute at 100 GFLOP/s."""


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """The costs of a run before it starts."""

    spec: TrainSpec
    config: TransformerConfig
    phases: Phases
    flops: int
    """Training FLOPs of the run, without embeddings and head."""
    total_flops: int
    """Training FLOPs of the run."""
    dense_total_flops: int
    """Training FLOPs of the dense model on the tokens that are not repetitions."""

    @property
    def tokens(self) -> int:
        """Tokens of the run; repeated tokens count again."""
        return self.phases.steps * self.phases.tokens_per_step

    def estimate_on(self, device: Accelerator, devices: int = 1) -> Estimate:
        """Memory and time on an accelerator; with guides, if the run ever has guides."""
        spec = self.spec
        rows = max(1, spec.batch // spec.accumulation // devices)
        again = self.flops // 3 if spec.recompute else 0
        return estimate(
            self.config,
            device,
            tokens=self.tokens,
            batch=rows,
            precision=spec.precision,
            recompute=spec.recompute,
            devices=devices,
            shards=devices if spec.parallel == "fsdp" else 1,
            extra_params=self.phases.guide_params,
            state_bytes=self.phases.state_bytes,
            flops=float(self.total_flops + again),
        )


def plan_run(spec: TrainSpec, vocabulary: int) -> TrainPlan:
    """The plan of a run on data with `vocabulary` distinct tokens; nothing is allocated.

    Raises:
        SpecError, SizeError, LayerError: a network or guide that is not possible.
    """
    config = spec.config(vocabulary)
    phases = phases_of(spec, config)
    flops = phases.flops_before(phases.steps)
    return TrainPlan(
        spec=spec,
        config=config,
        phases=phases,
        flops=flops,
        total_flops=flops + phases.steps * phases.head_flops,
        dense_total_flops=spec.base_steps * (phases.dense_flops + phases.head_flops),
    )


def probe_seconds(plan: TrainPlan, data: TokenData, world: World, steps: int = 3) -> float | None:
    """The seconds that the steps of a run will take here, from a few steps; None if it is too large to try.

    Validation and saving are left out.
    """
    phases = plan.phases
    needed = _WEIGHT_AND_GRADIENT * (phases.params + phases.guide_params) + phases.state_bytes
    available = memory_bytes(world.device)
    if available is not None and needed > 0.8 * available:
        return None
    if world.device.type == "cpu" and plan.total_flops > _MOST_TIMED_FLOPS * phases.steps:
        return None
    plain_s = _step_seconds(plan, data, world, None, steps)
    if not phases.guided_steps:
        return phases.steps * plain_s
    guided_s = _step_seconds(plan, data, world, GuideStep(weight=0.5, evaluate=True), steps)
    evaluated = (plan.flops - phases.steps * phases.body_flops) // phases.guide_flops
    return (phases.steps - evaluated) * plain_s + evaluated * guided_s


def _step_seconds(plan: TrainPlan, data: TokenData, world: World, guide: GuideStep | None, steps: int) -> float:
    """The median of a few steps after a warm-up step."""
    with torch.random.fork_rng(devices=[]):
        network = Network(plan.spec, plan.config, world, guided=guide is not None)
    sampler = data.sampler(
        block=plan.config.context, batch=plan.spec.batch, seed=0, rank=world.rank, world_size=world.size
    )
    times_s = []
    for step in range(steps + 1):
        started_s = time.perf_counter()
        network.step(sampler.batch_at(step), guide, 1.0)
        times_s.append(time.perf_counter() - started_s)
    return statistics.median(times_s[1:])
