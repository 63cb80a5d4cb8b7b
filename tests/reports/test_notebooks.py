"""Results in notebooks, and results as rows of plain values."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from einsearch_cli.errors import OutputError
from einsearch_cli.showing import Tabular
from einsearch_cli.structures import parse_structure
from einsearch_cli.swap import SwapReport, swap_linear
from einsearch_cli.taxonomy import classify
from tests.reports.test_page import HOSTILE, Checker
from tests.reports.test_speed import RESULT


def _swapped() -> SwapReport:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64, bias=False), nn.Linear(64, 10))
    model[1].weight = model[0].weight
    return swap_linear(model, "low-rank:r=4", lambda layer, _: layer.out_features > 10, project=True)


def _cells(html: str, row: int) -> list[str]:
    body = html.rpartition("<tbody>")[2].split("<tr>")[1:][row]
    return [Checker(f"<td>{cell}").text for cell in body.split("<td>")[1:] for cell in [cell.partition("</tr>")[0]]]


def test_a_structure_is_drawn() -> None:
    for structure, name in (("btt:r=2", "btt:r=2"), ("XA^1/4 XAB^1/4 XB^1/2 YA^1/2 YB^1/2", None)):
        found = Checker(parse_structure(structure)._repr_html_())
        assert found.count("svg") == 1
        assert name is None or name in found.text
    unfitting = parse_structure("monarch:blocks=4096")
    assert unfitting._repr_html_() == f"<code>{unfitting}</code>"


def test_a_classification_is_drawn_and_costed() -> None:
    item = classify(parse_structure("low-rank:r=8"), 64, 128)
    html = item._repr_html_()
    assert Checker(html).count("svg") == 1
    assert _cells(html, 0) == [
        "64 → 128", "1,536 = 18.8% of dense", "3,072 = 18.8% of dense", "at most 8", f"pruned: {item.reasons[0]}",
    ]  # fmt: skip
    (row,) = item.records()
    assert (row["params"], row["psi"], row["rank"], row["kept"]) == (1536, "0", None, False)


def test_a_swap_is_a_table_of_layers() -> None:
    report = _swapped()
    html = report._repr_html_()
    assert report.summary.splitlines()[0].partition("(")[0].strip() in Checker(html).text
    error = f"{report.replaced[0].relative_error:.4f}"
    assert _cells(html, 0) == ["0", "64 → 64", "4,096 → 512", "8,192 → 1,024", error, ""]
    assert _cells(html, 1)[4] == "–", "factors are shared"
    assert _cells(html, 2) == ["2", "–", "–", "–", "–", "filter said no"]
    rows = report.records()
    assert [row["layer"] for row in rows] == ["0", "1", "2"]
    assert [row["tied_to"] for row in rows] == [None, "0", None]
    assert [row["params_after"] for row in rows] == [512, 512, None]


def test_a_ranking_and_a_study_are_tables(study: Any) -> None:
    made = study(failed=("kronecker",))
    first, *_, last = made.ranking.entries
    html = made.ranking._repr_html_()
    assert _cells(html, 0)[:2] == ["1", "btt:r=2"]
    assert _cells(html, 0)[4] == first.verdict == "better"
    assert _cells(html, 4)[1:5] == ["kronecker", "–", "–", "failed"]
    rows = made.ranking.records()
    assert [row["structure"] for row in rows] == [str(entry.structure) for entry in made.ranking.entries]
    assert rows[0]["loss"] == first.loss
    assert rows[-1]["runs_failed"] == last.runs_failed == 18
    page = Checker(made._repr_html_())
    assert made.title in page.text
    assert "reaches the lowest loss" in page.text
    runs = made.records()
    assert len(runs) == len(made.all_runs) == 5 * 2 * 3 * 3
    assert {row["loss"] for row in runs if row["family"] == "kronecker"} == {None}
    broken = replace(made, results=(replace(made.results[0], total_flops=math.inf), *made.results[1:]))
    assert broken.records()[0]["total_flops"] is None


def test_words_of_users_are_escaped(study: Any) -> None:
    made = study(["dense", "monarch"], title=HOSTILE, rungs=1)
    assert "<script>alert(1)</script>\"' onmouseover=x & </style> \\x00" in Checker(made._repr_html_()).text


def test_a_benchmark_is_a_table() -> None:
    html = RESULT._repr_html_()
    assert _cells(html, 0)[-10] == "nn.Linear" or "nn.Linear" in _cells(html, 0)
    rows = RESULT.records()
    assert len(rows) == 4
    assert rows[0]["layer_s"] == 0.5e-3
    assert rows[0]["einsum_s"] is rows[0]["einsum_s_low"] is None


def _all(study: Any) -> list[Tabular]:
    made = study(["dense", "monarch"], rungs=1)
    return [made, made.ranking, RESULT, _swapped(), classify(parse_structure("monarch"))]


def test_records_are_plain_and_become_a_table_of_pandas(study: Any) -> None:
    pandas = pytest.importorskip("pandas")
    for item in _all(study):
        rows = item.records()
        assert {tuple(row) for row in rows} == {tuple(rows[0])}
        assert {type(value) for row in rows for value in row.values()} <= {str, int, float, bool, type(None)}
        table = item.to_pandas()
        assert isinstance(table, pandas.DataFrame)
        assert list(table.columns) == list(rows[0])
        assert len(table) == len(rows)


def test_without_pandas_the_error_says_how_to_install_it(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for item in _all(study):
        with pytest.raises(OutputError) as caught:
            item.to_pandas()
        assert str(caught.value) == (
            "to_pandas needs pandas, which is not installed\ntry: pip install 'einsearch[pandas]'"
        )


def test_structures_are_shown_without_torch_and_without_pandas() -> None:
    code = (
        "import sys; from einsearch_cli import classify, parse_structure as parse\n"
        "assert parse('monarch')._repr_html_() and classify(parse('monarch'))._repr_html_()\n"
        "print({'torch', 'pandas', 'IPython'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
