from dataclasses import replace

import pytest

from einsearch_cli.reports.headline import headline
from einsearch_cli.scaling import Prediction, rank_candidates
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.structures import MixtureOfExperts, parse_layer, short_name
from tests.reports.test_figures import noisy


def test_winner_distance_and_gain_are_computed(study):
    lines = headline(study())
    assert (
        lines[0]
        == "At 4×10¹⁰ training FLOPs per run, btt:r=2 reaches the lowest loss: 0.5283 (3 seeds at each width, best width 128)."
    )
    gain = 0.8 ** (-1 / 0.3)
    assert "20.0% below dense's loss at equal FLOPs (95% interval" in lines[1]
    assert f"{100 / gain:.0f}% of dense's compute (gain {gain:.2f}×" in lines[1]
    assert lines[2] == "Of the 4 structures trained with that budget besides dense, 2 are better and 2 are worse."
    assert lines[3] == "From 1×10¹⁰ to 4×10¹⁰ FLOPs, no structure's gain over dense clearly rises or falls."
    assert len(lines) == 4, "three structures against two cannot tell"


def test_every_baseline_has_a_sentence(study):
    lines = headline(study(baselines=("monarch", "low-rank")))
    against = [line for line in lines if line.startswith("btt:r=2 ends ")]
    assert len(against) == 2
    assert "5.9% below monarch's loss at equal FLOPs (95% interval" in against[0]
    assert "of low-rank's compute (gain" in against[1]


def test_a_dense_winner_is_reported(study):
    lines = headline(study(texts=("dense", "low-rank")))
    assert "dense reaches the lowest loss" in lines[0]
    assert "The best other structure, low-rank, ends 20.0% above dense's loss" in lines[1]
    assert "gain" not in lines[1]


def test_one_seed_claims_no_interval(study):
    lines = headline(study(seeds=1))
    assert "(one seed, best width 128)" in lines[0]
    assert "without an interval" in lines[1]
    assert "95%" not in " ".join(lines)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"texts": ("dense",)}, "No other structure finished a run"),
        ({"failed": ("dense",)}, "No run of the yardstick, dense, finished"),
        ({"texts": ("dense",), "failed": ("dense",)}, "No run finished"),
    ],
)
def test_missing_parts_are_reported(study, settings, said):
    assert said in " ".join(headline(study(**settings)))


def test_a_name_stands_for_one_structure():
    """Names of all structures with exponents in thirds and quarters read back to the same structure."""
    for grid in (3, 4):
        for layer in StudySpec.model_validate({"space": {"grid": grid}}).candidates():
            assert parse_layer(short_name(layer)) == layer
            experts = MixtureOfExperts(layer, 8, 2)
            assert parse_layer(short_name(experts)) == experts


def test_sentences_call_structures_by_names_that_stand_for_them_alone(study):
    thirds = "XA^1/3 XAB^2/3 YB^1/3 YAB^2/3", "XA^2/3 XAB^1/3 YB^2/3 YAB^1/3"
    first = headline(study(texts=("dense", *thirds, "kronecker")))
    assert "dense reaches" in first[0]
    assert f"The best other structure, {short_name(parse_layer(thirds[0]))}, ends" in first[1]


def test_groups_of_three_structures_are_compared_and_smaller_ones_are_not(study):
    texts = ("dense", "btt:r=2", "monarch", "low-rank", "kronecker", "low-rank:r=16")
    assert "Mann–Whitney" not in " ".join(headline(study(texts=texts[:5])))
    said = headline(study(texts=texts))[-1]
    assert "the median loss of the 3 structures with ω = 0 and ψ = 1 (dense among them) is " in said
    # Fully apart, 3 of 6 can lie below in one of 20 ways, or above: p = 2 / 20.
    assert said.endswith(
        " That compares 6 structures and does not test ω or ψ: Mann–Whitney p = 0.1, if they were a random sample."
    )


def test_a_stopped_structure_that_is_predicted_better_is_named(study):
    made = study(stopped=("monarch",))
    ranking = made.ranking

    def predicted(loss):
        return Prediction(compute=1e13, loss=loss, low=0.9 * loss, high=1.1 * loss, decades_beyond=2.0)

    losses = {"btt": 0.2, "monarch": 0.1, "low-rank": 0.05}
    entries = tuple(
        replace(entry, prediction=predicted(losses[entry.family]) if entry.family in losses else None)
        for entry in ranking.entries
    )
    said = " ".join(headline(replace(made, ranking=replace(ranking, entries=entries))))
    assert (
        "monarch was stopped early, after 1×10¹⁰ FLOPs per run, but is predicted to reach 0.1000 (95% interval "
        "0.09000 to 0.1100) at 1×10¹³ FLOPs, where btt:r=2 is predicted to reach 0.2000 (95% interval 0.1800 to 0.2200)"
    ) in said
    assert "stopped early" not in " ".join(headline(made))


def test_losses_off_the_fitted_parabola_are_warned_of(study):
    """The first rung lies on a wide parabola and the last on a narrow one, which a common curvature cannot follow."""
    made = study()
    results = tuple(
        replace(run, loss=run.loss * (1.0 if run.trial.width == 128 else 2.0))
        if run.trial.rung == 1 and str(run.trial.structure) == str(parse_layer("monarch"))
        else run
        for run in made.results
    )
    ranking = rank_candidates(results, parse_layer("dense"))
    warnings = replace(made, results=results, ranking=ranking).warnings
    (said,) = [warning for warning in warnings if "parabola" in warning]
    measured = 0.85 * 4**-0.3 * 1.001
    assert said.startswith(
        "monarch: its mean losses over width lie further from the fitted parabola than seeds explain"
    )
    assert f"the lowest mean that was measured is {measured:.4f}, at width 128" in said
    assert not [warning for warning in made.warnings if "parabola" in warning]


def test_structures_without_a_verdict_are_counted_in_one_sentence(study):
    said = "None of the 4 structures trained with that budget is clearly better or worse than dense."
    assert said in headline(study(seeds=1))


def test_the_best_width_that_leaves_a_comparison_open_is_said_to_be_that_of_the_other_structure(study):
    made = study(texts=("dense", "monarch"))
    reason = "of the yardstick: the best width, 16, is the narrowest that was tried"
    best = replace(made.ranking.entries[0], verdict="cannot tell", verdict_reason=reason)
    said = headline(replace(made, ranking=replace(made.ranking, entries=(best, *made.ranking.entries[1:]))))
    assert said[1].endswith(
        "which of the two is better stays open, as dense's best width, 16, is the narrowest that was tried."
    )
    assert "yardstick" not in " ".join(said)


def timed(made, paces, yardstick="dense", baselines=()):
    """The study with steps that last as long as these seconds say, times the width; other structures take 1."""
    seconds = {
        (run.trial.structure, run.trial.width): run.trial.width * paces.get(short_name(run.trial.structure), 1.0)
        for run in made.results
    }
    ranked = [
        rank_candidates(made.results, parse_layer(text), step_seconds=seconds) for text in (yardstick, *baselines)
    ]
    return replace(made, step_seconds=seconds, ranking=ranked[0], comparisons=tuple(ranked[1:]))


@pytest.mark.parametrize(
    ("pace", "faster"), [(9.0, "dense is faster"), (1.0, "cannot tell which is faster"), (0.2, "monarch is faster")]
)
@pytest.mark.parametrize("verdict", ["better", "cannot tell"])
def test_the_first_sentence_says_which_is_faster(study, pace, faster, verdict):
    """The verdict on the loss does not matter: a winner that may be luck costs its seconds too."""
    made = timed(noisy(study(("dense", "monarch"), rungs=3), 0.02), {"monarch": pace})
    entry = replace(made.ranking.entries[0], verdict=verdict)
    made = replace(made, ranking=replace(made.ranking, entries=(entry, *made.ranking.entries[1:])))
    first, *others = headline(made)
    gain, low, high = entry.seconds_gain, entry.seconds_gain_low, entry.seconds_gain_high
    assert first.endswith(
        f"; for the same loss dense needs {gain:.2f} times monarch's seconds on this machine "
        f"(95% interval {low:.2f} to {high:.2f}): {faster}."
    )
    assert others[0].startswith("Its loss is ")
    assert not any("times monarch's seconds" in line for line in others), "once is enough"


def test_time_stands_by_every_other_verdict_too(study):
    made = timed(noisy(study(("dense", "low-rank", "kronecker"), rungs=3)), {"low-rank": 9.0}, baselines=["kronecker"])
    first, second, *others = headline(made)
    assert "seconds" not in first, "dense is the one whose time others are compared with"
    assert "The best other structure, low-rank, ends " in second
    assert "; for the same loss dense needs 0." in second
    assert second.endswith("dense is faster.")
    [against] = [line for line in others if line.startswith("low-rank ends ")]
    assert against.endswith("kronecker is faster.")
    assert not any("seconds" in line for line in headline(study())), "nothing was timed"


def test_where_no_loss_is_shared_the_seconds_of_runs_are_compared(study):
    made = timed(study(("dense", "btt:r=2"), rungs=1), {"btt:r=2": 3.0})
    assert made.ranking.entries[0].seconds_gain is None
    assert headline(made)[0].endswith(
        "(3 seeds at each width, best width 128); a run of btt:r=2 takes 3.00 times as long as one of dense."
    )


def test_a_gain_in_seconds_without_an_interval_claims_none(study):
    made = timed(study(("dense", "btt:r=2"), rungs=3, seeds=1), {"btt:r=2": 3.0})
    assert headline(made)[0].endswith(" times btt:r=2's seconds on this machine, without an interval.")
