"""The rules of packing: which runs train as one program, and how their layers multiply in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import nn

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.plans.planner import dense_route
from einsearch_cli.structures import MixtureOfExperts
from einsearch_cli.training.optimizers import find_optimizer
from einsearch_cli.training.proxy.run_settings import ProxyRun

MOST_NUMBERS: Final = 131_072
"""Width times tokens of a batch: with more, products take so long that little is gained by sparing the calls around them.

Milliseconds of a step on one core, by the layers' own passes and as a program of three runs, per run; 512 samples of the teacher
and 1024 tokens of text on an EPYC, the teacher on a Xeon (Sapphire Rapids):

    task                   teacher, EPYC                   text, EPYC                     teacher, Xeon
    width          48          128         256         32         128         160         256         384
    dense      1.3 / 0.5   2.9 / 2.3   8.6 / 8.3   9.8 / 8.8  51 / 49     4.6 / 3.1   9.2 / 7.6  15.5 / 14.9
    monarch    2.1 / 0.6   3.3 / 2.5   3.5 / 4.4  14.0 / 9.1  39 / 40     4.8 / 3.9   6.2 / 5.7   9.3 / 9.4
    low-rank   1.5 / 0.5   2.3 / 1.6   3.0 / 2.3  10.5 / 8.6  31 / 34     3.4 / 1.7   4.6 / 3.0   7.7 / 5.5
    btt:r=2                                                               5.8 / 3.9   9.7 / 7.6  12.9 / 13.6
"""

_FORMED: Final = 128 * 128
"""Largest matrix that is formed from factors that meet in batches. Forming and contracting take 0.8 and 1.7 ms of such a
step for Monarch at width 64, 2.4 and 2.6 at 128, 7.8 and 4.3 at 256 (EPYC)."""
_FORMED_COSTLY: Final = 256 * 256
"""Largest matrix that is formed where the factors take a quarter of the matrix's FLOPs or more: 6.8 and 12.5 ms for tt:r=4
at 256, 7.6 and 8.8 for btt:r=2 (Xeon)."""
_COSTLY: Final = 0.25
_FORMED_PLAIN: Final = 48 * 48
"""Largest matrix that is formed from factors that are plain matrices: 0.4 and 0.7 ms for low-rank at width 48, 0.8 and 0.7
at 64 (EPYC)."""

_WIDTHS: Final = 4
"""Widths of runs that are packed are multiples of this: the square matrix of each run then begins at a cache line of 16 numbers.
Elsewhere MKL rounds products of the second run otherwise than those of the first, as `program` says."""


def trains_as_program(run: ProxyRun) -> bool:
    """Whether a run trains as a program, alone or with others; equal for runs that differ in seed and learning rate.

    The way of tokens through a mixture of experts depends on data, which a fixed program cannot follow. On a GPU, a
    program is faster at any width.
    """
    is_small = run.width * run.task.tokens_per_batch <= MOST_NUMBERS or run.device != "cpu"
    has_flat_steps = find_optimizer(run.optimizer.name).has_flat_steps
    return is_small and has_flat_steps and not isinstance(run.structure, MixtureOfExperts)


def packs_of(runs: Sequence[ProxyRun]) -> list[list[int]]:
    """The numbers of the runs that train at once: all of them, or each alone."""
    numbers = list(range(len(runs)))
    is_packed = trains_as_program(runs[0]) and (runs[0].width % _WIDTHS == 0 or runs[0].device != "cpu")
    return [numbers] if is_packed else [[number] for number in numbers]


def fix_routes(model: nn.Module) -> None:
    """Fix how every structured layer multiplies in a program: by its formed matrix, or factor by factor."""
    for layer in model.modules():
        if isinstance(layer, EinsumLinear):
            size = layer.in_features * layer.out_features
            is_batched = any(step.is_batched for step in layer.plan.steps)
            is_costly = layer.flops_per_token >= _COSTLY * 2 * size
            largest = (_FORMED_COSTLY if is_costly else _FORMED) if is_batched else _FORMED_PLAIN
            route = dense_route(layer.sized) if size <= largest else None
            layer.route = None if route is None else route.text
