"""Times and speeds of a run, by a clock that the tests set."""

from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from einsearch_cli.training.full import StepMetrics, read_metrics, train_full, trainer
from tests.training.full.runs import CPU, Told, tiny_data, tiny_spec

TOKENS = 8 * 16
"""Tokens in a step of the tiny run."""
TICK_S = 0.25


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a second passes whenever the clock is read."""
    ticks = count(0.0, TICK_S)
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))


class Listening(Told):
    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__(stop_at)
        self.speeds: list[float] = []

    def on_step(self, metrics: StepMetrics, steps: int) -> None:
        self.speeds.append(metrics.tokens_per_s)
        super().on_step(metrics, steps)


@pytest.mark.usefixtures("clock")
def test_tokens_a_second_times_seconds_are_tokens(tmp_path: Path) -> None:
    told = Listening()
    result = train_full(tiny_spec(metrics={"every": 1}), tiny_data(), tmp_path, CPU, told)
    assert sum(TICK_S * speed for speed in told.speeds) == result.tokens == 12 * TOKENS
    lines = read_metrics(tmp_path)
    assert [line["tokens_per_s"] for line in lines] == told.speeds == [TOKENS / TICK_S] * 12
    assert [line["tokens"] for line in lines] == [TOKENS * step for step in range(1, 13)]


@pytest.mark.usefixtures("clock")
def test_the_time_of_a_run_counts_all_its_sessions(tmp_path: Path) -> None:
    """Every step reads the clock twice; start, checkpoint and end read it once each."""
    whole = train_full(tiny_spec(), tiny_data(), tmp_path / "whole", CPU)
    assert whole.elapsed_s == pytest.approx(TICK_S * (2 * 12 + 4 + 1))
    with pytest.raises(KeyboardInterrupt):
        train_full(tiny_spec(), tiny_data(), tmp_path / "parts", CPU, Told(stop_at=5))
    parts = train_full(tiny_spec(), tiny_data(), tmp_path / "parts", CPU)
    assert parts.elapsed_s >= whole.elapsed_s - TICK_S


def test_no_step_is_faster_than_the_run(tmp_path: Path) -> None:
    """The real clock is used: the steps together take a part of the run's time."""
    result = train_full(tiny_spec(metrics={"every": 1}), tiny_data(), tmp_path, CPU)
    steps_s = sum(TOKENS / line["tokens_per_s"] for line in read_metrics(tmp_path))
    assert 0.02 * result.elapsed_s < steps_s < result.elapsed_s
