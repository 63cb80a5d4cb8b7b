"""Three hundred short runs with kills at random end as if nothing had happened."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.driving import Driven, kill, send, workers_of

RUNS = 300
MANY = {"structures": ["monarch", "kronecker", "low-rank", "btt:r=2"], "widths": [16, 24, 32], "seeds": 20}
MANY |= {"controls": False, "budget_flops": 6e7}
DRIVER_KILLS = 3
BETWEEN_KILLS = (6, 24)
"""Runs that end between two deaths of workers: a few seconds on two cores, and progress on any machine."""


@pytest.mark.timeout(900)
def test_three_hundred_runs_and_random_kills_end_with_the_same_ranking(tmp_path: Path) -> None:
    undisturbed = Driven(tmp_path / "undisturbed", dict(MANY))
    undisturbed.run("--pack", "2")
    undisturbed.assert_every_run_once(RUNS)
    study, chance = Driven(tmp_path / "study", dict(MANY)), random.Random(0)
    deaths = [RUNS * (place + 1) // (DRIVER_KILLS + 1) for place in range(DRIVER_KILLS)]
    kills = 0
    while True:
        process = study.start("--pack", "2", "--checkpoint-every", "0.2s")
        kills += _killing_workers_until(study, process, deaths[0] if deaths else RUNS, chance)
        if not deaths:
            break
        kill(process)
        deaths.pop(0)
    assert process.wait(timeout=300) == 0, study.said
    assert kills >= RUNS // BETWEEN_KILLS[1] - DRIVER_KILLS - 1
    study.assert_every_run_once(RUNS)
    assert study.ranking() == undisturbed.ranking()
    assert study.losses() == undisturbed.losses()


def _killing_workers_until(study: Driven, process: subprocess.Popen[bytes], ended: int, chance: random.Random) -> int:
    """Kill a worker now and then until `ended` runs have ended; returns how many were killed."""
    kills, due = 0, 0
    while process.poll() is None:
        status = study.status
        if status is not None and status.process.pid == process.pid and status.runs.running:
            if status.runs.ended >= ended:
                return kills
            if status.runs.ended >= due and (workers := workers_of(process.pid)):
                send(chance.choice(workers), signal.SIGKILL)
                kills, due = kills + 1, status.runs.ended + chance.randint(*BETWEEN_KILLS)
        time.sleep(0.05)
    return kills
