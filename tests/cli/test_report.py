"""`einsearch report`: from stored runs to tables and pages, without training."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from einsearch_cli.reports import StudyReport, write_results
from einsearch_cli.reports.law_section import no_predictions
from einsearch_cli.reports.training import TrainingReport, write_training_results
from einsearch_cli.reports.training_page import render_training
from einsearch_cli.structures import parse_structure
from tests.reports.conftest import study as study
from tests.reports.test_confirmation import confirmed
from tests.reports.test_figures import TRAINED
from tests.reports.test_law import lawful as lawful
from tests.reports.test_stored import whole


@pytest.fixture
def stored(study, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    write_results(folder / "results.json", whole(study))
    return folder


def test_the_table_the_sentences_and_the_page(einsearch, stored: Path) -> None:
    found = einsearch("report", stored)
    assert found.code == 0
    assert found.out.splitlines()[0].split()[:2] == ["#", "structure"]
    assert "quote this figure" in found.err
    assert "warning: monarch: the best learning rate, 0.04, is the highest that was tried" in found.err
    assert "<!DOCTYPE html>" in (stored / "report.html").read_text()


def test_a_run_far_from_its_others_is_the_last_word(einsearch, study, tmp_path: Path) -> None:
    made = confirmed(study, far=0.5)
    write_results(tmp_path / "results.json", made)
    [warning] = made.outlier_warnings
    said = einsearch("report", tmp_path).err.splitlines()
    assert said[-2:] == [f"warning: {warning}", f"report:  {tmp_path / 'report.html'}"]


def test_the_order_follows_the_price(einsearch, stored: Path) -> None:
    by_flops = json.loads(einsearch("report", stored, "--format", "json").out)["ranking"]
    found = einsearch("report", stored, "--by", "seconds", "--format", "csv").out
    first = [row["structure"] for row in csv.DictReader(io.StringIO(found))]
    assert first != [row["structure"] for row in by_flops]
    assert sorted(first) == sorted(row["structure"] for row in by_flops)


def test_all_runs_as_csv(einsearch, stored: Path, tmp_path: Path) -> None:
    found = einsearch("report", stored, "--csv", tmp_path / "runs.csv", "--out", tmp_path / "page.html")
    assert f"wrote {tmp_path / 'runs.csv'}, " in found.err
    rows = list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))
    document = json.loads((stored / "results.json").read_text())
    runs = [run for name in ("results", "confirmation", "tuning", "explored") for run in document[name]]
    assert [(row["structure"], float(row["loss"]), row["stage"]) for row in rows] == [
        (run["structure"], run["loss"], run["stage"]) for run in runs
    ]
    assert [int(row["rung"]) for row in rows] == [run["rung"] + 1 for run in runs]  # people count from 1
    assert (tmp_path / "page.html").exists()
    assert not (stored / "report.html").exists()
    ranked = einsearch("report", stored, "--format", "csv").out.splitlines()
    assert [row["rung"] for row in csv.DictReader(ranked)] == [str(row["rung"] + 1) for row in document["ranking"]]


def test_two_studies_side_by_side(einsearch, stored: Path) -> None:
    found = einsearch("report", stored, stored / "results.json")
    assert found.code == 0
    assert "4 have the same verdict in both (100%)" in found.err


def test_impossible_reports_are_refused(einsearch, stored: Path, tmp_path: Path) -> None:
    assert einsearch("report", tmp_path / "nothing").err.startswith(f"error: {tmp_path / 'nothing'}: no such file")
    assert "3 studies: one is reported, or two are compared" in einsearch("report", stored, stored, stored).err
    for words in (
        ("--csv", stored / "study.db"),
        ("--csv", stored / "results.json"),
        ("--out", stored / "results.json"),
    ):
        found = einsearch("report", stored, *words)
        assert (found.code, f"{words[1]} holds the runs of a study" in found.err) == (2, True)
    assert "--csv and --out are for one study" in einsearch("report", stored, stored, "--csv", tmp_path / "x.csv").err


def test_losses_are_predicted_where_they_are_asked_for(einsearch, lawful: StudyReport, tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", lawful)
    found = einsearch("report", tmp_path, "--at", "2.56e13", "--format", "json")
    dense = next(row for row in json.loads(found.out)["ranking"] if row["structure"] == "XA^1 YA^1")["prediction"]
    truth = 0.3 + (2.56e13 / 2e8) ** -0.25
    assert dense["low"] < truth < dense["high"]
    assert dense["decades_beyond"] == pytest.approx(1.0, abs=0.01)
    assert "dense: loss 0.3" in found.err
    assert "1.0 decades beyond the runs" in found.err


def test_what_cannot_be_predicted_says_why(einsearch, study, tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", study(rungs=2))
    said = [line for line in einsearch("report", tmp_path, "--at", "1e13").err.splitlines() if "prediction" in line]
    assert said == ["no prediction: 2 rungs, and a scaling law needs 4: train at 2 more budgets"]


def test_structures_with_other_reasons_are_named() -> None:
    def entry(name: str, reason: str | None, prediction: object = None) -> SimpleNamespace:
        structure = parse_structure(name)
        return SimpleNamespace(
            structure=structure, law_reason=reason and f"{structure}: {reason}", prediction=prediction
        )

    entries = [entry("dense", "2 rungs"), entry("monarch", None, 1.0), entry("btt:r=2", "flat"), entry("cp", "2 rungs")]
    assert no_predictions(entries) == ["no prediction for dense, cp: 2 rungs", "no prediction for btt:r=2: flat"]


def test_runs_of_train_are_reported_again(einsearch, tmp_path: Path) -> None:
    report = TrainingReport(TRAINED.title, TRAINED.runs, "a text", ("einsearch train x",), (("torch", "2"),))
    write_training_results(tmp_path / "results.json", report)
    found = einsearch("report", tmp_path)
    assert found.code == 0
    assert [line.split()[0] for line in found.out.splitlines()[2:]] == ["dense", "plain", "short"]
    assert "dense has the lowest held-out loss" in found.err
    assert (tmp_path / "report.html").read_text() == render_training(report) + "\n"
    assert einsearch("report", tmp_path, "--csv", tmp_path / "x.csv").code == 2
    assert json.loads(einsearch("report", tmp_path, "--format", "json").out)["title"] == "study"
    (tmp_path / "results.json").write_text('{"runs": [{"name": "a"}], "title": "x"}')
    damaged = einsearch("report", tmp_path)
    assert damaged.code == 2
    assert "results.json is damaged" in damaged.err
