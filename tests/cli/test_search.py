"""`einsearch search` from its words to its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from einsearch_cli.cli.study_input import overrides_of, read_study
from einsearch_cli.cli.study_options import given_settings

STUDY = """
task: teacher
task_settings: {teacher_width: 16, pool_size: 4096, validation_size: 256, batch_size: 64}
explore: {runs: 10, finalists: 1, min_psi: 1/2, sampler: random}
structures: [monarch]
widths: [16]
seeds: 2
budget_flops: 4e7
halving: {rungs: 1}
controls: false
rates: fixed
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def test_a_search_from_start_to_page_and_on(einsearch, tmp_path: Path) -> None:
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    path.write_text(STUDY)
    found = einsearch("search", path, "--out", out, "--workers", 1)
    assert found.code == 0, found.err
    assert "explore" in found.err, "the plan comes first"
    document = json.loads((out / "results.json").read_text())
    search = document["exploration"]
    assert (search["runs"], search["sampler"], search["rival"]) == (10, "random", "XA^1/2 XAB^1/2 YB^1/2 YAB^1/2")
    assert {run["stage"] for run in document["explored"]} == {"explore"}
    assert document["comparisons"][0]["yardstick"] == search["rival"]
    entry = next(e for e in document["comparisons"][0]["entries"] if e["structure"] == search["found"][0])
    assert entry["confirmed_difference"] is not None
    page = (out / "report.html").read_text()
    assert '<p class="kicker">einsearch search</p>' in page
    assert "Where the search looked" in page
    assert "The search (10 runs) found" in page
    stored = einsearch("report", out, "--out", tmp_path / "again.html")
    assert stored.code == 0
    assert "Where the search looked" in (tmp_path / "again.html").read_text()


def test_words_and_file_are_one_search(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    overrides = {**overrides_of(None, None, None, {}), "explore": {"factors": 3}}
    spec, _ = read_study([str(path)], overrides)
    assert spec.explore is not None
    assert (spec.explore.factors, spec.explore.runs, spec.explore.sampler) == (3, 10, "random")
    halved, _ = read_study([str(path)], {"halving": {"factor": 2}})
    assert (halved.halving.rungs, halved.halving.factor) == (1, 2)
    given = given_settings(budget=None, total=None, time=None, rungs=2)
    of_options, _ = read_study([str(path)], overrides_of(None, None, None, given))
    assert of_options.halving.rungs == 2
    bare, _ = read_study([], {"explore": {}})
    assert [str(s) for s in bare.candidates()][:2] == ["XA^1 YA^1", "XA^1/2 XAB^1/2 YB^1/2 YAB^1/2"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--factors", "1"), "a structure of one factor is dense: there is nothing to search for\n  try: --factors 2"),
        (("--max-nu", "1/4"), "--max-nu and --min-psi together leave nothing"),
        (("--sampler", "tpr"), "--sampler is 'tpr': one of tpe, cma-es, random is needed"),
        (("--min-psi", "much"), "--min-psi is 'much'"),
        (("--min-psi", "2"), "--min-psi is '2': ψ is at most 1, full rank\n  try: --min-psi 1"),
        (("--rungs", "11"), "--rungs 11: a whole number from 1 to 10 is needed"),
        (("--runs", "3"), "--runs 3: a whole number from 10"),
        (("--budget", "1e4"), "needs"),
        (("--total-flops", "1e8"), "--total-flops 1e8: budget_flops = "),
        (("--total-flops", "1e6"), "try: --total-flops "),
    ],
)
def test_what_cannot_be_searched_is_refused(
    einsearch, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr("einsearch_cli.search.proposing.MOST_DRAWS", 300)
    found = einsearch("search", *words)
    assert found.code == 2
    assert said in found.err
