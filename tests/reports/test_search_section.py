"""The page of a search: where it looked, what it found, and the Pareto front of loss and costs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from einsearch_cli.reports import render_report
from einsearch_cli.reports.headline import headline
from einsearch_cli.reports.numbers import factor_text
from einsearch_cli.reports.page import Page
from einsearch_cli.reports.search_section import pareto_front
from einsearch_cli.taxonomy import taxonomy_of
from tests.reports.reading import figures, table_rows
from tests.reports.test_stored import whole


def test_every_run_of_the_search_is_drawn_at_its_exponents(study) -> None:
    made = whole(study)
    drawn = figures(render_report(made))["search"]
    assert list(drawn.panels) == ["omega", "psi", "nu"]
    for name, panel in drawn.panels.items():
        shown = sorted((mark.x[0], mark.y[0]) for mark in panel.of("dot"))
        known = [
            (float(getattr(taxonomy_of(run.trial.structure), name)), run.loss or math.nan) for run in made.explored
        ]
        assert shown == [pytest.approx(pair, rel=1e-4, abs=1e-6) for pair in sorted(known)]


def test_a_study_without_a_search_says_nothing_of_one(study) -> None:
    page = render_report(study())
    assert "section-search" not in page
    assert "section-pareto" not in page


def test_the_front_is_what_nothing_beats(study) -> None:
    made = whole(study)
    costs = {}
    for item, found in made.surfaces.items():
        for minimum in found.minima:
            width, rung = minimum.best.width, minimum.level.rung
            runs = [r for r in made.results if (r.trial.structure, r.trial.rung, r.trial.width) == (item, rung, width)]
            seconds = made.step_seconds[item, width] * runs[0].steps
            costs[item, rung] = (minimum.loss, runs[0].total_flops, seconds)
    front = {(one.structure, one.rung): (one.loss, one.total_flops, one.seconds) for one in pareto_front(made)}
    assert 1 < len(front) < len(costs)
    for key, mine in costs.items():
        better = [o for o in costs.values() if o[0] < mine[0] and o[1] <= 1.02 * mine[1] and o[2] <= 1.02 * mine[2]]
        assert (key in front) is not bool(better), "a lower loss for no more"
        if key in front:
            assert front[key] == pytest.approx(mine)
    assert len(table_rows(render_report(made), "total FLOPs")) == len(front)


def test_the_first_sentences_say_what_was_found_and_its_gains(study) -> None:
    made = whole(study)
    sentence = next(line for line in headline(made) if line.startswith("The search (60 runs) found"))
    assert "found monarch. By runs with new seeds its loss is" in sentence
    entry = made.ranking.entry_of(made.exploration.found[0])  # type: ignore[union-attr]
    assert entry is not None
    assert entry.confirmed_gain is not None
    assert f"a compute gain of {factor_text(entry.confirmed_gain)} (95% interval" in sentence
    assert "of dense" in sentence
    none = replace(made, exploration=replace(made.exploration, found=()))  # type: ignore[type-var]
    assert "none that it found could be confirmed" in " ".join(headline(none))
    assert Page(none).study is none
