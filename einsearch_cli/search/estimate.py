"""The estimate of a study's cost, shown before it starts."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from einsearch_cli.errors import DivergedError
from einsearch_cli.search.budgets import first_runs
from einsearch_cli.search.engines import Engine
from einsearch_cli.search.equal_networks import EqualNetworks
from einsearch_cli.search.plan import TUNING, PlannedStage, alike, planned_stages, run_total
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.structures import LayerSpec
from einsearch_cli.tasks import AnyTask
from einsearch_cli.training.proxy.cost import is_timed

if TYPE_CHECKING:  # the time for loading torch is measured here
    from einsearch_cli.training import ProxyRun, RunSpeed

LOADING_S: Final = 3.0
"""Assumed seconds in which a worker loads torch, if this process cannot tell because it has loaded it before."""

_PROBED_PACK: Final = 3
"""Most runs of the pack that is timed; larger packs follow from it and from a single run."""

MOST_PROBING_S: Final = 10.0
"""Seconds after which probing stops; the other runs are assumed to have the mean speed of those probed."""
_LEAST_PROBING_S: Final = 2.0
_PROBING_SHARE: Final = 0.02
"""Share of a study's expected time that its estimate may take, so that a short study does not wait long."""


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """One stage of the plan."""

    planned: PlannedStage
    seconds: float
    """Wall time on all workers of the engine, if no run fails; nan if no step could be timed."""


@dataclass(frozen=True, slots=True)
class StudyEstimate:
    """The plan of a study with its cost."""

    stages: tuple[StageEstimate, ...]
    networks: EqualNetworks
    """Which candidates are one network, and so are trained once."""
    equal: tuple[tuple[int, tuple[LayerSpec, ...]], ...]
    """Pairs (width, candidates that are one network there), for widths that are known at the start."""
    start_up_s: float
    """Seconds until the engine's workers are ready."""

    @property
    def runs(self) -> int:
        """Expected number of runs."""
        return run_total([stage.planned for stage in self.stages])

    @property
    def train_flops(self) -> float:
        return sum(stage.planned.train_flops for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Wall time, including the start of the workers."""
        return self.start_up_s + sum(stage.seconds for stage in self.stages)

    @property
    def tuning_runs(self) -> int:
        """Runs that only look for learning rates."""
        return run_total([stage.planned for stage in self.stages if stage.planned.stage in TUNING])

    def to_json(self) -> dict[str, Any]:
        """Plain data; an unknown time is null."""
        stages = [asdict(stage.planned) | {"seconds": _known(stage.seconds)} for stage in self.stages]
        equal = [{"width": width, "structures": list(map(str, group))} for width, group in self.equal]
        totals = {"runs": self.runs, "train_flops": self.train_flops, "seconds": _known(self.seconds)}
        return {**totals, "tuning_runs": self.tuning_runs, "stages": stages, "equal_networks": equal}


def _known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds


@dataclass(frozen=True, slots=True)
class StudyTiming:
    """The timings of a study, by which its plan is priced at any budget."""

    networks: EqualNetworks
    speeds: tuple[RunSpeed, ...]
    """Speeds of some of the study's first runs."""
    start_up_s: float
    workers: int
    pack: int = 1
    """The most runs that a worker trains at once."""

    def estimate(self, spec: StudySpec, candidates: Sequence[LayerSpec]) -> StudyEstimate:
        """The plan with its cost; every run of a budget takes the mean time of the timed runs."""

        def seconds(stage: PlannedStage) -> float:
            if not self.speeds:
                return math.nan
            together = min(self.pack, alike(stage.stage, spec))
            mean_s = fmean(speed.seconds(stage.budget_flops, together) for speed in self.speeds)
            return max(1.0, stage.runs / self.workers) * mean_s

        planned = planned_stages(spec, candidates, self.networks)
        structures = [*candidates, *spec.controls_of(candidates)]
        equal = tuple(self.networks.groups(structures, spec.widths or ()))
        stages = tuple(StageEstimate(stage, seconds(stage)) for stage in planned)
        return StudyEstimate(stages, self.networks, equal, self.start_up_s)


def time_study(spec: StudySpec, candidates: Sequence[LayerSpec], task: AnyTask, engine: Engine) -> StudyTiming:
    """Prepare the data and time a few steps of some runs: for 2% of the study's time, 2 to 10 seconds.

    Nothing is timed, and no time known, if some run is too large for this machine. `check_budgets` has to be called
    before.
    """
    start_up_s = engine.start_up_s(_loading_seconds())
    task.prepare()
    networks = EqualNetworks.of_task(task)
    runs = first_runs(spec, candidates, task, engine.device_here())
    timing = StudyTiming(networks, (), start_up_s, engine.workers, engine.setup.pack)
    if not all(map(is_timed, runs)):
        return timing
    started_s = time.perf_counter()
    for speed in _probed(runs, engine.setup.pack):
        timing = replace(timing, speeds=(*timing.speeds, speed))
        share_s = _PROBING_SHARE * timing.estimate(spec, candidates).seconds
        if time.perf_counter() - started_s > min(max(share_s, _LEAST_PROBING_S), MOST_PROBING_S):
            break
    return timing


def _loading_seconds() -> float:
    """The time in which this process loads what a worker loads, unless it has loaded it before."""
    is_loaded = "torch" in sys.modules
    started_s = time.perf_counter()
    import einsearch_cli.training.proxy.run  # noqa: F401

    return LOADING_S if is_loaded else time.perf_counter() - started_s


def _probed(runs: Sequence[ProxyRun], pack: int) -> Iterator[RunSpeed]:
    """Speeds of the runs, in an order in which the first few are spread over structures and widths."""
    from einsearch_cli.training.proxy.run import probe

    stride = next(number for number in range(round(0.618 * len(runs)), 0, -1) if math.gcd(number, len(runs)) == 1)
    for place in range(len(runs)):
        with suppress(DivergedError), one_thread():  # reported when the run itself diverges
            yield probe(runs[place * stride % len(runs)], pack=min(pack, _PROBED_PACK))


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread, as workers have one thread each."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
