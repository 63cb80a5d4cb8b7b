"""Seconds of a training step, timed in a race while nothing else runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from einsearch_cli.search.estimate import one_thread
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.search.store import StudyStore
from einsearch_cli.structures import LayerSpec
from einsearch_cli.tasks import AnyTask
from einsearch_cli.training.proxy.cost import is_timed
from einsearch_cli.training.proxy.run_settings import ProxyRun
from einsearch_cli.training.proxy.trial import TrialResult

Place = tuple[LayerSpec, int]
"""A structure at a width."""

_NOTE = "step_seconds"
_ENDLESS_FLOPS = 1e24
"""Budget of a run that is only timed: its warm-up never ends, so no rate makes it diverge."""


def timed_places(results: Iterable[TrialResult]) -> list[Place]:
    """The networks on which the ranking rests: those with a finished run of the main stage, each once."""
    main = (result for result in results if result.status == "ok" and result.trial.stage == "main")
    return list(dict.fromkeys((result.trial.structure, result.trial.width) for result in main))


def known_seconds(store: StudyStore, places: Iterable[Place], device: str) -> dict[Place, float] | None:
    """The times of an earlier race, or None if one of these is missing: times of two races are not compared."""
    noted = {(text, width): seconds for text, width, seconds in store.noted(_note(device)) or ()}
    found = {place: noted.get((str(place[0]), place[1])) for place in places}
    known = {place: seconds for place, seconds in found.items() if seconds is not None}
    return known if len(known) == len(found) else None


def _note(device: str) -> str:
    """The name under which seconds of a kind of device are stored."""
    return _NOTE if device == "cpu" else f"{_NOTE} on {device.partition(':')[0]}"


def are_timed(places: Iterable[Place], task: AnyTask, spec: StudySpec, device: str) -> bool:
    """Whether this machine can race these networks; one that is too large prevents it."""
    return all(is_timed(_run_of(place, task, spec, device)) for place in places)


def race_steps(
    store: StudyStore, places: Iterable[Place], task: AnyTask, spec: StudySpec, device: str
) -> dict[Place, float]:
    """Seconds of a training step of each network: the median of rounds in which all take turns, on one thread.

    On a CPU, the layers' own passes are timed. On a GPU, steps are timed as runs train there: as a CUDA graph, unless
    there are experts.
    """
    from einsearch_cli.training.proxy.recording import is_out_of_memory

    by_name: Mapping[str, Place] = {f"{structure}|{width}": (structure, width) for structure, width in places}
    with one_thread():
        try:
            durations_s = dict(_raced(by_name, task, spec, device))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            durations_s = {}
            for name, place in by_name.items():  # each has been trained here, so each one fits alone
                durations_s |= _raced({name: place}, task, spec, device)
    found = {by_name[name]: statistics.median(times_s) for name, times_s in durations_s.items()}
    store.note(_note(device), [[str(structure), width, seconds] for (structure, width), seconds in found.items()])
    return found


def _raced(places: Mapping[str, Place], task: AnyTask, spec: StudySpec, device: str) -> Mapping[str, Sequence[float]]:
    """The times of steps in turn; the networks are freed afterwards."""
    import torch

    from einsearch_cli.speed.race import Race
    from einsearch_cli.training.proxy.run import trainer_of
    from einsearch_cli.training.proxy.trainer import SingleTrainer

    make = SingleTrainer if device == "cpu" else trainer_of
    steps = {name: make(_run_of(place, task, spec, device)).advance for name, place in places.items()}
    race = Race(steps, torch.device(device))
    race.run()
    return race.durations_s


def _run_of(place: Place, task: AnyTask, spec: StudySpec, device: str) -> ProxyRun:
    """The run whose steps are timed."""
    structure, width = place
    return ProxyRun(
        task=task,
        structure=structure,
        width=width,
        budget_flops=_ENDLESS_FLOPS,
        optimizer=spec.optimizer,
        precision=spec.precision,
        device=device,
    )
