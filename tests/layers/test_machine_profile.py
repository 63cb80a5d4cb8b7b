"""The planner's losses by its constants: its choices at the measured times of every route.

Every file `benchmarks/results/routes*.json` contains the seconds of all routes on one machine.
`benchmarks/constants.py` chose the constants without the held-out widths and structures, so the loss there is a
forecast.
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
from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU, MachineProfile
from einsearch_cli.layers.plans.planner import Use, best_route, route_table
from einsearch_cli.structures import parse_structure

FILES = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("routes*.json"))
Case = dict[str, Any]


@lru_cache
def measured(path: Path) -> list[Case]:
    stored = json.loads(path.read_text())
    return [case for use in Use for case in stored.get(use.value, [])]


def mean_loss(path: Path, profile: MachineProfile, is_meant: Callable[[Case], bool]) -> float:
    """The excess time of the chosen route over the fastest one, as a geometric mean."""
    logarithms = []
    for case in filter(is_meant, measured(path)):
        sized = parse_structure(case["structure"]).at(case["width"], case["width"])
        chosen = best_route(sized, case["tokens"], profile, Use(case["mode"])).text
        logarithms.append(math.log(case["seconds"].get(chosen, math.inf) / min(case["seconds"].values())))
    assert len(logarithms) > 10
    return math.exp(fmean(logarithms)) - 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_choices_in_cases_that_the_constants_were_not_chosen_by(path: Path) -> None:
    assert mean_loss(path, DEFAULT_CPU, is_held_out) <= 0.015
    assert mean_loss(path, DEFAULT_CPU, lambda case: case["width"] in HELD_OUT_WIDTHS) <= 0.015
    assert mean_loss(path, DEFAULT_CPU, lambda case: case["structure"] in HELD_OUT_STRUCTURES) <= 0.018
    for use, most in ((Use.merged, 0.03), (Use.inference, 0.01), (Use.training, 0.006)):
        if any(case["mode"] == use for case in measured(path)):
            assert mean_loss(path, DEFAULT_CPU, lambda case, use=use: is_held_out(case) and case["mode"] == use) <= most


def test_the_architecture_has_these_losses() -> None:
    page = (FILES[0].parents[2] / "docs/design/architecture.md").read_text(encoding="utf-8")
    rows = {"merged layers": (Use.merged,), "inference without merging": (Use.inference,), "training": (Use.training,)}
    for name, uses in {**rows, "all": tuple(Use)}.items():
        cells = ["not measured"] * 2
        for place, path in enumerate(reversed(FILES)):
            if any(case["mode"] in uses for case in measured(path)):
                loss = mean_loss(path, DEFAULT_CPU, lambda case, uses=uses: is_held_out(case) and case["mode"] in uses)
                cells[place] = f"{1 + loss:.3f}"
        assert f"| {' | '.join([name, *cells])} |" in page


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_structure_pays_for_the_others(path: Path) -> None:
    for structure in {case["structure"] for case in measured(path)}:
        loss = mean_loss(path, DEFAULT_CPU, lambda case, name=structure: case["structure"] == name)
        assert loss < 0.045, (structure, loss)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_replay_notices_constants_that_are_off(path: Path) -> None:
    off = replace(DEFAULT_CPU, layer_ns=10 * DEFAULT_CPU.layer_ns, step_ns=DEFAULT_CPU.step_ns / 10)
    assert mean_loss(path, off, is_held_out) > 0.018
    assert mean_loss(path, replace(DEFAULT_CPU, dense_margin=0.2), is_held_out) > 0.02


def test_a_profile_decides_when_the_dense_matrix_is_left() -> None:
    sized = parse_structure("monarch").at(512, 512)
    starts = [
        next(tokens for tokens in range(1, 2048) if not route_table(sized, profile, Use.merged).at(tokens).is_dense)
        for profile in (replace(DEFAULT_CPU, dense_margin=margin) for margin in (0.3, 0.8, 1.0))
    ]
    assert starts == sorted(starts, reverse=True)
    assert len(set(starts)) > 1
