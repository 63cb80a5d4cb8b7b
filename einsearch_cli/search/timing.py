"""Seconds of a training step, the third price of a structure: timed in a race, as nothing else runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping

from einsearch_cli.search.estimate import one_thread
from einsearch_cli.search.store import StudyStore
from einsearch_cli.structures import LayerSpec
from einsearch_cli.tasks import AnyTask
from einsearch_cli.training.proxy.run_settings import OptimizerSettings, ProxyRun
from einsearch_cli.training.proxy.trial import TrialResult

Place = tuple[LayerSpec, int]
"""A structure at a width."""

_NOTE = "step_seconds"
_ENDLESS_FLOPS = 1e24
"""Budget of a run that is only timed: its warm-up never ends, so that no rate makes it diverge."""


def timed_places(results: Iterable[TrialResult]) -> list[Place]:
    """The networks that the ranking rests on: those with a finished run of the main stage, each once."""
    main = (result for result in results if result.status == "ok" and result.trial.stage == "main")
    return list(dict.fromkeys((result.trial.structure, result.trial.width) for result in main))


def known_seconds(store: StudyStore, places: Iterable[Place]) -> dict[Place, float] | None:
    """What an earlier race found, or None where it lacks one of these: times of two races are not compared."""
    noted = {(text, width): seconds for text, width, seconds in store.noted(_NOTE) or ()}
    found = {place: noted.get((str(place[0]), place[1])) for place in places}
    known = {place: seconds for place, seconds in found.items() if seconds is not None}
    return known if len(known) == len(found) else None


def race_steps(
    store: StudyStore, places: Iterable[Place], task: AnyTask, optimizer: OptimizerSettings
) -> dict[Place, float]:
    """Seconds of a training step of each network: the median of rounds in which each takes its turn, on one thread."""
    import torch

    from einsearch_cli.speed.race import Race
    from einsearch_cli.training.proxy.trainer import SingleTrainer

    by_name: Mapping[str, Place] = {f"{structure}|{width}": (structure, width) for structure, width in places}
    with one_thread():
        steps = {
            name: SingleTrainer(
                ProxyRun(task=task, structure=structure, width=width, budget_flops=_ENDLESS_FLOPS, optimizer=optimizer)
            ).step
            for name, (structure, width) in by_name.items()
        }
        race = Race(steps, torch.device("cpu"))
        race.run()
    found = {by_name[name]: statistics.median(durations_s) for name, durations_s in race.durations_s.items()}
    store.note(_NOTE, [[str(structure), width, seconds] for (structure, width), seconds in found.items()])
    return found
