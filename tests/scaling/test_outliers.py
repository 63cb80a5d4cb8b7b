"""Runs far from their other seeds: rarely called where there are none, and the right one where there is one."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from einsearch_cli.scaling.noise import Noise, Variance
from einsearch_cli.scaling.observations import Cell, Level, Observation, cell_of
from einsearch_cli.scaling.outliers import FALSE_ALARMS, Outlier, outliers, outliers_within

SPREAD = 0.02
NOISE = Noise(Variance(SPREAD**2, 42), {}, None, None, None)


def cell(*logs: float, structure: str = "monarch", width: int = 64) -> Cell:
    """Runs with these log losses and the seeds 1000, 1001, …"""
    costs = {"budget": 1e9, "compute": 1e9, "total": 1e9}
    return cell_of(
        Observation(structure=structure, rung=2, width=width, seed=1000 + k, loss=math.exp(log), **costs)
        for k, log in enumerate(logs)
    )


def drawn(source: random.Random, seeds: int) -> list[Cell]:
    """The six cells of a confirmation of one structure and dense, without an outlier."""
    return [
        cell(*(source.gauss(0, SPREAD) for _ in range(seeds)), structure=name, width=width)
        for name in ("dense", "monarch")
        for width in (48, 64, 96)
    ]


@pytest.mark.parametrize(("seeds", "degrees"), [(2, 12), (3, 12), (6, 42)])
def test_a_study_without_an_outlier_rarely_has_one_said(seeds: int, degrees: int) -> None:
    """The noise is estimated too, from few runs, as in a study."""
    source, studies, alarms = random.Random(0), 1500, 0
    for _ in range(studies):
        variance = SPREAD**2 * source.gammavariate(degrees / 2, 2) / degrees
        alarms += bool(outliers(drawn(source, seeds), Noise(Variance(variance, degrees), {}, None, None, None)))
    assert 0 < alarms <= studies * FALSE_ALARMS + 2 * math.sqrt(studies * FALSE_ALARMS)


@pytest.mark.parametrize("side", [8, -8])
def test_the_run_that_is_far_is_the_one_that_is_named(side: float) -> None:
    source = random.Random(1)
    cells = [*drawn(source, 3), cell(0.0, 0.3 * SPREAD, (0.15 + side) * SPREAD, structure="kronecker")]
    [found] = outliers(cells, NOISE)
    assert (found.run.structure, found.run.seed) == ("kronecker", 1002)
    assert found.deviations == pytest.approx(side)
    assert found.others == pytest.approx(math.exp(0.15 * SPREAD))


def far(*logs: float, noise: Noise = NOISE) -> list[Outlier]:
    return outliers([cell(*(SPREAD * log for log in logs))], noise)


def test_the_bar_rises_with_the_number_of_runs_and_with_few_degrees_of_freedom() -> None:
    assert far(0, 0, 3.9), "three runs, 42 degrees of freedom"
    assert not far(0, 0, 3.0)
    assert not far(0, 0, 3.9, noise=Noise(Variance(SPREAD**2, 6), {}, None, None, None))
    many = [cell(*(0.0 for _ in range(3)), width=width) for width in range(1, 200)]
    assert not outliers([*many, cell(0, 0, 3.9 * SPREAD, width=300)], NOISE)


def test_of_two_seeds_the_higher_loss_is_named_and_one_seed_says_nothing() -> None:
    [found] = far(0, -9)
    assert (found.run.seed, found.deviations) == (1000, pytest.approx(9))
    assert far(50) == []
    assert far(0, 0, 50, noise=Noise(None, {}, None, None, None)) == [], "no noise is known"


def test_noise_of_a_structure_and_of_seeds_is_respected() -> None:
    own = Noise(Variance(SPREAD**2, 42), {"monarch": Variance((5 * SPREAD) ** 2, 20)}, None, None, None)
    assert far(0, 0, 8)
    assert not far(0, 0, 8, noise=own)
    paired = Noise(Variance(SPREAD**2, 42), {}, Variance((3 * SPREAD) ** 2, 4), None, None)
    found = paired.of_run("monarch")
    assert found is not None
    assert found.value == pytest.approx(10 * SPREAD**2)
    assert found.degrees == pytest.approx(100 / (1 / 42 + 81 / 4))
    assert not far(0, 0, 8, noise=paired)


def ranked(source: random.Random) -> dict[str, list[Level]]:
    """The last rung of a ranking of four structures, without an outlier."""
    return {
        name: [
            Level(
                rung=2,
                budget_flops=1e9,
                cells=tuple(
                    cell(*(source.gauss(0, SPREAD) for _ in range(3)), structure=name, width=width)
                    for width in (48, 64, 96)
                ),
            )
        ]
        for name in ("dense", "monarch", "kronecker", "low-rank")
    }


def test_runs_that_the_noise_comes_from_rarely_have_an_outlier_said() -> None:
    source, studies = random.Random(3), 400
    alarms = sum(bool(outliers_within(ranked(source))) for _ in range(studies))
    assert alarms <= studies * FALSE_ALARMS + 2 * math.sqrt(studies * FALSE_ALARMS)


def test_an_outlier_does_not_hide_in_the_noise_that_it_makes() -> None:
    levels = ranked(random.Random(4))
    [level] = levels["monarch"]
    far_off = cell(0.0, 0.3 * SPREAD, 8 * SPREAD, structure="monarch", width=64)
    levels["monarch"] = [replace(level, cells=(level.cells[0], far_off, level.cells[2]))]
    [found] = outliers_within(levels)
    assert (found.run.structure, found.run.width, found.run.seed) == ("monarch", 64, 1002)
