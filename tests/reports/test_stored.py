"""Studies read back from results.json: runs alone give the same ranking, tables and pages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from einsearch_cli.errors import SpecError
from einsearch_cli.reports import StudyReport, ranking_table, render_report, results_document, write_results
from einsearch_cli.reports.headline import headline
from einsearch_cli.reports.repeated import agreement
from einsearch_cli.reports.spending_facts import spending_facts, spending_sentences
from einsearch_cli.reports.stored import read_study
from einsearch_cli.scaling import rank_candidates
from einsearch_cli.search.outcome import Exploration, Spending, TunedRate
from einsearch_cli.structures import parse_structure
from einsearch_cli.training.proxy.width_trends import LayerCoordinates
from tests.reports.reading import figures, table_rows
from tests.reports.test_figures import noisy


def whole(study) -> StudyReport:
    """A study with content in every part."""
    made = noisy(study(rungs=3, baselines=("monarch",)))
    made = replace(made, results=tuple(replace(run, steps=500 * 4**run.trial.rung) for run in made.results))
    named = {text: parse_structure(text) for text in ("dense", "monarch", "low-rank")}
    again = tuple(
        replace(run, trial=replace(run.trial, seed=run.trial.seed + 1000, stage="confirmation"), loss=run.loss * 1.01)
        for run in made.results
        if run.trial.structure in (named["dense"], named["monarch"])
    )
    rates = {
        item: TunedRate(
            base=0.02, rate=rate, width=64, tried=((0.5, 0.9), (1.0, None), (2.0, 0.8)), curvature=0.1, edge="high",
            reason="the best point, 2, is the last", last_rate=rate, last_width=128, last_tried=((1.0, 0.5),), shift=2.5,
        )
        for item, rate in zip(named.values(), (1.0, 2.0, 4.0), strict=True)
    }  # fmt: skip
    seconds = {(item, width): 1e-3 * width for item in made.structures for width in (64, 128, 256)}
    seconds |= {(named["monarch"], width): 9e-3 * width for width in (64, 128, 256)}
    runs = (*made.results, *again)
    return replace(
        made,
        confirmation=again,
        explored=tuple(
            replace(run, trial=replace(run.trial, structure=parse_structure(text), seed=2000, rung=0, stage="explore"))
            for text in ("(1/3|0|2/3|0|2/3|1/3|0)", "(2/3|0|1/3|0|2/3|1/3|0)", "monarch", "kronecker")
            for run in made.results[:1]
        ),
        exploration=Exploration(
            sampler="tpe", factors=2, runs=60, pruned=7, repeated=3, found=(named["monarch"],), rival=named["low-rank"]
        ),
        tuning=made.results[:2],
        rates=rates,
        controls={named["monarch"]: (parse_structure("btt:r=2"),)},
        step_seconds=seconds,
        coordinates=tuple(
            LayerCoordinates(named[text], width, layer, 1.0, (0.1, 0.2 * (width / 64) ** slope))
            for text, slope in (("dense", 0.1), ("monarch", 0.75))
            for layer, slope in (("up", slope), ("down", 0.0))
            for width in (64, 128, 256)
        ),
        spending=Spending(
            planned_runs=90, planned_flops=2e12, looks=(3, 6, 12), extended=(2, 1), saved_runs=36, saved_flops=5.76e12
        ),
        ranking=rank_candidates(runs, named["dense"], step_seconds=seconds, looks=(3, 6, 12)),
        comparisons=(rank_candidates(runs, named["monarch"], step_seconds=seconds, looks=(3, 6, 12), laws=False),),
        setup={"Task": "a task in words", "Batch": "4 rows"},
        spec={"name": "whole", "structures": ["monarch"], "halving": {"rungs": 3}},
        commands=("einsearch rank x",),
        environment=(("torch", "2"),),
    )


def test_a_study_that_was_read_back_says_the_same(study, tmp_path: Path) -> None:
    made = whole(study)
    write_results(tmp_path / "results.json", made)
    back = read_study(tmp_path)
    assert back.ranking == made.ranking
    assert results_document(back) == results_document(made)
    assert render_report(back) == render_report(made)
    assert read_study(tmp_path / "results.json").results == read_study(str(tmp_path)).results == made.results


def test_failed_runs_are_read_back_too(study, tmp_path: Path) -> None:
    made = study(failed=("monarch",))
    write_results(tmp_path / "results.json", made)
    assert results_document(read_study(tmp_path)) == results_document(made)


def test_the_ranking_comes_from_the_runs_and_not_from_the_stored_one(study, tmp_path: Path) -> None:
    made = whole(study)
    document = results_document(made)
    document["ranking"] = []
    (tmp_path / "results.json").write_text(json.dumps(document))
    assert read_study(tmp_path).ranking == made.ranking


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "results.json: no such file"),
        ("{", "results.json cannot be read as JSON"),
        ("[1]", "results.json does not hold the results of a study"),
        ('{"ranking": [], "results": []}', "results.json holds results of format 1: format 3 is read"),
        ('{"ranking": [], "results": [], "format": 3}', "results.json is damaged: KeyError: 'confirmation'"),
    ],
)
def test_what_is_no_study_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(SpecError, match=message):
        read_study(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", 0), ("width", "64"), ("rung", -1), ("stage", "zzz"), ("status", "zzz"), ("loss", True), ("structure", 3),
     ("budget_flops", 0), ("params", "x"), ("curve", 3), ("routing", [1]), ("trained_as", "nothing"), ("seed", 10**400)],
)  # fmt: skip
def test_damaged_runs_are_refused(study, tmp_path: Path, name: str, value: object) -> None:
    document = results_document(study(rungs=1))
    document["results"][0][name] = value
    (tmp_path / "results.json").write_text(json.dumps(document))
    if name == "seed":
        assert read_study(tmp_path).results[0].trial.seed == value, "any whole number is a seed"
        return
    with pytest.raises(SpecError, match="is damaged"):
        read_study(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"ranking": [], "results": [], "format": "3"}'])
def test_nested_and_wrong_documents_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(SpecError):
        read_study(tmp_path)


def test_all_prices_and_the_confirmation_have_columns(study) -> None:
    made = whole(study)
    shown = ranking_table(made)
    row = dict(zip(shown.headers, next(row for row in shown.rows if row[1] == "monarch"), strict=True))
    entry = made.ranking.entry_of(parse_structure("monarch"))
    assert row["confirmed gain"].startswith(f"{entry.confirmed_gain:.2f}× [")
    assert row["in seconds"].startswith(f"{entry.seconds_gain:.2f}× [{entry.seconds_gain_low:.2f}")
    assert entry.seconds_gain < 0.3 < 1.5 < entry.compute_gain
    assert row["learning rate"] == "↑ 0.04"
    assert row["trend"] == entry.trend.word
    page = render_report(made)
    cells = next(cells for cells in table_rows(page, "gain in seconds") if cells[1][0] == "monarch")
    assert cells[1][1].endswith("control of btt:r=2")
    assert cells[4][0] == f"{entry.confirmed_gain:.2f}×"
    assert cells[6][0] == f"{entry.seconds_gain:.2f}×"
    said = " ".join(headline(made))
    assert f"The price turns the order: monarch's gain over dense is {entry.compute_gain:.2f}× in counted FLOPs" in said
    assert f"{entry.seconds_gain:.2f}× in seconds on this machine" in said
    turned = replace(made, controls={parse_structure("btt:r=2"): (parse_structure("monarch"),)})
    assert "btt:r=2, a control, ranks above monarch: what they add does not show in the loss." in headline(turned)
    assert not any(", a control," in line for line in headline(made)), "btt:r=2 ranks above its control"
    assert f"monarch has a gain of {entry.confirmed_gain:.2f}× over dense" in said


def test_the_price_orders_the_table(study) -> None:
    made = whole(study)
    names = [row[1] for row in ranking_table(made, "seconds").rows]
    assert names != [row[1] for row in ranking_table(made).rows]
    gains = {entry.structure: entry.seconds_gain for entry in made.ranking.entries}
    ordered = [gains[entry.structure] or 0.0 for entry in made.ranking.ordered("seconds")]
    assert ordered == sorted(ordered, reverse=True)


def test_learning_rates_are_drawn_and_warned_of(study) -> None:
    made = whole(study)
    page = render_report(made)
    found = figures(page)["rates"]
    assert list(found.panels) == ["first", "last"]
    drawn = {(mark.x[0], mark.y[0]) for mark in found.panels["first"].of("dot")}
    assert drawn == {(0.01, 0.9), (0.04, 0.8)}
    assert {(mark.x[0], mark.y[0]) for mark in found.panels["last"].of("dot")} == {(0.02, 0.5)}
    assert "monarch: the best learning rate, 0.04, is the highest that was tried" in page
    assert "muP does not carry it over here" in page


def test_planned_spent_and_saved_runs_are_reported(study) -> None:
    made = whole(study)
    facts = dict(spending_facts(made))
    assert facts["Planned, all stages"] == "about 90 runs, 2×10¹² FLOPs"
    assert facts["Spent, all stages"].startswith(f"{len(made.all_runs)} runs, ")
    said = " ".join(spending_sentences(made))
    assert "Every candidate had 3 seeds a width. Candidates without a verdict got more" in said
    assert "more: 2 got 6 seeds, 1 got 12 seeds. " in said
    assert "Up to 12 seeds were allowed: 36 runs (5.8×10¹² FLOPs) were saved" in said
    page = render_report(made)
    assert "several workers took less" in page
    assert "Base rates: those of a dense layer" not in page, "no setup was stored"
    assert "Base rates: those of a dense layer" in render_report(replace(made, setup={"Learning rate": "Tuned."}))
    assert all(text in page for text in (facts["Planned, all stages"], facts["Spent, all stages"], ">3 to 12<", said))
    spending = made.spending
    assert spending is not None
    decided = replace(made, spending=replace(spending, extended=()))
    assert "On the last rung all were decided, so none got more" in spending_sentences(decided)[0]
    assert spending_sentences(replace(made, spending=replace(spending, looks=(3,)))) == []


def test_the_coordinate_check_shows_the_worst_layer_and_warns(study) -> None:
    made = whole(study)
    page = render_report(made)
    rows = {cells[0][0]: [cell[0] for cell in cells[1:]] for cells in table_rows(page, "slope of the change")}
    assert rows == {
        "dense": ["up", "1", "+0.00", "0.23", "+0.10"],
        "monarch": ["up", "1", "+0.00", "0.566", "+0.75"],
    }
    assert "if slopes are within ±0.25" in page
    warned = [warning for warning in made.warnings if "coordinate check" in warning]
    assert warned == [
        "monarch: outputs of up go as width^+0.75 in the coordinate check: its learning rate may not carry over to other widths"
    ]
    assert "Outputs of layers over width" not in render_report(replace(made, coordinates=()))


def test_two_studies_are_compared(study) -> None:
    made = whole(study)
    found = agreement(made, made)
    assert (found.called, found.same, found.opposite) == (4, 4, 0)
    worse = replace(
        made,
        ranking=rank_candidates(
            [
                replace(run, loss=run.loss * (2 if run.trial.structure == parse_structure("monarch") else 1))
                for run in made.results
            ],
            parse_structure("dense"),
        ),
    )
    found = agreement(made, worse)
    assert (found.called, found.same, found.opposite) == (4, 3, 1)
    assert "3 have the same verdict in both (75%), 1 the opposite one" in found.sentence
    with pytest.raises(SpecError, match="task is teacher in the first study and text in the second"):
        agreement(made, replace(made, task="text"))


def test_every_study_of_the_reproduction_has_a_page_with_all_its_runs() -> None:
    root = Path(__file__).parents[2]
    stored = sorted((root / "examples" / "reproduction").glob("*/results.json"))
    assert len(stored) > 10
    for results in stored:
        again = f"einsearch report {results.parent.relative_to(root)}"
        page = results.with_name("report.html")
        assert page.is_file(), again
        text = page.read_text(encoding="utf-8")
        names = [run["name"] for run in json.loads(results.read_text(encoding="utf-8")).get("runs", ())]
        assert [name for name in names if f">{name}<" not in text] == [], again
