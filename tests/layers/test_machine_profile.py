"""What the planner loses by its constants: its choices at the times that were measured of every route.

`benchmarks/results/routes.json` has the seconds of all routes on one core of an EPYC. The constants were fitted to
these times, so this is the fit, not a forecast. Fit new ones without the widths in `HELD_OUT`: then their loss is a forecast.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU, MachineProfile
from einsearch_cli.layers.plans.planner import Use, best_route
from einsearch_cli.structures import parse_structure
from tests.layers.processors import multiplying_by

ROUTES = Path(__file__).parents[2] / "benchmarks" / "results" / "routes.json"
HELD_OUT = (512, 2048)
WIDEST = 2048
"""Planning still wider layers takes long, and is decided by the FLOPs."""
USES = {"inference": Use.merged, "training": Use.training}
"""The stored times of inference are those of routes whose products of factors are at hand."""


@lru_cache
def measured(mode: str) -> list[dict[str, Any]]:
    cases = json.loads(ROUTES.read_text())[mode]
    return [case for case in cases if case["width"] <= WIDEST]


def losses(
    mode: str, profile: MachineProfile, is_meant: Callable[[dict[str, Any]], bool] = lambda _: True
) -> list[float]:
    """Time of what is chosen over that of the fastest route, case by case."""
    found = []
    with multiplying_by("AVX2"):
        for case in filter(is_meant, measured(mode)):
            sized = parse_structure(case["structure"]).at(case["width"], case["width"])
            chosen = best_route(sized, case["tokens"], profile, USES[mode]).text
            found.append(case["seconds"].get(chosen, math.inf) / min(case["seconds"].values()))
    assert found
    return found


def mean(ratios: list[float]) -> float:
    return math.exp(fmean(map(math.log, ratios)))


@pytest.mark.parametrize("mode", USES)
def test_what_is_chosen_takes_at_most_one_percent_longer_than_the_fastest_route(mode: str) -> None:
    held_out = losses(mode, DEFAULT_CPU, lambda case: case["width"] in HELD_OUT)
    others = losses(mode, DEFAULT_CPU, lambda case: case["width"] not in HELD_OUT)
    assert mean(held_out) < 1.01
    assert mean([*held_out, *others]) < 1.01
    assert max(*held_out, *others) < 1.5


@pytest.mark.parametrize("mode", USES)
def test_no_structure_pays_for_the_others(mode: str) -> None:
    for structure in {case["structure"] for case in measured(mode)}:
        ratios = losses(mode, DEFAULT_CPU, lambda case, name=structure: case["structure"] == name)
        assert mean(ratios) < 1.03, structure


def test_the_replay_notices_constants_that_are_ten_times_off() -> None:
    off = replace(DEFAULT_CPU, layer_ns=10 * DEFAULT_CPU.layer_ns, step_ns=DEFAULT_CPU.step_ns / 10)
    assert mean(losses("inference", off)) > 1.03
