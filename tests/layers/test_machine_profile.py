"""What the planner loses by its constants: its choices at the times that were measured of every route.

Every file `benchmarks/results/routes*.json` has the seconds of all routes on one machine. The constants were chosen
by `benchmarks/constants.py` without the held-out widths and structures, so what is lost there is a forecast.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from benchmarks.constants import HELD_OUT_STRUCTURES, HELD_OUT_WIDTHS, is_held_out
from einsearch_cli.layers.plans import machine_profile
from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU, MachineProfile, processor_name
from einsearch_cli.layers.plans.planner import Use, best_route, route_table
from einsearch_cli.structures import parse_structure

FILES = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("routes*.json"))
WIDEST = 2048
"""Planning still wider layers takes long, and is decided by the FLOPs."""
MEASURED = [(path, use) for path in FILES for use in Use if use.value in json.loads(path.read_text())]
NAMES = [f"{path.stem}-{use.value}" for path, use in MEASURED]
Case = dict[str, Any]


@lru_cache
def measured(path: Path, use: Use) -> list[Case]:
    return [case for case in json.loads(path.read_text())[use.value] if case["width"] <= WIDEST]


def losses(path: Path, use: Use, profile: MachineProfile, is_meant: Callable[[Case], bool]) -> list[float]:
    """Time of what is chosen over that of the fastest route, case by case."""
    found = []
    for case in filter(is_meant, measured(path, use)):
        sized = parse_structure(case["structure"]).at(case["width"], case["width"])
        chosen = best_route(sized, case["tokens"], profile, use).text
        found.append(case["seconds"].get(chosen, math.inf) / min(case["seconds"].values()))
    assert found
    return found


def mean(ratios: list[float]) -> float:
    return math.exp(fmean(map(math.log, ratios)))


@pytest.mark.parametrize(("path", "use"), MEASURED, ids=NAMES)
def test_choices_in_cases_that_the_constants_were_not_chosen_by(path: Path, use: Use) -> None:
    """At most 1.5% over the fastest route in the mean, in widths and in structures alike."""
    for is_meant in (
        is_held_out,
        lambda case: case["width"] in HELD_OUT_WIDTHS,
        lambda case: case["structure"] in HELD_OUT_STRUCTURES,
    ):
        assert mean(losses(path, use, DEFAULT_CPU, is_meant)) <= 1.015


@pytest.mark.parametrize(("path", "use"), MEASURED, ids=NAMES)
def test_no_structure_pays_for_the_others(path: Path, use: Use) -> None:
    for structure in {case["structure"] for case in measured(path, use)}:
        ratios = losses(path, use, DEFAULT_CPU, lambda case, name=structure: case["structure"] == name)
        assert mean(ratios) < 1.04, structure
    assert max(losses(path, use, DEFAULT_CPU, lambda _: True)) < 1.7


def test_the_replay_notices_constants_that_are_ten_times_off() -> None:
    off = replace(DEFAULT_CPU, layer_ns=10 * DEFAULT_CPU.layer_ns, step_ns=DEFAULT_CPU.step_ns / 10)
    for path, use in MEASURED:
        if use is Use.merged:
            assert mean(losses(path, use, off, is_held_out)) > 1.03


def test_a_profile_decides_when_the_dense_matrix_is_left() -> None:
    sized = parse_structure("monarch").at(512, 512)
    starts = [
        next(tokens for tokens in range(1, 2048) if not route_table(sized, profile, Use.merged).at(tokens).is_dense)
        for profile in (replace(DEFAULT_CPU, dense_margin=margin) for margin in (0.3, 0.8, 1.0))
    ]
    assert starts == sorted(starts, reverse=True)
    assert len(set(starts)) > 1


def test_the_name_of_a_processor_is_the_first_one_that_the_system_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_profile, "_PROCESSORS", tmp_path / "cpuinfo")
    processor_name.cache_clear()
    assert processor_name()
    processor_name.cache_clear()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: First\nprocessor\t: 1\nmodel name\t: Second\n")
    assert processor_name() == "First"
    processor_name.cache_clear()
