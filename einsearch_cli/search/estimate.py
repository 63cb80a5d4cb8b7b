"""What a study will cost, said before it starts."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch

from einsearch_cli.data import AnyTask
from einsearch_cli.errors import DivergedError, SpecError
from einsearch_cli.search.equal_networks import EqualNetworks
from einsearch_cli.search.halving import rung_budgets
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.search.study import planned_counts
from einsearch_cli.structures import LayerSpec, MixtureOfExperts
from einsearch_cli.training import MINIMUM_STEPS, ProxyRun, RunSpeed, minimal_budget, probe

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
    networks: EqualNetworks
    """Which candidates are one network, and so trained once."""

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
        equal = [{"width": width, "structures": list(map(str, group))} for width, group in self.networks.groups()]
        totals = {"runs": self.runs, "train_flops": self.train_flops, "seconds": _known(self.seconds)}
        return {**totals, "rungs": rungs, "equal_networks": equal}


def _known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds


def estimate_study(spec: StudySpec, structures: Sequence[LayerSpec], task: AnyTask, workers: int) -> StudyEstimate:
    """Check that the cheapest rung pays for every run, and time a few steps of as many as `PROBE_TIME_S` allows.

    Raises:
        SpecError: if the budget of the first rung pays for too few steps of some run.
        SizeError: if a network cannot be allocated.
    """
    budgets = rung_budgets(spec.budget_flops, spec.halving)
    runs = [
        ProxyRun(task=task, structure=s, width=width, budget_flops=budgets[0], optimizer=spec.optimizer)
        for s in structures
        for width in spec.widths
    ]
    for run in runs:
        _check_budget(run, spec)
    networks = EqualNetworks.among(task, structures, spec.widths)
    speeds = _probe_some(runs)
    rungs = []
    for rung, (budget, count) in enumerate(zip(budgets, planned_counts(spec, structures), strict=True)):
        planned = spec.seeds * sum(min(count, networks.distinct(width)) for width in spec.widths)
        if spec.ablate_balance and rung + 1 == len(budgets):
            planned += min(count, sum(isinstance(structure, MixtureOfExperts) for structure in structures))
        mean_s = fmean(speed.seconds(budget) for speed in speeds) if speeds else math.nan
        rungs.append(RungEstimate(rung, budget, count, planned, max(1.0, planned / workers) * mean_s))
    return StudyEstimate(tuple(rungs), networks)


def _check_budget(run: ProxyRun, spec: StudySpec) -> None:
    needed = minimal_budget(run)
    if run.budget_flops < needed:
        whole = needed * spec.halving.factor ** (spec.halving.rungs - 1)
        raise SpecError(
            f"budget_flops = {spec.budget_flops:.3g} leaves {run.budget_flops:.3g} training FLOPs for a run of the first "
            f"rung: {run.structure} at width {run.width} needs {needed:.3g} for {MINIMUM_STEPS} steps",
            remedy=f"give a budget of {whole:.3g} or more, fewer rungs, or narrower widths",
        )


def _probe_some(runs: list[ProxyRun]) -> list[RunSpeed]:
    """Speeds of as many runs as the time allows, narrow and wide ones alternating."""
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
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
