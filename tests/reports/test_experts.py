"""The section on experts: its counts, and the places of its marks."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from einsearch_cli.reports import StudyReport, render_report
from einsearch_cli.structures import RoutingStatistics, parse_structure
from tests.reports.reading import figures


def routing(*least: float) -> tuple[RoutingStatistics, ...]:
    """Layers of four experts, whose least used one has this share in units of a quarter."""
    return tuple(
        RoutingStatistics(f"blocks.{n}", (share / 4, *[(1 - share / 4) / 3] * 3), 1.2, 1.3, 0)
        for n, share in enumerate(least)
    )


def with_experts(made: StudyReport, least: tuple[float, ...], without: tuple[float, ...] | None) -> StudyReport:
    monarch = parse_structure("monarch")
    results = tuple(
        replace(run, routing=routing(*least)) if run.trial.structure == monarch else run for run in made.results
    )
    unbalanced: tuple[Any, ...] = ()
    if without is not None:
        best = max((run for run in results if run.trial.structure == monarch), key=lambda run: run.trial.rung)
        unbalanced = (replace(best, loss=9.875, trial=replace(best.trial, balanced=False), routing=routing(*without)),)
    return replace(made, results=results, unbalanced=unbalanced)


def test_a_study_without_experts_has_no_such_section(study) -> None:
    assert "Load of the experts" not in render_report(study())


def test_starved_layers_are_counted(study) -> None:
    page = render_report(with_experts(study(), (0.24, 0.25, 0.9), None))
    assert "1 of 3 layers have an expert below 0.25" in page
    assert "Ablation" not in page
    assert "No slots were dropped" in page


def test_the_ablation_is_shown_next_to_the_run_it_repeats(study) -> None:
    page = render_report(with_experts(study(), (0.5, 1.0), (0.0, 0.25)))
    assert "then 1 of 2 layers have an expert below 0.25" in page
    assert re.search(r"Losses without it: monarch 9\.875 instead of 0\.\d+\.", page)
    assert len(figures(page)["expert-load"].panel.of("hollow")) == 2
