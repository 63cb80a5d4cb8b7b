from __future__ import annotations

from einsearch_cli.search.halving import promoted, rung_budgets, rung_score, rung_trials
from einsearch_cli.search.spec import HalvingSpec, StudySpec
from einsearch_cli.search.study import planned_counts
from einsearch_cli.structures import Structure, parse_structure
from einsearch_cli.training.proxy.trial import Trial, TrialResult, failed_result

DENSE, MONARCH, LOW_RANK, KRONECKER, TT = (
    parse_structure(text) for text in ("dense", "monarch", "low-rank", "kronecker", "tt:r=2")
)


def result(structure: Structure, width: int, seed: int, loss: float | None) -> TrialResult:
    trial = Trial(structure, width, seed, 0, 1e9)
    if loss is None:
        return failed_result(trial, "diverged", "nan", 0.0)
    return TrialResult(trial, "ok", loss, 1, 1e9, 1e9, 10, 0.1, ())


def test_budgets_grow_by_the_factor_up_to_the_full_one() -> None:
    assert rung_budgets(8.0, HalvingSpec(rungs=4, factor=2)) == (1.0, 2.0, 4.0, 8.0)
    assert rung_budgets(8.0, HalvingSpec(rungs=1)) == (8.0,)


def test_a_rung_trains_everything_at_all_widths_from_all_seeds() -> None:
    trials = rung_trials([DENSE, MONARCH], [64, 128], 3, 1, 5e8)
    assert len({trial.key for trial in trials}) == 12
    assert {trial.budget_flops for trial in trials} == {5e8}


def test_the_better_half_goes_on_and_the_yardstick_always() -> None:
    losses = {DENSE: 9.0, MONARCH: 1.0, LOW_RANK: 4.0, KRONECKER: 2.0, TT: 3.0}
    results = [result(s, 64, seed, loss + seed) for s, loss in losses.items() for seed in range(2)]
    assert promoted(results, list(losses), 0.5, [DENSE]) == [DENSE, MONARCH, KRONECKER]
    assert promoted(results, list(losses), 1.0, [DENSE]) == list(losses)


def test_baselines_go_on_besides_the_better_half_of_the_others() -> None:
    losses = {DENSE: 9.0, LOW_RANK: 8.0, MONARCH: 1.0, KRONECKER: 2.0, TT: 3.0}
    results = [result(s, 64, 0, loss) for s, loss in losses.items()]
    assert promoted(results, list(losses), 0.3, [DENSE, LOW_RANK]) == [DENSE, LOW_RANK, MONARCH]
    spec = StudySpec(baselines=["low-rank"], structures=["monarch", "kronecker", "tt:r=2"], halving={"keep": 0.3})
    assert spec.candidates() == [DENSE, LOW_RANK, MONARCH, KRONECKER, TT]
    assert planned_counts(spec, spec.candidates()) == [5, 3]


def test_the_score_is_the_mean_at_the_best_width() -> None:
    results = [result(MONARCH, 64, 0, 1.0), result(MONARCH, 64, 1, 3.0)]
    results += [result(MONARCH, 128, seed, 1.5) for seed in (0, 1)]
    assert rung_score(results, MONARCH) == 1.5


def test_a_width_with_a_diverged_run_does_not_compete_with_whole_ones() -> None:
    results = [result(MONARCH, 64, 0, 0.1), result(MONARCH, 64, 1, None)]
    assert rung_score(results, MONARCH) == 0.1
    results += [result(MONARCH, 128, seed, 5.0) for seed in (0, 1)]
    assert rung_score(results, MONARCH) == 5.0
    only_diverged = [result(DENSE, 64, 0, 1.0), result(TT, 64, 0, None)]
    assert promoted(only_diverged, [DENSE, TT], 1.0, [DENSE]) == [DENSE]
