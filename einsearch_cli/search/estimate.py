"""What a study will cost, said before it starts."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from einsearch_cli.errors import DivergedError
from einsearch_cli.search.budgets import first_runs
from einsearch_cli.search.engines import Engine
from einsearch_cli.search.equal_networks import EqualNetworks
from einsearch_cli.search.halving import rung_budgets
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.search.study import planned_counts
from einsearch_cli.structures import LayerSpec, MixtureOfExperts
from einsearch_cli.tasks import AnyTask

if TYPE_CHECKING:  # how long loading torch takes is measured here
    from einsearch_cli.training import ProxyRun, RunSpeed

LOADING_S: Final = 3.0
"""Seconds in which a worker loads torch, where this process cannot tell, as it has loaded it before."""

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
    """Wall time of the rung on all workers of the engine, if no run fails; nan if no step could be timed."""


@dataclass(frozen=True, slots=True)
class StudyEstimate:
    """The plan of a study with its cost."""

    rungs: tuple[RungEstimate, ...]
    networks: EqualNetworks
    """Which candidates are one network, and so trained once."""
    start_up_s: float
    """Until the engine's workers are there."""

    @property
    def runs(self) -> int:
        return sum(rung.runs for rung in self.rungs)

    @property
    def train_flops(self) -> float:
        return sum(rung.runs * rung.budget_flops for rung in self.rungs)

    @property
    def seconds(self) -> float:
        """Wall time, with the start of the workers."""
        return self.start_up_s + sum(rung.seconds for rung in self.rungs)

    def to_json(self) -> dict[str, Any]:
        """Plain data; an unknown time is null."""
        rungs = [asdict(rung) | {"seconds": _known(rung.seconds)} for rung in self.rungs]
        equal = [{"width": width, "structures": list(map(str, group))} for width, group in self.networks.groups()]
        totals = {"runs": self.runs, "train_flops": self.train_flops, "seconds": _known(self.seconds)}
        return {**totals, "rungs": rungs, "equal_networks": equal}


def _known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds


def estimate_study(spec: StudySpec, structures: Sequence[LayerSpec], task: AnyTask, engine: Engine) -> StudyEstimate:
    """Prepare the data and time a few steps of as many runs as `PROBE_TIME_S` allows.

    Budgets have been checked before (`check_budgets`).

    Raises:
        DataError: if the task's data cannot be read.
    """
    start_up_s = engine.start_up_s(_loading_seconds())
    task.prepare()
    budgets = rung_budgets(spec.budget_flops, spec.halving)
    networks = EqualNetworks.among(task, structures, spec.widths)
    speeds = _probe_some(first_runs(spec, structures, task))
    rungs = []
    for rung, (budget, count) in enumerate(zip(budgets, planned_counts(spec, structures), strict=True)):
        planned = spec.seeds * sum(min(count, networks.distinct(width)) for width in spec.widths)
        if spec.ablate_balance and rung + 1 == len(budgets):
            planned += min(count, sum(isinstance(structure, MixtureOfExperts) for structure in structures))
        mean_s = fmean(speed.seconds(budget) for speed in speeds) if speeds else math.nan
        rungs.append(RungEstimate(rung, budget, count, planned, max(1.0, planned / engine.workers) * mean_s))
    return StudyEstimate(tuple(rungs), networks, start_up_s)


def _loading_seconds() -> float:
    """How long this process takes to load what a worker loads, unless it has done so before."""
    is_loaded = "einsearch_cli.training.proxy.run" in sys.modules
    started_s = time.perf_counter()
    import einsearch_cli.training.proxy.run  # noqa: F401

    return LOADING_S if is_loaded else time.perf_counter() - started_s


def _probe_some(runs: list[ProxyRun]) -> list[RunSpeed]:
    """Speeds of as many runs as the time allows, narrow and wide ones alternating."""
    from einsearch_cli.training.proxy.run import probe

    started_s = time.perf_counter()
    speeds: list[RunSpeed] = []
    stride = max(1, len(runs) // 7)
    with _one_thread():
        for run in (runs[i] for first in range(stride) for i in range(first, len(runs), stride)):
            with suppress(DivergedError):  # it will be reported when the run itself diverges
                speeds.append(probe(run))
            if time.perf_counter() - started_s > PROBE_TIME_S:
                break
    return speeds


@contextmanager
def _one_thread() -> Iterator[None]:
    """Workers have one thread each, so a probe must not use more."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
