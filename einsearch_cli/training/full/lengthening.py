"""Whether a run may go on beyond the steps that it was started with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from einsearch_cli.errors import CheckpointError
from einsearch_cli.settings import differences, read_settings
from einsearch_cli.training.full.checkpoint import read_newest_spec
from einsearch_cli.training.full.result import read_result, refuse_other_run
from einsearch_cli.training.full.train_spec import TrainSpec
from einsearch_cli.training.schedule import warmup_steps

_OF_LENGTH: Final = {"steps", "tokens", "schedule.warmup"}
"""The keys that may differ when a run is lengthened."""


def is_longer(before: Mapping[str, Any], now: TrainSpec) -> bool:
    """Whether `now` is the run `before` with more steps, and every step of `before` is the same in both.

    This needs a constant learning rate after the same number of warm-up steps, and no guides, whose weight depends on
    the length of the run.
    """
    if not _differing(before, now) <= _OF_LENGTH:
        return False
    earlier, is_free = _stored(before), now.schedule.shape == "constant" and now.guidance is None
    return is_free and _warmup(earlier) == _warmup(now) and earlier.base_steps < now.base_steps


def refuse_other(run: Path, before: Mapping[str, Any], now: TrainSpec) -> None:
    """Raise CheckpointError unless the folder's run is the wanted one, or can be lengthened to it."""
    differing = _differing(before, now)
    if not differing or is_longer(before, now):
        return
    earlier = _stored(before) if differing <= _OF_LENGTH else None
    if earlier is None or now.base_steps <= earlier.base_steps:
        refuse_other_run(run, dict(before), now.same_run())
        return
    raise CheckpointError(
        f"{run} holds this run with {earlier.base_steps:,} steps, now there are {now.base_steps:,}: {_reason(earlier, now)}",
        remedy=_remedy(earlier, now),
    )


def refuse_folder_of_other(run: Path, now: TrainSpec) -> None:
    """Compare a run with the contents of its folder, before torch is loaded and data are read.

    Raises:
        CheckpointError: as in `refuse_other`.
    """
    finished = read_result(run)
    before = read_newest_spec(run) if finished is None else finished.spec
    if before is not None:
        refuse_other(run, before, now)


def _differing(before: Mapping[str, Any], now: TrainSpec) -> set[str]:
    return {text.partition(" ")[0] for text in differences(dict(before), now.same_run())}


def _stored(before: Mapping[str, Any]) -> TrainSpec:
    """The spec stored in a folder, without the ratio if flop_matched is set: a spec may not give both."""
    guidance = before.get("guidance")
    if guidance is not None and guidance["flop_matched"]:
        before = {**before, "guidance": {key: value for key, value in guidance.items() if key != "ratio"}}
    return read_settings(TrainSpec, before)


def _warmup(spec: TrainSpec) -> int:
    return warmup_steps(spec.base_steps, spec.schedule.warmup)


def _reason(earlier: TrainSpec, now: TrainSpec) -> str:
    if now.schedule.shape != "constant":
        return f"its learning rate falls by the {now.schedule.shape} schedule, which depends on the number of steps"
    if now.guidance is not None:
        return "the weight of its guides depends on the number of steps"
    return f"its warm-up took {_warmup(earlier):,} steps, now it would take {_warmup(now):,}"


def _remedy(earlier: TrainSpec, now: TrainSpec) -> str:
    if now.schedule.shape == "constant" and now.guidance is None:
        share = _warmup(earlier) / now.base_steps
        return f"--set schedule.warmup={share:.6g}, or give another --out"
    return "give another --out; a run with schedule.shape: constant and without guidance can be made longer"
