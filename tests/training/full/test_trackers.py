"""Trackers receive the numbers of metrics.jsonl; missing ones say how to install them."""

import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from einsearch_cli.errors import SpecError
from einsearch_cli.training.full import read_metrics, train_full
from einsearch_cli.training.full.checkpoint import checkpoints_of
from tests.training.full.runs import CPU, Told, run_tiny, tiny_data, tiny_spec


class Recorder(ModuleType):
    """A stand-in for wandb or mlflow that keeps what it receives."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.started: list[dict[str, Any]] = []
        self.logged: dict[int, dict[str, float]] = {}
        self.ended = 0


class FakeWandb(Recorder):
    def init(self, **settings: Any) -> Any:
        self.started.append(settings)
        identity = settings["id"] or "made-by-wandb"
        return SimpleNamespace(id=identity, log=self.log, finish=self.finish)

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged[step] = values

    def finish(self) -> None:
        self.ended += 1


class FakeMlflow(Recorder):
    def start_run(self, run_id: str | None, run_name: str) -> Any:
        self.started.append({"id": run_id, "name": run_name})
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "made-by-mlflow"))

    def log_dict(self, values: dict[str, Any], file: str) -> None:  # noqa: ARG002
        self.started[-1]["config"] = values

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.logged[step] = values

    def end_run(self) -> None:
        self.ended += 1


@pytest.mark.parametrize(("name", "kind"), [("wandb", FakeWandb), ("mlflow", FakeMlflow)])
def test_a_service_gets_every_line_and_a_resumed_run_goes_on_under_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[Recorder]
) -> None:
    service = kind(name)
    monkeypatch.setitem(sys.modules, name, service)
    spec = tiny_spec(metrics={"every": 1, "trackers": [name]})
    with pytest.raises(KeyboardInterrupt):
        train_full(spec, tiny_data(), tmp_path, CPU, Told(stop_at=5))
    train_full(spec, tiny_data(), tmp_path, CPU)
    assert [started["id"] for started in service.started] == [None, f"made-by-{name}"]
    assert service.started[0]["name"] == "train"
    assert service.started[0]["config"]["steps"] == 12
    assert service.ended == 2
    lines = {line.pop("step"): line for line in read_metrics(tmp_path)}
    assert service.logged == lines


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    """The real package is used; a resumed run replaces the numbers after its checkpoint."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    spec = tiny_spec(metrics={"trackers": ["tensorboard"]})
    with pytest.raises(KeyboardInterrupt):
        train_full(spec, tiny_data(), tmp_path, CPU, Told(stop_at=5))
    shutil.rmtree(checkpoints_of(tmp_path)[-1])  # as if it had been killed: it continues from step 3
    train_full(spec, tiny_data(), tmp_path, CPU)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = read_metrics(tmp_path)
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 13))
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([line["loss"] for line in lines])
    held_out = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert [event.value for event in events.Scalars("validation_loss")] == pytest.approx(held_out)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SpecError) as caught:
        run_tiny(tmp_path, metrics={"trackers": [name]})
    assert caught.value.problem == f"metrics.trackers has {name}: the package {name} is not installed"
    assert caught.value.remedy == f"pip install 'einsearch[{name}]'"
