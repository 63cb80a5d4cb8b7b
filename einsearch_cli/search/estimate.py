"""What a study will cost, said before it starts."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch

from einsearch_cli.data import AnyTask
from einsearch_cli.errors import DivergedError
from einsearch_cli.search.halving import rung_budgets
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.search.study import planned_counts
from einsearch_cli.structures import Structure
from einsearch_cli.training import ProxyRun, RunCost, plan_run, seconds_per_step

PROBE_TIME_S = 10.0
"""Probing stops after this long; the rest is taken to run at the mean speed of what was probed."""


@dataclass(frozen=True, slots=True)
class RungEstimate:
    """One rung of the plan."""

    rung: int
    budget_flops: float
    structures: int
    runs: int
    seconds: float
    """Wall time of the rung on all workers, if no run fails; nan if no step could be timed."""


@dataclass(frozen=True, slots=True)
class StudyEstimate:
    """The plan of a study with its cost."""

    rungs: tuple[RungEstimate, ...]

    @property
    def runs(self) -> int:
        return sum(rung.runs for rung in self.rungs)

    @property
    def train_flops(self) -> float:
        return sum(rung.runs * rung.budget_flops for rung in self.rungs)

    @property
    def seconds(self) -> float:
        return sum(rung.seconds for rung in self.rungs)

    def to_json(self) -> dict[str, Any]:
        """Plain data; an unknown time is null."""
        rungs = [asdict(rung) | {"seconds": _known(rung.seconds)} for rung in self.rungs]
        return {"runs": self.runs, "train_flops": self.train_flops, "seconds": _known(self.seconds), "rungs": rungs}


def _known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds


def estimate_study(spec: StudySpec, structures: Sequence[Structure], task: AnyTask, workers: int) -> StudyEstimate:
    """Plan every run on the cheapest rung, time a few steps of as many as `PROBE_TIME_S` allows.

    Raises:
        SpecError: if the budget of the first rung pays for too few steps of some run.
        SizeError: if a network cannot be allocated.
    """
    budgets = rung_budgets(spec.budget_flops, spec.halving)
    probes = [
        ProxyRun(task=task, structure=s, width=width, budget_flops=budgets[0], optimizer=spec.optimizer)
        for s in structures
        for width in spec.widths
    ]
    costs = [plan_run(probe) for probe in probes]
    seconds_per_flop = _mean_seconds_per_flop(list(zip(probes, costs, strict=True)))
    rungs = []
    for rung, (budget, count) in enumerate(zip(budgets, planned_counts(spec, structures), strict=True)):
        runs = count * len(spec.widths) * spec.seeds
        rungs.append(RungEstimate(rung, budget, count, runs, runs * budget * seconds_per_flop / workers))
    return StudyEstimate(tuple(rungs))


def _mean_seconds_per_flop(planned: list[tuple[ProxyRun, RunCost]]) -> float:
    """Mean over runs, narrow and wide ones alternating so that a cut-off probe sees both."""
    started_s = time.perf_counter()
    rates = []
    stride = max(1, len(planned) // 7)
    with _one_thread():
        for run, cost in (planned[i] for first in range(stride) for i in range(first, len(planned), stride)):
            with suppress(DivergedError):  # it will be reported when the run itself diverges
                rates.append(seconds_per_step(run) / cost.train_flops_per_step)
            if time.perf_counter() - started_s > PROBE_TIME_S:
                break
    return sum(rates) / len(rates) if rates else math.nan


@contextmanager
def _one_thread() -> Iterator[None]:
    """Workers have one thread each, so a probe must not use more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
