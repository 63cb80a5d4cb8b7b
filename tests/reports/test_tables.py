"""The tables of the reports, cell by cell, compared with their source numbers."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from einsearch_cli.reports import render_report
from einsearch_cli.reports.looks import identities
from einsearch_cli.reports.numbers import MISSING, count_text, factor_text, interval_text, loss_text
from einsearch_cli.reports.tables import with_interval
from einsearch_cli.reports.training import TrainingReport, plan_rows, result_rows
from einsearch_cli.structures import parse_structure, short_name
from einsearch_cli.training.full import plan_run
from tests.reports.reading import figures, table_rows
from tests.reports.test_experts import routing
from tests.reports.test_figures import noisy
from tests.reports.test_training_findings import finished
from tests.training.full.runs import tiny_spec


def percent(share: float) -> str:
    """A percentage by hand: one decimal and a sign."""
    return f"{100 * share:+.1f}%".replace("-", "−")


def test_every_cell_of_the_ranking(study) -> None:
    made = noisy(study(rungs=2, widths=(64, 128, 256)))
    rows = table_rows(render_report(made), "best width")
    assert len(rows) == len(made.ranking.entries) == 5
    for cells, entry in zip(rows, made.ranking.entries, strict=True):
        number, name, verdict, gain, total, difference, _, loss, width, omega, psi, nu = cells
        assert number == [str(entry.rank)]
        assert name == [short_name(entry.structure), str(entry.structure)]
        known = made.classes[entry.structure]
        assert (omega, psi, nu) == ([str(known.omega)], [str(known.psi)], [str(known.nu)])
        assert loss == [loss_text(entry.loss), interval_text(entry.loss_low, entry.loss_high)]
        assert verdict == [entry.verdict]
        assert width[-1] == f"{count_text(entry.width**2)} params"
        assert width[0].removeprefix("↑ ").removeprefix("↓ ") == str(entry.width)
        if entry.verdict == "yardstick":
            assert (difference, total) == (["–"], ["–"])
            continue
        assert total[0] == factor_text(entry.total_gain)
        base = made.yardstick.loss
        ends = (percent(entry.difference_low_adjusted), percent(entry.difference_high_adjusted))
        assert difference == [percent(entry.loss / base - 1), f"[{ends[0]}, {ends[1]}]"]
        if entry.compute_gain is not None:
            whole = with_interval(entry.compute_gain, entry.compute_gain_low, entry.compute_gain_high)
            assert gain == [factor_text(entry.compute_gain), whole.partition(" ")[2] or MISSING]
            assert entry.compute_gain_reason, "a gain with a remark shows its interval too"
        better = entry.loss < base
        assert (entry.verdict == "worse") <= (not better)
        assert (entry.compute_gain or 1.0) >= 1.0 if better else (entry.compute_gain or 1.0) <= 1.0


@pytest.mark.parametrize(("widths", "arrow"), [((64, 128), "↑ 128"), ((128, 256), "↓ 128"), ((64, 128, 256), "128")])
def test_an_arrow_marks_the_edge_of_the_widths(study, widths: tuple[int, ...], arrow: str) -> None:
    """The fixture's best width is the second narrowest, or the narrowest if 64 is missing."""
    made = study(rungs=1, widths=widths)
    results = tuple(replace(run, loss=run.loss * (1 + 0.1 * (run.trial.width != 128))) for run in made.results)
    page = render_report(replace(made, results=results, ranking=type(made.ranking)(
        made.ranking.yardstick, tuple(replace(entry, width=128) for entry in made.ranking.entries)
    )))  # fmt: skip
    assert {row[7][0] for row in table_rows(page, "best width")} == {arrow}


def test_tiles_say_what_was_run(study) -> None:
    made = study(rungs=2, seeds=2, failed=("kronecker",))
    page = render_report(made)
    tiles = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert tiles["Structures"] == "5"
    assert tiles["Training FLOPs per run"] == "1×10¹⁰ → 4×10¹⁰"
    assert tiles["Widths"] == "64, 128, 256"
    assert tiles["Seeds"] == "2"
    assert tiles["Runs of the ranking"] == "60 (12 failed)"
    assert (
        tiles["Time of all runs, added up"]
        == f"{int(48 * 12.5 + 12 * 1.0) // 60} min {int(48 * 12.5 + 12 * 1.0) % 60} s"
    )


def test_what_a_point_says_on_hover_is_its_own(study) -> None:
    made = noisy(study(rungs=2))
    found = figures(render_report(made))
    levels = {(look.label, level.rung): level for item, look in identities(made).items() for level in made.levels[item]}
    for mark in found["loss-compute"].panel.of("dot"):
        name, _, loss, interval, size, rung = mark.tip.split("\n")
        level = levels[name, int(rung.removeprefix("rung ").partition(":")[0]) - 1]
        assert loss.endswith(f"{loss_text(mark.y[0])} (3 seeds a width)")
        assert interval.startswith("95% interval: [")
        assert size.startswith("best width 1")
        assert level.best.compute == pytest.approx(mark.x[0], rel=1e-5)
    for number, panel in enumerate(found["widths"].panels.values()):
        for mark in panel.of("dot"):
            name, loss, size = mark.tip.split("\n")
            cell = next(cell for cell in levels[name, number].cells if cell.width == mark.x[0])
            assert loss.endswith(f"{loss_text(cell.mean)} (3 seeds)")
            assert size == f"width {cell.width}, {count_text(cell.width**2)} parameters"


def test_every_layer_of_experts_has_its_row(study) -> None:
    made = study(texts=("dense", "monarch"), rungs=1)
    monarch = parse_structure("monarch")
    results = tuple(
        replace(run, routing=routing(0.2, 0.8)) if run.trial.structure == monarch else run for run in made.results
    )
    rows = table_rows(render_report(replace(made, results=results)), "most used")
    assert [[cell[0] for cell in row[1:]] for row in rows] == [
        ["blocks.0", "0.20", f"{4 * (1 - 0.05) / 3:.2f}", "1.20", "1.30"],
        ["blocks.1", "0.80", f"{4 * (1 - 0.2) / 3:.2f}", "1.20", "1.30"],
    ]


def test_full_runs_are_compared_with_dense() -> None:
    runs = (
        finished("dense", "dense", 2.0, 100),
        finished("low", "low-rank:r=4", 2.4, 60),
        finished("m", "monarch", 1.9, 7),
    )
    rows = result_rows(TrainingReport("study", runs, "a text", (), ()))
    assert [row["vs dense"] for row in rows] == ["–", "+20.0%", "−5.0%"]
    assert [row["held-out loss"] for row in rows] == ["2.000", "2.400", "1.900"]
    assert [row["FLOPs"] for row in rows] == ["1×10²", "6×10¹", "7×10⁰"]


def test_plans_of_full_runs_have_their_share_of_dense() -> None:
    plan = plan_run(tiny_spec(), vocabulary=256)
    [row] = plan_rows([plan], [90.0])
    share = plan.total_flops / plan.dense_total_flops
    assert 0.2 < share < 0.9
    assert row["of dense"] == f"{100 * share:.0f}%"
    assert row["FLOPs/token"] == f"{plan.total_flops / (12 * 8 * 16):.3g}"
    assert (row["steps"], row["tokens"], row["time here"]) == ("12", "1,536", "1 min 30 s")
