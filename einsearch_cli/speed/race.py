"""Timing of candidates in turn, round after round, so that slow moments of the machine affect all alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import torch

FEWEST_ROUNDS: Final = 5
MOST_ROUNDS: Final = 31
ENOUGH_S: Final = 10.0
"""Long cases end after this many seconds: long calls are disturbed little."""
_LEAST_S: Final = {"cpu": 2e-3, "cuda": 2e-2}
"""The least time that a candidate runs in a round; shorter calls are repeated.

A GPU is waited for at the end of all of them, not after each: in training, the host runs ahead of it too.
"""
_MOST_REPEATS: Final = 1000
_LONG_S: Final = 0.1
"""A first call of this length is not repeated to find the number of repetitions."""


@dataclass
class Race:
    """Candidates by name, with the seconds of one call in every finished round.

    The first round is a warm-up. Every round has its own order, because the previous call decides what is in the cache.

    >>> race = Race({"a": lambda: None, "b": lambda: None}, torch.device("cpu"))
    >>> race.run(rounds=3)
    >>> sorted((name, len(values)) for name, values in race.durations_s.items())
    [('a', 3), ('b', 3)]
    """

    candidates: Mapping[str, Callable[[], object]]
    device: torch.device
    durations_s: dict[str, list[float]] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """Rounds that are finished for all candidates."""
        return min((len(values) for values in self.durations_s.values()), default=0)

    def run(self, rounds: int | None = None, on_round: Callable[[], None] = lambda: None) -> None:
        """Time all candidates; after an interruption, all whole rounds are kept.

        Args:
            rounds: how many; if None, as many as fit into `ENOUGH_S`, but at least
                `FEWEST_ROUNDS` and at most `MOST_ROUNDS`.
            on_round: called after warming up and after every round.
        """
        clock = clock_for(self.device)
        repeats = {name: _repeats(run, clock, self.device.type) for name, run in self.candidates.items()}
        on_round()
        names = list(self.candidates)
        started_s = time.perf_counter()
        for number in range(MOST_ROUNDS if rounds is None else rounds):
            if rounds is None and number >= FEWEST_ROUNDS and time.perf_counter() - started_s > ENOUGH_S:
                return
            order = random.Random(number).sample(names, len(names))
            timed = {name: _seconds(self.candidates[name], repeats[name], clock) for name in order}
            for name, duration_s in timed.items():
                self.durations_s.setdefault(name, []).append(duration_s)
            on_round()


def least_seconds(call_s: float, device_type: str) -> float:
    """The time that a candidate runs in a round, for calls of this duration.

    >>> least_seconds(1e-5, "cpu"), least_seconds(0.5, "cpu")
    (0.002, 0.5)
    """
    return max(_LEAST_S[device_type], call_s)


def expected_rounds(round_s: float) -> int:
    """Rounds of a case whose number was left open.

    >>> expected_rounds(0.01), expected_rounds(1.0), expected_rounds(100.0)
    (31, 10, 5)
    """
    return int(min(MOST_ROUNDS, max(FEWEST_ROUNDS, ENOUGH_S / round_s)))


def clock_name(device: torch.device) -> str:
    """The name of the clock: on one CPU thread its computing time, which other processes do not stretch."""
    return "CPU time" if device.type == "cpu" and torch.get_num_threads() == 1 else "wall time"


def clock_for(device: torch.device) -> Callable[[], float]:
    """The clock that `clock_name` names, in seconds; it waits for a GPU."""
    if clock_name(device) == "CPU time":
        return time.process_time
    if device.type != "cuda":
        return time.perf_counter

    def synchronized() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronized


def _repeats(run: Callable[[], object], clock: Callable[[], float], device_type: str) -> int:
    """Calls in a round, found by calling it."""
    duration_s = _seconds(run, 1, clock)
    if duration_s < _LONG_S:  # the first call may have filled caches
        duration_s = _seconds(run, 1, clock)
    return min(_MOST_REPEATS, max(1, round(_LEAST_S[device_type] / max(duration_s, 1e-9) + 0.5)))


def _seconds(run: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    started_s = clock()
    for _ in range(repeats):
        run()
    return (clock() - started_s) / repeats
