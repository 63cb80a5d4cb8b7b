"""Scaling laws in the report, on losses of a known law."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from einsearch_cli.reports import StudyReport, render_report
from einsearch_cli.reports.numbers import loss_text
from einsearch_cli.scaling import rank_candidates
from tests.reports.reading import table_rows


@pytest.fixture
def lawful(study) -> StudyReport:
    """Losses 0.3 + (C / C0)^-0.25, monarch with half of dense's C0, at five budgets."""
    made, source = study(texts=("dense", "monarch"), rungs=5, widths=(90, 128, 180)), random.Random(1)
    runs = []
    for run in made.results:
        scale = {"XA^1 YA^1": 2e8}.get(str(run.trial.structure), 1e8)
        shape = math.exp(0.25 * math.log(run.trial.width / 128) ** 2)
        loss = 0.3 + (run.trial.budget_flops / scale) ** -0.25 * shape
        runs.append(replace(run, loss=loss * math.exp(source.gauss(0, 0.003))))
    return replace(made, results=tuple(runs), ranking=rank_candidates(runs, made.ranking.yardstick))


def test_the_law_stands_in_the_report(lawful: StudyReport) -> None:
    rows = table_rows(render_report(lawful), "exponent a")
    assert [row[0][0] for row in rows] == ["monarch", "dense"]
    for (_, exponent, floor, *_), entry in zip(rows, lawful.ranking.entries, strict=True):
        assert float(exponent[0]) == pytest.approx(0.25, abs=0.06)
        assert exponent[1] == f"[{entry.law.exponent_low:.3f}, {entry.law.exponent_high:.3f}]"
        assert float(floor[0]) == pytest.approx(0.3, abs=0.06)


def test_without_four_rungs_the_reason_is_given(study) -> None:
    assert "No scaling law: 2 rungs, and a scaling law needs 4" in render_report(study(rungs=2))


def test_a_prediction_says_at_which_compute_and_how_far_beyond_the_runs(lawful: StudyReport) -> None:
    at = 1e14
    predicted = replace(lawful, ranking=rank_candidates(list(lawful.results), lawful.ranking.yardstick, at=at))
    heading = "predicted loss at 1×10¹⁴ FLOPs"
    assert "predicted loss" not in render_report(lawful)
    rows = table_rows(render_report(predicted), heading)
    far = math.log10(at / lawful.budget_flops)
    for row, entry in zip(rows, predicted.ranking.entries, strict=True):
        assert row[-1][0] == loss_text(entry.prediction.loss)
        assert row[-1][1].endswith(f"], {far:.1f} decades beyond the runs")
