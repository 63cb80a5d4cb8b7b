"""The cost of a proxy run, known before its data exist, its network is built, or torch is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from einsearch_cli.errors import SizeError, SpecError
from einsearch_cli.machine import machine_bytes
from einsearch_cli.models.counts import NetworkCount
from einsearch_cli.structures import short_name
from einsearch_cli.training.optimizers import find_optimizer
from einsearch_cli.training.proxy.run_settings import ProxyRun

MINIMUM_STEPS: Final = 10
"""The fewest steps of a run; fewer say nothing about a structure."""

_MOST_TIMED_FLOPS: Final = 1e12
"""Training FLOPs of the largest step that is timed on a CPU: one core takes 10 to 50 seconds for it."""
_FLOAT: Final = 4
"""Bytes of a float32."""


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """The cost of a run, known before it starts."""

    steps: int
    """Number of optimizer updates that the budget pays for."""

    train_flops_per_step: int
    """FLOPs of the forward and backward pass by the structure's formula, without embeddings and head."""

    total_flops_per_step: int
    """FLOPs of the forward and backward pass, with embeddings and head."""

    params: int
    """Trainable numbers in the network."""


def minimal_budget(run: ProxyRun) -> int:
    """Training FLOPs of `MINIMUM_STEPS` steps, the smallest budget of a run.

    Raises:
        SizeError: the network is too large for the memory of this machine.
    """
    count = run.task.count(run.structure, run.width)
    _check_memory(run, count)
    return MINIMUM_STEPS * _flops_per_step(run, count)


def is_timed(run: ProxyRun) -> bool:
    """Whether steps of a run are timed on its device: on a CPU, the largest of a cluster's would take hours."""
    return run.device != "cpu" or _flops_per_step(run, run.task.count(run.structure, run.width)) <= _MOST_TIMED_FLOPS


def run_cost(run: ProxyRun) -> RunCost:
    """Steps and FLOPs of a run, without training it or allocating its network.

    Raises:
        SpecError: the budget pays for fewer than `MINIMUM_STEPS` steps; the message gives the least budget.
    """
    return cost_of(run, run.task.count(run.structure, run.width))


def _check_memory(run: ProxyRun, count: NetworkCount) -> None:
    """Raise SizeError if weights, gradients and the optimizer's state alone exceed the memory."""
    needed = (2 * _FLOAT + find_optimizer(run.optimizer.name).least_state_bytes) * count.params
    available = machine_bytes()
    if available is not None and needed > available:
        raise SizeError(
            f"training {short_name(run.structure)} at width {run.width} takes {needed:,} bytes for parameters, gradients and "
            f"moments: this machine has {available:,}",
            remedy="give narrower widths",
        )


def cost_of(run: ProxyRun, count: NetworkCount) -> RunCost:
    """Steps and FLOPs of a run whose network has this count.

    Raises:
        SpecError: as in `run_cost`.
    """
    per_step = _flops_per_step(run, count)
    if not run.budget_flops >= MINIMUM_STEPS * per_step or math.isinf(run.budget_flops):
        raise SpecError(
            f"a budget of {run.budget_flops:.3g} training FLOPs for structure {short_name(run.structure)} at width {run.width}: "
            f"a step costs {per_step:.3g}, and a run has at least {MINIMUM_STEPS} steps",
            remedy=f"give at least {MINIMUM_STEPS * per_step} FLOPs, or a smaller width",
        )
    return RunCost(
        steps=int(run.budget_flops // per_step),
        train_flops_per_step=per_step,
        total_flops_per_step=count.training.total * run.task.tokens_per_batch,
        params=count.params,
    )


def _flops_per_step(run: ProxyRun, count: NetworkCount) -> int:
    return count.training.body * run.task.tokens_per_batch
