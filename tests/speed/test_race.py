"""Rounds, repetitions and interruptions of a race."""

import time

import pytest
import torch

from einsearch_cli.speed import Race
from einsearch_cli.speed.race import ENOUGH_S, FEWEST_ROUNDS, MOST_ROUNDS, clock_for, clock_name

CPU = torch.device("cpu")
SETTINGS = Race.run.__globals__
"""The module's settings, not imported by name, as collecting doctests may import the module again."""


def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_every_round_has_all_candidates_in_an_order_of_its_own(monkeypatch) -> None:
    monkeypatch.setitem(SETTINGS, "_LEAST_S", {"cpu": 0.0})  # one call in a round
    calls: list[str] = []
    race = Race({name: lambda name=name: (calls.append(name), busy(1e-4)) for name in "abcd"}, CPU)
    race.run(rounds=12)
    rounds = ["".join(calls[end - 4 : end]) for end in range(len(calls), len(calls) - 48, -4)]
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len(set(rounds)) > 6
    before_a = {order[order.index("a") - 1] for order in rounds if order[0] != "a"}
    assert before_a == set("bcd")


@pytest.mark.usefixtures("one_thread")
def test_short_calls_are_repeated_and_divided() -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        busy(2e-4)

    Race({"short": call}, CPU).run(rounds=1)
    assert 2 + 5 <= len(calls) <= 2 + 20  # two to find out; a round lasts about 2 ms
    race = Race({"short": call, "long": lambda: busy(1e-2)}, CPU)
    race.run(rounds=3)
    assert 1e-4 < sorted(race.durations_s["short"])[1] < 1e-3
    assert sorted(race.durations_s["long"])[1] > 5e-3


def test_an_interruption_keeps_whole_rounds_only() -> None:
    race: Race

    def interrupt() -> None:
        if race.rounds == 2:
            raise KeyboardInterrupt

    race = Race({"a": lambda: busy(3e-3), "b": interrupt}, CPU)
    with pytest.raises(KeyboardInterrupt):
        race.run(rounds=9)
    assert race.rounds == 2
    assert {len(values) for values in race.durations_s.values()} == {2}


def test_an_open_number_of_rounds_ends_long_cases_early(monkeypatch) -> None:
    quick = Race({"a": lambda: None}, CPU)
    quick.run()
    assert quick.rounds == MOST_ROUNDS
    monkeypatch.setitem(SETTINGS, "ENOUGH_S", ENOUGH_S / 1000)
    long = Race({"a": lambda: busy(0.02)}, CPU)
    long.run()
    assert long.rounds == FEWEST_ROUNDS


@pytest.mark.usefixtures("one_thread")
def test_on_one_thread_time_is_computing_time() -> None:
    clock = clock_for(CPU)
    started_s = clock()
    time.sleep(0.05)
    assert clock() - started_s < 0.04
    assert clock_name(CPU) == "CPU time"
    torch.set_num_threads(2)
    started_s = clock_for(CPU)()
    time.sleep(0.05)
    assert clock_for(CPU)() - started_s > 0.04
    assert clock_name(CPU) == "wall time"
