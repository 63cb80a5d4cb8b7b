"""Every figure, read by its ticks, compared with its source numbers.

`tests.reports.reading` has already checked that marks are at the places of their numbers.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from statistics import median

import numpy as np
import pytest
from scipy import stats

from einsearch_cli.reports import StudyReport, render_report
from einsearch_cli.reports.figure_speed import OVERHEAD, SPEEDUP, speed_figure
from einsearch_cli.reports.figure_training import FLOPS, STEPS, run_looks, training_figure
from einsearch_cli.reports.looks import identities, looks_of
from einsearch_cli.reports.numbers import flops_text, loss_text
from einsearch_cli.reports.plot import swatch
from einsearch_cli.reports.study_report import relative_difference
from einsearch_cli.reports.training import CurvePoint, FinishedRun, TrainingReport
from einsearch_cli.scaling import Level, rank_candidates
from einsearch_cli.speed import Case, Mode
from einsearch_cli.structures import parse_structure
from tests.reports.reading import Mark, figures, forests, said
from tests.reports.test_experts import with_experts
from tests.reports.test_page import CASES
from tests.reports.test_speed import measured, result_of
from tests.reports.test_training_findings import finished

CLOSE = 1e-5
"""Tolerance of numbers on marks, which have six digits."""


def noisy(made: StudyReport, spread: float = 0.03, seed: int = 0) -> StudyReport:
    """The study with scattered losses, so that intervals have a length, and with FLOPs a little below the budget."""
    source = random.Random(seed)
    results = tuple(
        replace(run, loss=run.loss * math.exp(source.gauss(0, spread)), train_flops=0.97 * run.train_flops)
        for run in made.results
        if run.loss is not None
    )
    yardstick = made.ranking.yardstick
    return replace(made, results=results, ranking=rank_candidates(list(results), yardstick))


@pytest.mark.parametrize("case", CASES)
def test_every_mark_of_every_page_lies_where_its_numbers_are(study, case: str) -> None:
    made = study(**CASES[case])
    assert set(figures(render_report(made))) <= {
        "loss-compute",
        "parameters",
        "widths",
        "overtraining",
        "trend",
        "taxonomy",
        "learning",
    }


def fitted(levels: Sequence[Level]) -> list[tuple[float, float, float]]:
    """Fitted (FLOPs, loss, variance for a unit variance of one run) at the best width of every rung.

    Three widths per rung give a parabola in log width each, by least squares: first with one curvature for all, then
    with curvatures in the ratio of the slopes that the minima have in log compute.
    """
    found = _fitted(levels, [1.0] * len(levels))
    x, y = ([math.log(item[k]) for item in found] for k in (0, 1))
    if len(levels) < 3 or y[0] - y[-1] < 0.1:
        return found
    bent, tilted, _ = np.polyfit(x, y, 2)
    slopes = np.array([tilted + 2 * bent * at for at in x])
    return _fitted(levels, list(np.clip(slopes / slopes.mean(), 0.4, 2.5)))


def _fitted(levels: Sequence[Level], bends: list[float]) -> list[tuple[float, float, float]]:
    rungs = len(levels)
    rows, values = [], []
    for number, level in enumerate(levels):
        for cell in level.cells:
            for _, loss in cell.losses:
                x = math.log(cell.width / level.best.width)
                row = np.zeros(2 * rungs + 1)
                row[number], row[rungs + number], row[-1] = 1.0, x, bends[number] * x * x
                rows.append(row)
                values.append(math.log(loss))
    design = np.array(rows)
    beta, *_ = np.linalg.lstsq(design, np.array(values))
    inverse, found = np.linalg.pinv(design.T @ design), []
    for number, level in enumerate(levels):
        x = -beta[rungs + number] / (2 * beta[-1] * bends[number])
        row = np.zeros(2 * rungs + 1)
        row[number], row[rungs + number], row[-1] = 1.0, x, bends[number] * x * x
        found.append((level.best.compute, math.exp(row @ beta), float(row @ inverse @ row)))
    return found


def bar_of(made: StudyReport, loss: float, variance: float) -> list[float]:
    """95% interval of a fitted loss, by the noise of the whole study."""
    degrees = sum(len(cell.losses) - 1 for levels in made.levels.values() for level in levels for cell in level.cells)
    squares = sum(
        (math.log(loss) - np.mean([math.log(other) for _, other in cell.losses])) ** 2
        for levels in made.levels.values()
        for level in levels
        for cell in level.cells
        for _, loss in cell.losses
    )
    half = stats.t.ppf(0.975, degrees) * math.sqrt(variance * squares / degrees)
    return [loss * math.exp(-half), loss * math.exp(half)]


def test_loss_against_compute(study) -> None:
    made = noisy(study(rungs=3))
    panel = figures(render_report(made))["loss-compute"].panel
    looks = identities(made)
    assert [said(tick.label)[0] for tick in panel.x.ticks] == [1e10, 4e10, 1.6e11]
    assert len(panel.y.ticks) >= 4
    for item, levels in made.levels.items():
        mine = [mark for mark in panel.marks if mark.key == looks[item].key]
        best = fitted(levels)
        assert pairs(mine, "dot") == near({(compute, loss) for compute, loss, _ in best})
        assert pairs(mine, "line") == near({(compute, loss) for compute, loss, _ in best})
        assert [list(mark.ends) for mark in mine if mark.kind == "bar"] == [
            pytest.approx(bar_of(made, loss, variance), rel=CLOSE) for _, loss, variance in best
        ]
        assert len({mark.dodge for mark in mine if mark.kind in ("dot", "line")}) == 1
    assert len({mark.dodge for mark in panel.of("line")}) == len(made.structures), "intervals would hide each other"


def test_a_best_width_that_was_not_found_has_a_hollow_mark(study) -> None:
    made = study(widths=(128, 256))
    panel = figures(render_report(made))["loss-compute"].panel
    assert not panel.of("dot")
    for item, levels in made.levels.items():
        mine = [mark for mark in panel.of("hollow") if mark.key == identities(made)[item].key]
        assert pairs(mine, "hollow") == near({(level.best.compute, level.best.mean) for level in levels})
        assert all("2 widths: at least three show where the loss is lowest" in mark.tip for mark in mine)


def test_names_at_the_ends_of_lines_lie_apart(study) -> None:
    """Runs of one budget use nearly equal FLOPs, so lines end at nearly the same place."""
    made = study(rungs=3)
    spent = {item: 0.95 + 0.01 * number for number, item in enumerate(made.structures)}
    runs = [replace(run, train_flops=spent[run.trial.structure] * run.train_flops) for run in made.results]
    page = render_report(replace(made, results=tuple(runs), ranking=rank_candidates(runs, made.ranking.yardstick)))
    drawing = page[page.index('id="loss-compute"') :].partition("</svg>")[0]
    labels = re.findall(r'end-label" data-s="\w+">.*?<text x="([\d.]+)" y="([\d.]+)"', drawing)
    assert len(labels) == len(made.structures)
    assert len({x for x, _ in labels}) == 1
    heights = sorted(float(y) for _, y in labels)
    assert min(b - a for a, b in pairwise(heights)) >= 17


def test_loss_against_width(study) -> None:
    made = noisy(study(rungs=3))
    found = figures(render_report(made))["widths"]
    looks = identities(made)
    assert list(found.panels) == ["rung-1", "rung-2", "rung-3"]
    for number, panel in enumerate(found.panels.values()):
        assert [said(tick.label)[0] for tick in panel.x.ticks] == [tick.value for tick in panel.x.ticks]
        for item, levels in made.levels.items():
            mine = [mark for mark in panel.marks if mark.key == looks[item].key]
            assert pairs(mine, "dot") == near({(cell.width, cell.mean) for cell in levels[number].cells})
            [lowest] = [mark for mark in mine if mark.kind == "hollow"]
            _, loss, _ = fitted(levels)[number]
            assert lowest.y == pytest.approx((loss,), rel=CLOSE)
            [line] = [mark for mark in mine if mark.kind == "line"]
            assert (line.x[0], line.x[-1]) == pytest.approx((64, 256))
            assert min(line.y) >= loss * (1 - 1e-4)
            assert lowest.x[0] == pytest.approx(line.x[line.y.index(min(line.y))], rel=0.1)


def with_pilots(made: StudyReport, pilots: dict[int, float]) -> StudyReport:
    """With one run of every structure at each of these widths, and its loss, that looked for the best width."""
    more = tuple(
        replace(run, trial=replace(run.trial, width=width, stage="pilot"), loss=loss, params=width**2)
        for run in made.results
        if run.trial.width == 256 and run.trial.seed == 0
        for width, loss in pilots.items()
    )
    return replace(made, results=(*made.results, *more))


@pytest.mark.parametrize("name", ["widths", "parameters"])
def test_widths_tried_by_one_run_are_faint_and_do_not_stretch_the_axes(study, name: str) -> None:
    plain = study(texts=("dense", "monarch"), rungs=1)
    made = with_pilots(plain, {125: 1.0, 512: 1.7, 100: 9.0, 4: 0.01})
    before, panel = (figures(render_report(some))[name].panel for some in (plain, made))
    place = (lambda width: float(width)) if name == "widths" else (lambda width: float(width**2))
    others = {(place(cell.width), cell.mean) for cell in made.levels[made.structures[0]][0].cells if cell.width != 128}
    tried = {(mark.x[0], mark.y[0]) for mark in panel.of("faint")} - (others if name == "parameters" else set())
    assert (place(125), 1.0) in tried
    arrows = {(mark.x[0], mark.y[0]) for mark in panel.of("beyond")}
    assert {(place(512), 1.7), (place(100), 9.0), (place(4), 0.01)} <= arrows
    for axis, same in ((panel.x, before.x), (panel.y, before.y)):
        assert [tick.value for tick in axis.ticks] == [tick.value for tick in same.ticks]
        assert [tick.place for tick in axis.ticks] == pytest.approx([tick.place for tick in same.ticks], abs=0.2)


def test_loss_against_tokens_per_parameter(study) -> None:
    made = noisy(study(rungs=3))
    made = replace(made, results=tuple(replace(run, tokens=1e6 * 4.0**run.trial.rung) for run in made.results))
    panel = figures(render_report(made))["overtraining"].panel
    looks = identities(made)
    for item, levels in made.levels.items():
        lines = [mark for mark in panel.of("line") if mark.key == looks[item].key]
        assert len(lines) == 3
        for line, width in zip(lines, (64, 128, 256), strict=True):
            cells = [cell for level in levels for cell in level.cells if cell.width == width]
            assert line.x == pytest.approx([1e6 * 4.0**rung / width**2 for rung in range(3)], rel=CLOSE)
            assert line.y == pytest.approx([cell.mean for cell in cells], rel=CLOSE)


def test_gain_against_compute(study) -> None:
    made = noisy(study(rungs=3))
    panel = figures(render_report(made))["trend"].panel
    looks = identities(made)
    assert [said(tick.label)[0] for tick in panel.x.ticks] == [1e10, 4e10, 1.6e11]
    for entry in made.ranking.entries:
        mine = [mark for mark in panel.marks if mark.key == looks[entry.structure].key]
        gains = () if entry.trend is None else entry.trend.rungs
        assert pairs(mine, "dot") == near({(item.budget_flops, item.gain) for item in gains})
        assert [mark.ends for mark in mine if mark.kind == "bar"] == [
            pytest.approx((item.low, item.high), rel=CLOSE) for item in gains
        ]
        assert all(f"trend: {entry.trend.word}" in mark.tip for mark in mine if mark.kind == "dot")
    [rule] = panel.of("median")
    assert rule.y == (1.0, 1.0)


def pairs(marks: list[Mark], kind: str) -> list[object]:
    found = [(x, y) for mark in marks if mark.kind == kind for x, y in zip(mark.x, mark.y, strict=True)]
    return sorted(found)


def near(numbers: set[tuple[float, float]]) -> list[object]:
    return [pytest.approx(pair, rel=CLOSE) for pair in sorted(numbers)]


def test_an_interval_stands_at_its_mark(study) -> None:
    panel = figures(render_report(noisy(study(rungs=2))))["loss-compute"].panel
    dots = {(mark.key, mark.places[0][0]) for mark in panel.of("dot")}
    bars = {(mark.key, mark.places[0][0]) for mark in panel.of("bar")}
    assert bars == dots


def test_intervals_that_leave_the_figure_are_cut_at_its_edge(study) -> None:
    panel = figures(render_report(noisy(study(rungs=2, seeds=2), 2.0)))["loss-compute"].panel
    heights = [y for mark in panel.of("bar") for _, y in mark.places]
    assert any(mark.ends[0] < panel.y.read(min(heights)) * 0.99 for mark in panel.of("bar"))
    assert any(mark.ends[1] > panel.y.read(max(heights)) * 1.01 for mark in panel.of("bar"))
    assert min(heights) >= 0
    assert max(heights) <= 520 - 26  # of the drawing, without the room above


def test_one_budget_has_a_column_per_structure(study) -> None:
    made = noisy(study(rungs=1))
    panel = figures(render_report(made))["loss-compute"].panel
    assert [tick.label for tick in panel.x.ticks] == [flops_text(1e10)]
    places = {mark.key: mark.places[0][0] for mark in panel.of("dot")}
    looks = identities(made)
    columns = [places[looks[item].key] for item in made.structures]
    assert columns == sorted(set(columns)), "best on the left, none on top of another"
    for item, levels in made.levels.items():
        mine = [mark for mark in panel.marks if mark.key == looks[item].key]
        [(compute, loss, variance)] = fitted(levels)
        assert pairs(mine, "dot") == near({(compute, loss)})
        [bar] = [mark for mark in mine if mark.kind == "bar"]
        assert list(bar.ends) == pytest.approx(bar_of(made, loss, variance), rel=CLOSE)


def test_learning_curves(study) -> None:
    """Curves of the last rung and the best width: every seed, from 2% of the FLOPs on."""
    made = study(rungs=2, seeds=2)
    figure = figures(render_report(made))["learning"]
    looks = identities(made)
    assert [tick.label for tick in figure.panel.x.ticks] == ["0%", "25%", "50%", "75%", "100%"]
    assert "share of the 4×10¹⁰ training FLOPs" in figure.text
    assert "of rung 2" in figure.title
    lines = figure.panel.of("line")
    first = min(mark.x[0] / mark.x[-1] for mark in lines)
    assert f"Lines begin after {first:.0%} of the training." in render_report(made)
    assert Counter(mark.key for mark in lines) == {look.key: 2 for look in looks.values()}
    curves = {
        (looks[run.trial.structure].key, round(run.loss, 6)): dict(run.curve)
        for run in made.results
        if run.trial.rung == 1 and run.trial.width == looks[run.trial.structure].entry.width
    }
    for mark in lines:
        whole = curves[mark.key, round(mark.y[-1], 6)]
        assert mark.x[-1] == pytest.approx(4e10, rel=CLOSE)
        assert figure.panel.x.read(mark.places[-1][0]) == pytest.approx(4e10, rel=0.01)
        assert 0.02 * 4e10 <= mark.x[0] < 0.06 * 4e10
        assert len(mark.x) > 20
        for compute, loss in zip(mark.x, mark.y, strict=True):
            assert whole[compute] == pytest.approx(loss, rel=CLOSE)


def test_loss_against_the_exponents(study) -> None:
    made = noisy(study(rungs=2, stopped=("kronecker",)))
    found = figures(render_report(made))["taxonomy"]
    looks = identities(made)
    assert list(found.panels) == ["omega", "psi", "nu"]
    assert f"at {flops_text(1e10)} training FLOPs" in found.title, "the budget that all had"
    for name, panel in found.panels.items():
        losses = {item: levels[0].best.mean for item, levels in made.levels.items()}  # the rung that all have reached
        assert len(panel.of("badge")) == len(losses)
        badges = {mark.key: (mark.x[0], mark.y[0]) for mark in panel.of("badge")}
        for item, loss in losses.items():
            value = float(getattr(made.classes[item], name))
            assert badges[looks[item].key] == pytest.approx((value, loss), rel=CLOSE)
        columns: dict[float, list[float]] = {}
        for mark in panel.of("badge"):
            columns.setdefault(mark.x[0], []).append(mark.y[0])
        medians = sorted(median(losses) for losses in columns.values() if len(losses) > 1)
        assert sorted(mark.y[0] for mark in panel.of("median")) == pytest.approx(medians, rel=CLOSE)
        assert [tick.value for tick in panel.x.ticks] == sorted(columns)


def test_the_least_used_experts(study) -> None:
    made = with_experts(study(texts=("dense", "monarch")), (0.1, 0.5, 1.0), (0.0, 0.25, 0.3))
    panel = figures(render_report(made))["expert-load"].panel
    assert [tick.label for tick in panel.x.ticks] == ["0", "0.25", "0.5", "0.75", "1"]
    assert sorted(mark.x[0] for mark in panel.of("dot")) == pytest.approx([0.1, 0.5, 1.0])
    assert sorted(mark.x[0] for mark in panel.of("hollow")) == pytest.approx([0.0, 0.25, 0.3])
    assert min(mark.places[0][1] for mark in panel.of("dot")) > max(mark.places[0][1] for mark in panel.of("hollow"))


def run(name: str, structure: str, losses: list[float]) -> FinishedRun:
    points = tuple(CurvePoint(100 * n, 1.7e12 * n, loss) for n, loss in enumerate(losses, start=1))
    return FinishedRun(finished(name, structure, losses[-1], 100).result, points)


TRAINED = TrainingReport(
    "study",
    (
        run("dense", "dense", [4.0, 3.0, 2.5, 2.2, 2.0]),
        run("plain", "low-rank:r=4", [4.5, 3.5, 3.1, 2.9, 2.8]),
        run("short", "monarch", [4.2, 3.3]),
    ),
    "a text",
    (),
    (),
)


@pytest.mark.parametrize("axis", [STEPS, FLOPS], ids=["steps", "FLOPs"])
def test_held_out_loss_of_full_runs(axis) -> None:
    drawing = training_figure(TRAINED, axis)
    assert drawing is not None
    panel = figures(drawing)[axis.name].panel
    assert [tick.label for tick in panel.x.ticks] == (
        ["0", "100", "200", "300", "400", "500"] if axis is STEPS else ["0", "2×10¹²", "4×10¹²", "6×10¹²", "8×10¹²"]
    )
    looks = run_looks(TRAINED)
    for shown in TRAINED.runs:
        [line] = [mark for mark in panel.of("line") if mark.key == looks[shown.result.name].key]
        [dot] = [mark for mark in panel.of("dot") if mark.key == looks[shown.result.name].key]
        assert line.x == pytest.approx([axis.value(point) for point in shown.curve], rel=CLOSE)
        assert line.y == pytest.approx([point.loss for point in shown.curve], rel=CLOSE)
        assert (dot.x[0], dot.y[0]) == (line.x[-1], line.y[-1])
        assert dot.places[0] == line.places[-1]


def test_the_first_twentieth_of_a_full_run_is_left_out() -> None:
    report = replace(TRAINED, runs=(run("dense", "dense", [9.0, *(4 - 0.05 * n for n in range(39))]),))
    panel = figures(training_figure(report, STEPS) or "")["steps"].panel
    assert panel.of("line")[0].x == tuple(100.0 * n for n in range(2, 41))


@pytest.mark.parametrize("axes", [SPEEDUP, OVERHEAD], ids=["speed-up", "overhead"])
def test_speed(axes) -> None:
    cases = [Case(mode, width, 256) for mode in (Mode.decode, Mode.training) for width in (64, 256)]
    source = random.Random(1)
    items = [
        measured(name, case, source.uniform(1e-4, 4e-3), source.uniform(0.05, 0.9))
        for case in cases
        for name in ("monarch", "btt", "tt")
    ]
    result = result_of(*items)
    looks = looks_of((item.name for item in items), "dense")
    found = figures(speed_figure(result, axes))[axes.name]
    assert list(found.panels) == ["decode", "training"]
    for mode, panel in found.panels.items():
        mine = [item for item in items if item.case.mode == mode]
        expected = sorted((looks[item.name].key, *values_of(axes, item)) for item in mine)
        dots = sorted((mark.key, mark.x[0], mark.y[0]) for mark in panel.of("dot"))
        assert [key for key, _, _ in dots] == [key for key, _, _ in expected]
        assert [pair for _, *pair in dots] == [pytest.approx(pair, rel=CLOSE) for _, *pair in expected]
        level, *diagonal = panel.of("median")
        assert set(level.y) == {1.0}
        assert len(diagonal) == axes.is_diagonal
        assert all(mark.x == mark.y for mark in diagonal)


def values_of(axes, item) -> tuple[float, float]:
    """Values by hand, not by the functions of the figure."""
    if axes is OVERHEAD:
        return float(item.flops), item.vs_bare.median
    dense = 2 * item.case.mode.passes * item.case.tokens * item.case.width**2
    return dense / item.flops, item.dense_s.median / item.layer_s.median


@pytest.mark.parametrize("spread", [0.01, 0.3])
def test_small_bars_of_the_ranking(study, spread: float) -> None:
    """One scale for all rows: better is left of zero, worse right of it; long bars end at the edge."""
    made = noisy(study(baselines=("monarch",)), spread)
    rows = forests(render_report(made))
    looks = identities(made)
    ranked = [entry for entry in made.ranking.entries if relative_difference(entry) is not None]
    compared = [e for ranking in made.comparisons for e in ranking.entries if e.structure != ranking.yardstick]
    shown = [*ranked, *(entry for entry in compared if relative_difference(entry) is not None)]
    assert [row.key for row in rows] == [looks[entry.structure].key for entry in shown]
    for part in (slice(None, len(ranked)), slice(len(ranked), None)):
        measured_rows = [row for row in rows[part] if row.place is not None and abs(row.value or 0) > 1e-9]
        farthest = max(measured_rows, key=lambda row: abs(row.value))
        per_unit = farthest.place / farthest.value
        assert per_unit > 0
        for row, entry in zip(rows[part], shown[part], strict=True):
            value, low, high = relative_difference(entry)
            assert list(row.ends) == pytest.approx([low, high], rel=CLOSE, abs=1e-9)
            if row.value is not None:
                assert row.value == pytest.approx(value, rel=CLOSE, abs=1e-9)
                assert row.place == pytest.approx(per_unit * value, abs=0.2)
            for number, drawn, edge in zip(row.ends, row.drawn, row.edges, strict=True):
                wanted = per_unit * number
                is_outside = abs(wanted) > abs(edge) - 6
                assert (abs(drawn) > abs(edge) - 6) if is_outside else drawn == pytest.approx(wanted, abs=0.2)


def test_rungs_are_counted_from_one_wherever_a_person_reads(study) -> None:
    made = study(rungs=2, stopped=("kronecker",), failed=("low-rank",))
    page = render_report(made)
    assert "(rung 1): less compute" in page
    assert "rung 2: 4×10¹⁰" in page
    assert "rung 0" not in page
    cells = page[page.index("Runs that failed") :]
    assert "<td>1, 2</td>" in cells


def test_structures_have_one_name_each_in_table_figures_and_sentences(study) -> None:
    """Both of these belong to no family; the terminal calls them by their carrier sets."""
    from einsearch_cli.reports import ranking_table
    from einsearch_cli.reports.headline import headline

    texts = ("XA^1/2 XAB^1/2 YA^1/2 YB^1/2", "XA^1/2 XB^1/2 YB^1/2 YAB^1/2")
    made = study(texts=("dense", *texts))
    page = render_report(made)
    assert "generic" not in page
    assert {row[1] for row in ranking_table(made).rows} == {"dense", *texts}
    looks = identities(made)
    for text in texts:
        assert f">{text}</a></b></td>" in page, "not a second time below"
        look = looks[parse_structure(text)]
        assert look.label == f"{look.number} {text}"
    assert any(texts[0] in line for line in headline(made))


TEXTS = ("dense", "btt:r=2", "monarch", "low-rank", "kronecker", "XA^1/2 XAB^1/2 YA^1/2 YB^1/2")


@pytest.mark.parametrize("more", [{"rungs": 3, "stopped": ("low-rank",)}, {"rungs": 1}], ids=["budgets", "one budget"])
def test_no_name_of_a_figure_leaves_it_or_lies_on_another(study, more) -> None:
    """Letters have seven pixels; on narrow screens, names at the ends of lines are hidden and the legend has them."""
    made = study(texts=TEXTS, loss_name="validation loss (mean squared error / target variance)", **more)
    page = render_report(made)
    for drawing in re.findall(r'<svg class="plot".*?</svg>', page):
        width, height = map(float, re.findall(r'viewBox="0 0 (\S+) (\S+)"', drawing)[0])
        boxes = list(text_boxes(drawing))
        assert len(boxes) > 6
        for start, end, line, words in boxes:
            assert start >= 0, words
            assert end <= width, words
            assert 0 < line < height
        for one, other in combinations(boxes, 2):
            assert one[1] <= other[0] or other[1] <= one[0] or abs(one[2] - other[2]) >= 12, (one, other)
    entries = {entry.partition("  ")[0] for entry in re.findall(r'<span class="entry"[^>]*>.*?</svg>([^<]+)', page)}
    assert entries == {look.short_label for look in identities(made).values()}


def text_boxes(drawing: str) -> Iterator[tuple[float, float, float, str]]:
    """Left and right end and height of each text, except numbers in discs."""
    for attributes, words in re.findall(r"<text ([^>]*)>([^<]*)", drawing):
        given = dict(re.findall(r'(\S+)="([^"]*)"', attributes))
        classes = given["class"].split()
        if "badge-text" not in classes:
            length = 7.0 * len(words)
            start = float(given["x"]) - length * (0.5 * ("middle" in classes) + ("end" in classes))
            below = 13 * float(given.get("dy", "0em").removesuffix("em"))
            yield start, start + length, float(given["y"]) + below, words


def test_an_exponent_that_all_share_has_no_panel(study) -> None:
    page = render_report(study(texts=("dense", "monarch"), rungs=1))
    assert list(figures(page)["taxonomy"].panels) == ["nu"]
    assert "All structures have ω = 0, which is not drawn." in page


def test_names_and_numbers_are_those_of_their_marks(study) -> None:
    made = noisy(study(rungs=2, stopped=("kronecker",)))
    page = render_report(made)
    looks = {look.key: look for look in identities(made).values()}
    badges = re.findall(
        r'<g class="series \S+" data-s="(\w+)"><circle[^>]*></circle><text[^>]*badge-text[^>]*>(\d+)', page
    )
    assert len(badges) == 3 * len(looks)
    assert all(number == looks[key].number for key, number in badges)
    ends = re.findall(r'<g class="series \S+ end-label" data-s="(\w+)">.*?<text[^>]*>([^<]*)', page)
    entries = re.findall(r'<span class="entry" data-s="(\w+)">(<svg.*?</svg>)([^<]*)', page)
    gains = sum(entry.trend is not None and len(entry.trend.rungs) > 1 for entry in made.ranking.entries)
    assert len(ends) == 2 * len(looks) - 1 + gains, "loss against compute, gains, and learning curves of all but one"
    assert len(entries) == 5 * len(looks) - 1 + gains
    for key, sign, _ in entries:
        assert sign == swatch(looks[key].marker, looks[key].tone)
    for key, words in [*ends, *((key, words) for key, _, words in entries)]:
        name, _, loss = words.partition("  ")
        assert name == looks[key].short_label
        assert loss in ("", loss_text(looks[key].entry.loss))
