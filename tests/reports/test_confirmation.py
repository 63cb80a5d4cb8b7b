"""The confirmation run by run: its table, its numbers in results.json, and the note on a run far from the others."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest

from einsearch_cli.reports import StudyReport, render_report, results_document
from einsearch_cli.reports.confirmation import confirmed_structures
from einsearch_cli.reports.headline import headline
from einsearch_cli.reports.numbers import percent_text
from einsearch_cli.scaling import rank_candidates
from einsearch_cli.structures import parse_structure, short_name
from tests.reports.reading import table_rows
from tests.reports.test_figures import noisy
from tests.reports.test_page import Checker

DENSE, MONARCH = parse_structure("dense"), parse_structure("monarch")
HEAD = "loss of each new seed"


def confirmed(study, seeds: int = 3, far: float = 0.0, texts: tuple[str, ...] = ("dense", "monarch")) -> StudyReport:
    """A study of two rungs with a confirmation; seed 1001 of monarch is `far` off in log loss at width 128."""
    made = noisy(study(texts=texts))
    last = [run for run in made.results if run.trial.rung == 1 and run.trial.seed == 0]
    again = tuple(
        replace(
            run,
            trial=replace(run.trial, seed=1000 + seed, stage="confirmation"),
            loss=run.loss
            * math.exp(0.004 * (seed % 3) + far * ((run.trial.structure, run.trial.width, seed) == (MONARCH, 128, 1))),
            learning_rate=0.0123 if run.trial.structure == MONARCH else 0.02,
        )
        for run in last
        for seed in range(seeds)
    )
    return replace(made, confirmation=again, ranking=rank_candidates([*made.results, *again], DENSE))


def shown(made: StudyReport) -> list[list[list[str]]]:
    return table_rows(render_report(made), HEAD)


def test_every_run_of_the_confirmation_is_in_the_table(study) -> None:
    made = confirmed(study)
    rows = {(cells[0][0], cells[1][0]): cells for cells in shown(made)}
    assert len(rows) == 2 * 4, "three widths and the best one, of two structures"
    for item, rate in ((MONARCH, "0.0123"), (DENSE, "0.02")):
        for width in (64, 128, 256):
            runs = [r for r in made.confirmation if (r.trial.structure, r.trial.width) == (item, width)]
            cells = rows[short_name(item), str(width)]
            assert "".join(cells[2]).split(", ") == [f"{r.trial.seed}:\xa0{r.loss:.4f}" for r in runs]
            assert cells[3][0] == f"{math.exp(sum(math.log(r.loss) for r in runs) / 3):.4f}"
            assert cells[3][1].startswith("[")
            assert (cells[5][0], cells[6][0]) == (rate, "4×10¹⁰")


def test_the_last_row_has_the_loss_at_the_best_width_and_the_gain(study) -> None:
    made = confirmed(study)
    entry, best = made.ranking.entry_of(MONARCH), shown(made)[3]
    assert best[0][0] == "monarch"
    assert best[1][1] == "best"
    lowest = made.confirmed[MONARCH].minima[0]
    assert (best[1][0], best[3][0]) == (f"{lowest.width:.0f}", f"{lowest.loss:.4f}")
    assert best[2] == ["lowest point of the parabola"]
    assert best[4] == [
        f"{entry.confirmed_gain:.2f}×",
        f"[{entry.confirmed_gain_low:.2f}, {entry.confirmed_gain_high:.2f}]",
    ]
    assert shown(made)[7][4] == ["1.00×"]
    narrow = replace(made, confirmation=tuple(run for run in made.confirmation if run.trial.width > 64))
    again = rank_candidates([*narrow.results, *narrow.confirmation], DENSE)
    assert any("no parabola: " in "".join(cells[2]) for cells in shown(replace(narrow, ranking=again)))


def test_with_one_rung_the_difference_is_to_be_quoted_and_there_is_no_gain(study) -> None:
    made = confirmed(study)
    last = tuple(run for run in made.results if run.trial.rung == 1)
    one = replace(made, results=last, ranking=rank_candidates([*last, *made.confirmation], DENSE))
    entry = one.ranking.entry_of(MONARCH)
    assert (entry.confirmed_gain, entry.compute_gain) == (None, None)
    assert (entry.compute_gain_at_least, entry.compute_gain_at_most) == (None, None), "two losses bound nothing"
    said = next(sentence for sentence in headline(one) if "new seeds" in sentence)
    low, high = entry.confirmed_difference_low, entry.confirmed_difference_high
    assert said == (
        f"Trained once more with 3 new seeds, monarch ends {-entry.confirmed_difference:.1%} below dense's loss at "
        f"equal FLOPs (95% interval {percent_text(low)} to {percent_text(high)}): monarch is better; "
        "quote this difference. One rung gives no compute gain."
    )


def test_a_study_without_a_confirmation_has_no_such_table(study) -> None:
    assert "section-confirmation" not in render_report(study())
    assert results_document(study())["confirmed"] == []


def test_results_have_the_means_and_the_losses_of_every_seed(study) -> None:
    made = confirmed(study, far=0.5)
    monarch, dense = json.loads(json.dumps(results_document(made)))["confirmed"]
    assert (monarch["structure"], dense["structure"]) == (str(MONARCH), str(DENSE))
    assert (monarch["rung"], monarch["budget_flops"], monarch["learning_rate"]) == (1, 4e10, 0.0123)
    for item, one in ((MONARCH, monarch), (DENSE, dense)):
        for width in one["widths"]:
            runs = [r for r in made.confirmation if (r.trial.structure, r.trial.width) == (item, width["width"])]
            assert width["seeds"] == [1000, 1001, 1002]
            assert width["losses"] == [run.loss for run in runs]
            assert width["mean_low"] < width["mean"] < width["mean_high"]
            is_far = (item, width["width"]) == (MONARCH, 128)
            assert width["outlier"] == (1001 if is_far else None)
            assert (width["deviations"] is None) is not is_far
        fitted = made.confirmed[item].minima[0]
        assert (one["loss"], one["best_width"]) == (fitted.loss, fitted.width)
        assert one["loss_low"] < one["loss"] < one["loss_high"]


def test_an_interval_of_more_seeds_is_shorter(study) -> None:
    def half(seeds: int) -> float:
        [width, *_] = confirmed_structures(confirmed(study, seeds))[0].widths
        return math.log(width.mean_high / width.mean)

    assert half(3) / half(12) == pytest.approx(2.0)


def test_a_run_far_from_its_others_is_marked_and_said(study) -> None:
    made = confirmed(study, far=0.5)
    [outlier] = made.outliers
    assert (outlier.run.structure, outlier.run.width, outlier.run.seed) == (MONARCH, 128, 1001)
    [warning] = made.outlier_warnings
    assert warning.startswith("monarch, width 128, seed 1001: in the confirmation this run ends at a loss of ")
    assert f"{100 * (outlier.run.loss / outlier.others - 1):.1f}% above its other seeds" in warning
    assert f"({outlier.deviations:.1f} standard deviations of a run)" in warning
    assert "run the study again with --seeds 6, which keeps the finished runs" in warning
    page = Checker(render_report(made)).text
    assert f"⚠ {warning}." in page
    assert page.count("⚠ 1001:") == 1
    assert "see the warning on these runs before you quote it" in " ".join(headline(made))
    assert made.warnings[-1] == warning
    calm = confirmed(study)
    assert (calm.outliers, calm.outlier_warnings) == ((), ())
    assert "⚠" not in render_report(calm)
    assert "quote this figure" in " ".join(headline(calm))


def test_the_noise_is_that_of_the_ranking_at_the_same_budget(study) -> None:
    """A cheaper rung with much noise does not hide the run."""
    made = confirmed(study, far=0.5)
    source = random.Random(2)
    loud = tuple(
        replace(run, loss=run.loss * math.exp(source.gauss(0, 0.3))) if run.trial.rung == 0 else run
        for run in made.results
    )
    again = replace(made, results=loud, ranking=rank_candidates([*loud, *made.confirmation], DENSE))
    assert again.ranking.noise > 5 * made.ranking.noise
    assert [item.deviations for item in again.outliers] == [item.deviations for item in made.outliers]


def test_a_run_without_a_loss_is_in_the_table_too(study) -> None:
    made = confirmed(study)
    lost = tuple(
        replace(run, status="diverged", loss=None) if (run.trial.seed, run.trial.width) == (1002, 256) else run
        for run in made.confirmation
    )
    again = replace(made, confirmation=lost, ranking=rank_candidates([*made.results, *lost], DENSE))
    rows = {(cells[0][0], cells[1][0]): "".join(cells[2]) for cells in shown(again)}
    assert rows["monarch", "256"].endswith(", 1002:\xa0diverged")


def test_two_gains_of_one_structure_are_explained_where_both_are_shown(study) -> None:
    made = confirmed(study)
    entry = made.ranking.entry_of(MONARCH)
    said = next(line for line in headline(made) if line.startswith("Trained once more"))
    assert f"a gain of {entry.confirmed_gain:.2f}× over dense" in said
    assert f"The column 'compute gain', here {entry.compute_gain:.2f}×, is from the seeds that chose it." in said
    assert "Quote this one: the seeds of the other chose the structure." in Checker(render_report(made)).text
    bounded = replace(entry, compute_gain=None)
    ranking = replace(made.ranking, entries=(bounded, *made.ranking.entries[1:]))
    assert "is from the seeds" not in " ".join(headline(replace(made, ranking=ranking)))


@pytest.mark.parametrize(
    ("difference", "own", "others", "gain", "said"),
    [
        (-0.1, None, None, (0.9, 1.5), "these runs do not show which of the two is better, monarch or dense"),
        (-0.1, None, "edge", (1.1, 1.5), "no verdict, as dense may be better at a width that was not tried (edge)"),
        (0.1, "edge", None, (0.5, 0.9), "no verdict, as monarch may be better at a width that was not tried (edge)"),
        (
            *(-0.1, "edge", None, (1.1, 1.5)),
            "no verdict, as verdicts rest on the loss at equal FLOPs, and its interval, −20.0% to +1.0%, holds for all "
            "1 confirmed structures together and includes 0",
        ),
    ],
)
def test_a_gain_without_a_verdict_has_the_reason(study, difference, own, others, gain, said) -> None:
    """An interval of the gain without 1 does not contradict the sentence about it."""
    made = confirmed(study)
    entries = [
        replace(
            entry,
            confirmed_verdict="cannot tell",
            **dict(zip(("confirmed_gain_low", "confirmed_gain_high"), gain, strict=True)),
            confirmed_difference=difference,
            confirmed_difference_low=-0.2,
            confirmed_difference_high=0.01,
        )
        if entry.structure == MONARCH
        else entry
        for entry in made.ranking.entries
    ]
    changed = replace(made, ranking=replace(made.ranking, entries=tuple(entries)))
    for structure, reason in ((MONARCH, own), (DENSE, others)):
        fitted = changed.confirmed[structure]
        changed.confirmed[structure] = replace(fitted, minima=(replace(fitted.minima[0], reason=reason),))
    [line] = [line for line in headline(changed) if line.startswith("Trained once more")]
    assert f" {gain[0]:.2f} to {gain[1]:.2f}: {said}. " in line


def test_a_run_of_the_ranking_far_from_its_others_is_said_too(study) -> None:
    made = confirmed(study)
    assert made.ranking_outlier_warnings == ()
    place = MONARCH, 1, 128, 2
    results = tuple(
        replace(run, loss=run.loss * 1.5)
        if (run.trial.structure, run.trial.rung, run.trial.width, run.trial.seed) == place
        else run
        for run in made.results
    )
    far = replace(made, results=results, ranking=rank_candidates([*results, *made.confirmation], DENSE))
    [warning] = far.ranking_outlier_warnings
    assert warning.startswith("monarch, width 128, seed 2: in the ranking this run ends at a loss of ")
    assert warning.endswith("run the study again with --seeds 6, which keeps the finished runs")
    assert warning in far.warnings, "these are said in the terminal"
    before, _, after = Checker(render_report(far)).text.partition(f"⚠ {warning}.")
    assert "Ranking" in before
    assert "The confirmation, run by run" in after
    assert "quote this figure" in " ".join(headline(far)), "the confirmation has other runs"
