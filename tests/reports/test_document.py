import json
import math
import os
import re
from dataclasses import replace

import pytest

from einsearch_cli.errors import OutputError
from einsearch_cli.reports import ranking_table, results_document, write_results
from einsearch_cli.scaling import Ranking, rank_candidates
from einsearch_cli.structures import parse_structure

RESULT_KEYS = {"structure", "family", "omega", "psi", "nu", "width", "params", "train_flops", "seed", "loss", "status"}
RANKING_KEYS = {"structure", "family", "loss", "loss_low", "loss_high", "compute_gain", "rank"}


def test_document_keeps_its_promises(study):
    made = study(failed=("kronecker",))
    document = results_document(made)
    assert (document["task"], document["budget_flops"]) == ("teacher", 4e10)
    assert len(document["results"]) == len(made.results)
    assert all(set(run) >= RESULT_KEYS for run in document["results"])
    assert all(set(entry) >= RANKING_KEYS for entry in document["ranking"])
    assert [entry["rank"] for entry in document["ranking"]] == [1, 2, 3, 4, 5]
    kronecker = document["ranking"][-1]
    assert (kronecker["family"], kronecker["omega"], kronecker["psi"], kronecker["loss"]) == (
        "kronecker",
        "1/2",
        "1",
        None,
    )


def test_document_is_strict_json_that_reads_back(study):
    made = study(failed=("kronecker",))
    broken = replace(made.results[0], loss=math.nan, train_flops=math.inf)
    made = replace(made, results=(broken, *made.results[1:]))
    text = json.dumps(results_document(made), allow_nan=False)
    document = json.loads(text)
    assert document["results"][0]["loss"] is None
    assert document["results"][0]["train_flops"] is None
    assert document["run_time_s"] == pytest.approx(sum(result.elapsed_s for result in made.results))
    assert [parse_structure(entry["structure"]) for entry in document["ranking"]] == list(made.structures)
    again = Ranking.from_json(document | {"entries": document["ranking"]})
    assert again == made.ranking


def test_gains_over_a_baseline_are_quotients_of_those_over_dense(study):
    """The losses are parallel power laws, so gains at equal loss multiply."""
    made = study(baselines=("monarch",))
    [compared] = json.loads(json.dumps(results_document(made)))["comparisons"]
    over_monarch = {str(entry.structure): entry for entry in Ranking.from_json(compared).entries}
    over_dense = {str(entry.structure): entry for entry in made.ranking.entries}
    monarch, dense, btt = (str(parse_structure(text)) for text in ("monarch", "dense", "btt:r=2"))
    assert over_monarch[monarch].verdict == "yardstick"
    assert over_monarch[dense].verdict == "worse"
    expected = (0.8 / 0.85) ** (-1 / 0.3)
    assert over_monarch[btt].compute_gain == pytest.approx(expected, rel=1e-6)
    assert over_monarch[btt].compute_gain_low is not None
    quotient = over_dense[btt].compute_gain / over_dense[monarch].compute_gain
    assert over_monarch[btt].compute_gain == pytest.approx(quotient, rel=1e-6)


def test_written_file_is_the_document(study, tmp_path):
    path = tmp_path / "results.json"
    write_results(path, study())
    assert json.loads(path.read_text()) == results_document(study())
    assert os.listdir(tmp_path) == ["results.json"]


def test_refused_write_leaves_nothing_and_names_the_path(study, tmp_path):
    with pytest.raises(OutputError, match="it is a folder"):
        write_results(tmp_path, study())
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is not a folder"):
        write_results(tmp_path / "file" / "results.json", study())
    assert os.listdir(tmp_path) == ["file"]


def test_table_has_one_row_per_structure(study):
    table = ranking_table(study(stopped=("kronecker",)))
    assert [row[1] for row in table.rows] == ["btt:r=2", "monarch", "dense", "low-rank", "kronecker"]
    assert {len(row) for row in table.rows} == {len(table.headers)} == {len(table.align)}
    cell = dict(zip(table.headers, table.rows[0], strict=True))
    assert (cell["loss ± 95%"], cell["vs yardstick"], cell["verdict"]) == ("0.5283 ± 0.00079", "−20.0%", "better")
    assert cell["compute gain"].startswith("2.10× [")
    assert dict(zip(table.headers, table.rows[2], strict=True))["compute gain"] == "1.00×"


def test_table_shows_a_bound_where_no_gain_was_measured(study):
    factors = {parse_structure("btt:r=2"): 0.01, parse_structure("kronecker"): 100.0}
    made = study(rungs=2)
    apart = tuple(replace(run, loss=run.loss * factors.get(run.trial.structure, 1.0)) for run in made.results)
    table = ranking_table(replace(made, results=apart, ranking=rank_candidates(apart, parse_structure("dense"))))
    rows = {row[1]: dict(zip(table.headers, row, strict=True)) for row in table.rows}
    assert re.fullmatch(r"> \d+\.\d\d×", rows["btt:r=2"]["compute gain"])
    assert re.fullmatch(r"< 0\.\d\d×", rows["kronecker"]["compute gain"])
    one = ranking_table(study(rungs=1))
    column = one.headers.index("compute gain")
    assert {row[column] for row in one.rows} == {"–", "1.00×"}, "one rung bounds nothing"


def test_markdown_has_as_many_columns_in_every_line(study):
    lines = ranking_table(study()).to_markdown().splitlines()
    assert len(lines) == 2 + 5
    assert len({line.count("|") for line in lines}) == 1
