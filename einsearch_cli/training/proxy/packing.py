"""Which runs train as a program, several at once, and how their layers multiply there: the rules, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import nn

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.plans.planner import dense_route
from einsearch_cli.structures import MixtureOfExperts
from einsearch_cli.training.optimizers import find_optimizer
from einsearch_cli.training.proxy.run_settings import ProxyRun

MOST_NUMBERS: Final = 65_536
"""Width times tokens of a batch: with more, products take so long that nothing is gained by sparing the calls around them.

Milliseconds of a step on one core of an EPYC, by the layers' own passes and as a program of three runs, per run:

    task                    teacher, 512 samples                    text, 1024 tokens
    width          48          64          128         256          32         64         128
    dense      1.3 / 0.5   1.6 / 0.8   2.9 / 2.3   8.6 / 8.3    9.8 / 8.8  21 / 18    51 / 49
    monarch    2.1 / 0.6   2.4 / 0.9   3.3 / 2.5   3.5 / 4.4   14.0 / 9.1  24 / 19    39 / 40
    low-rank   1.5 / 0.5   1.8 / 0.7   2.3 / 1.6   3.0 / 2.3   10.5 / 8.6  18 / 15    31 / 34
"""

_FORMED: Final = 128 * 128
"""Largest matrix that is formed from factors that meet in batches. Forming and contracting take 0.8 and 1.7 ms of such a
step for Monarch at width 64, 2.4 and 2.6 at 128, 7.8 and 4.3 at 256."""
_FORMED_PLAIN: Final = 48 * 48
"""The same for factors that are plain matrices: 0.4 and 0.7 ms for low-rank at width 48, 0.8 and 0.7 at 64."""

_WIDTHS: Final = 4
"""Widths of runs that are packed are multiples of this: the square matrix of each run then begins at a cache line of 16 numbers.
Elsewhere MKL rounds products of the second run otherwise than those of the first, as `program` says."""


def trains_as_program(run: ProxyRun) -> bool:
    """Whether a run trains as a program, alone or with others; equal for runs that differ in seed and learning rate.

    Where the tokens go through a mixture of experts depends on data, which no fixed program does.
    """
    is_small = run.width * run.task.tokens_per_batch <= MOST_NUMBERS
    has_flat_steps = find_optimizer(run.optimizer.name).has_flat_steps
    return is_small and has_flat_steps and not isinstance(run.structure, MixtureOfExperts)


def packs_of(runs: Sequence[ProxyRun]) -> list[list[int]]:
    """The numbers of runs that train at once: all of them, or each alone."""
    numbers = list(range(len(runs)))
    is_packed = trains_as_program(runs[0]) and runs[0].width % _WIDTHS == 0
    return [numbers] if is_packed else [[number] for number in numbers]


def fix_routes(model: nn.Module) -> None:
    """Let every structured layer multiply as is fastest in a program: by its formed matrix, or factor by factor."""
    for layer in model.modules():
        if isinstance(layer, EinsumLinear):
            is_batched = any(step.is_batched for step in layer.plan.steps)
            largest = _FORMED if is_batched else _FORMED_PLAIN
            route = dense_route(layer.sized) if layer.in_features * layer.out_features <= largest else None
            layer.route = None if route is None else route.text
