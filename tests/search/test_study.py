"""The course of a study, on an engine that only pretends to train."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from einsearch_cli.scaling import rank_candidates
from einsearch_cli.search.outcome import StudyOutcome, rate_warnings
from einsearch_cli.search.plan import planned_stages
from einsearch_cli.search.spec import CONFIRMING_SEED, StudySpec
from einsearch_cli.search.widths import WidthGrid, grid_number, grid_width
from einsearch_cli.structures import LayerSpec, parse_structure
from tests.search.synthetic import Course, Interrupted, Law, MemoryStore, run_synthetic

DENSE, MONARCH, LOW_RANK, BTT = (parse_structure(text) for text in ("dense", "monarch", "low-rank", "btt:r=4"))


def spec_of(**settings: object) -> StudySpec:
    given = {"structures": ["monarch", "low-rank"], "budget_flops": 2.5e10, "halving": {"keep": 1}, "confirm": 0}
    given |= {"task_settings": {"batch_size": 16}}  # so that wide networks have enough steps
    return StudySpec.model_validate(given | settings)


def best_width(outcome: StudyOutcome, structure: LayerSpec, rung: int) -> float:
    """Vertex of the parabola through mean log losses of the widths with all seeds, by Lagrange's formula."""
    cells: dict[int, list[float]] = {}
    for result in outcome.ranked:
        if (result.trial.structure, result.trial.rung) == (structure, rung):
            cells.setdefault(result.trial.width, []).append(math.log(result.loss or math.nan))
    most = max(map(len, cells.values()))
    points = sorted((math.log(w), sum(v) / len(v)) for w, v in cells.items() if len(v) == most)
    best = min(range(len(points)), key=lambda i: points[i][1])
    (x0, y0), (x1, y1), (x2, y2) = points[best - 1 : best + 2]
    above = y0 * (x1**2 - x2**2) + y1 * (x2**2 - x0**2) + y2 * (x0**2 - x1**2)
    return math.exp(above / (2 * (y0 * (x1 - x2) + y1 * (x2 - x0) + y2 * (x0 - x1))))


@pytest.mark.parametrize("rate", [0.09, 0.4, 1.0, 3.1, 11.0])
def test_the_best_rate_is_found_wherever_it_lies(rate: float) -> None:
    course = run_synthetic(spec_of(), lambda _: Law(rate=rate))
    for tuned in course.outcome.rates.values():
        assert tuned.rate == pytest.approx(rate, rel=0.15)
        assert tuned.learning_rate == pytest.approx(2e-2 * rate, rel=0.15)
        assert tuned.curvature == pytest.approx(0.05)
        assert not tuned.is_edge
        assert tuned.shift == pytest.approx(1, rel=0.01)
    away = abs(round(math.log2(rate)))
    assert course.count("rates") <= 3 * (3 + away)
    assert {result.trial.rate for result in course.outcome.ranked} == {t.rate for t in course.outcome.rates.values()}
    assert rate_warnings(course.outcome.rates) == ()


def test_each_structure_has_a_rate_of_its_own() -> None:
    rates: dict[LayerSpec, float] = {DENSE: 4.0, MONARCH: 0.5, LOW_RANK: 1.0}
    course = run_synthetic(spec_of(), lambda s: Law(rate=rates[s]))
    assert {s: tuned.rate for s, tuned in course.outcome.rates.items()} == pytest.approx(rates, rel=0.01)


def test_a_rate_at_the_end_of_the_search_is_said_to_be_one() -> None:
    tuned = run_synthetic(spec_of(), lambda _: Law(rate=1000.0)).outcome
    assert tuned.rates[DENSE].edge == "high"
    assert tuned.rates[DENSE].rate == 16
    low = run_synthetic(spec_of(), lambda _: Law(rate=1e-3)).outcome
    assert "dense: the best learning rate, 0.00125, is the lowest that was tried" in rate_warnings(low.rates)[0]


def test_rates_that_diverge_bound_the_search() -> None:
    course = run_synthetic(spec_of(), lambda _: Law(rate=4.0, diverges_from=3.9))
    assert course.outcome.rates[DENSE].rate == 2.0
    assert course.outcome.rates[DENSE].reason == "a neighbour of the best point diverged"
    far = run_synthetic(spec_of(), lambda _: Law(rate=0.1, diverges_from=0.3))
    assert far.outcome.rates[DENSE].rate == pytest.approx(0.125, rel=0.3)


def test_a_structure_whose_runs_all_diverge_leaves_the_others_alone() -> None:
    course = run_synthetic(spec_of(confirm=1), lambda s: Law(diverges_from=0.0 if s == LOW_RANK else math.inf))
    assert course.outcome.rates[LOW_RANK].reason == "no run has a loss"
    assert all(r.loss is None for r in course.outcome.ranked if r.trial.structure == LOW_RANK)
    assert max(r.trial.rung for r in course.outcome.ranked if r.trial.structure == MONARCH) == 2
    assert max(r.trial.rung for r in course.outcome.ranked if r.trial.structure == LOW_RANK) == 0
    assert {r.trial.structure for r in course.outcome.confirmation} == {DENSE, MONARCH}


def test_a_rate_that_moves_with_compute_is_followed_on_the_last_rung_and_warned_of() -> None:
    course = run_synthetic(spec_of(), lambda _: Law(rate_drift=-0.5))
    tuned = course.outcome.rates[DENSE]
    assert tuned.rate == pytest.approx((2.5e10 / 9 / 1e9) ** -0.5, rel=0.15)
    assert tuned.last_rate == pytest.approx(25**-0.5, rel=0.15)
    assert "the best learning rate moved by a factor of 0.33" in rate_warnings(course.outcome.rates)[0]
    for width, cause in (
        (tuned.width, "longer training, or noise, moved it"),
        (2 * tuned.width, "muP does not carry it"),
    ):
        assert cause in rate_warnings({DENSE: replace(tuned, last_width=width)})[0]
    last = [r.trial for r in course.outcome.ranked if r.trial.rung == 2 and r.trial.structure == DENSE]
    assert {trial.rate for trial in last} == {tuned.last_rate}
    seeds = [trial.seed for trial in last]
    assert seeds.count(0) == seeds.count(2) >= 3, "seed 0 too is trained at the new rate"
    assert any(r.trial.stage == "pilot" and r.trial.rung == 2 for r in course.outcome.tuning), "pilots at the old rate"


@pytest.mark.parametrize("width", [5.0, 23.0, 77.0, 330.0])
def test_the_best_width_is_found_wherever_it_lies_and_costs_few_runs(width: float) -> None:
    law = Law(width=width, growth=0.35)
    course = run_synthetic(spec_of(), lambda _: law)
    for structure in (DENSE, MONARCH, LOW_RANK):
        for rung, budget in enumerate((2.5e10 / 9, 2.5e10 / 3, 2.5e10)):
            found = best_width(course.outcome, structure, rung)
            assert abs(math.log(found / law.best_width(budget))) < math.log(2) / 4, "half a step of the grid"
    guess_steps = abs(grid_number(law.best_width(2.5e10 / 9)) - grid_number(64))
    assert course.count("widths", 0) / 3 <= 5 + guess_steps
    assert course.count("widths", 1) / 3 <= 4
    assert course.count("widths", 2) / 3 <= 4
    assert course.count("seeds") / 9 <= 3 * 3.4


def test_widths_that_are_given_are_all_trained_from_all_seeds_and_no_others() -> None:
    course = run_synthetic(spec_of(widths=[16, 48, 128]), lambda _: Law(width=500.0))
    ranked = [result.trial for result in course.outcome.ranked if result.trial.structure == DENSE]
    assert {(t.rung, t.width, t.seed) for t in ranked} == {
        (r, w, s) for r in range(3) for w in (16, 48, 128) for s in range(3)
    }


def test_every_run_stands_in_one_place() -> None:
    outcome = run_synthetic(spec_of(confirm=1), lambda _: Law(rate=1.0, noise=0.01)).outcome
    keys = [result.trial.key for result in outcome.results]
    assert len(keys) == len(set(keys))
    stages = {r.trial.stage for r in outcome.ranked}, {r.trial.stage for r in outcome.tuning}
    assert stages[0] == {"main", "pilot"}
    main = {(r.trial.structure, r.trial.rung, r.trial.width) for r in outcome.ranked if r.trial.stage == "main"}
    pilots = {(r.trial.structure, r.trial.rung, r.trial.width) for r in outcome.ranked if r.trial.stage == "pilot"}
    assert not main & pilots


def test_fixed_rates_train_nothing_else() -> None:
    course = run_synthetic(spec_of(widths=[16, 32], rates="fixed"), lambda _: Law(rate=4.0))
    assert {trial.rate for trial in course.ran} == {1.0}
    assert len(course.ran) == 3 * 3 * 2 * 3
    assert course.outcome.rates == {}


def test_a_structure_that_fits_few_widths_is_searched_among_these(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = WidthGrid.least_budget

    def picky(grid: WidthGrid, structure: LayerSpec, width: int) -> float:
        fits = structure != MONARCH or width in (8, 16, 96, 512)
        return plain(grid, structure, width) if fits else math.inf

    monkeypatch.setattr(WidthGrid, "least_budget", picky)
    course = run_synthetic(spec_of(confirm=1), lambda s: Law(gain=1 + (s == MONARCH), growth=0.0, width=70))
    ranked = [r.trial for r in course.outcome.ranked if r.trial.structure == MONARCH]
    assert {trial.width for trial in ranked} == {16, 96, 512}
    assert {trial.rung for trial in ranked} == {0, 1, 2}
    assert {r.trial.width for r in course.outcome.confirmation if r.trial.structure == MONARCH} == {16, 96, 512}


def test_the_confirmation_has_new_seeds_and_the_best_with_the_yardstick() -> None:
    laws = {DENSE: Law(), MONARCH: Law(gain=2.0), LOW_RANK: Law(gain=0.5)}
    course = run_synthetic(spec_of(confirm=1), laws.__getitem__)
    confirmed = [result.trial for result in course.outcome.confirmation]
    assert {trial.structure for trial in confirmed} == {DENSE, MONARCH}
    assert {trial.seed for trial in confirmed} == set(range(CONFIRMING_SEED, CONFIRMING_SEED + 3))
    for structure in (DENSE, MONARCH):
        mine = [trial for trial in confirmed if trial.structure == structure]
        assert len(mine) == 9
        assert {trial.stage for trial in mine} == {"confirmation"}
        assert {trial.budget_flops for trial in mine} == {2.5e10}
        assert {trial.rate for trial in mine} == {course.outcome.rates[structure].last_rate}
        widths = sorted({trial.width for trial in mine})
        assert widths[0] < laws[structure].best_width(2.5e10) < widths[2]
        assert widths[2] / widths[0] < 2.3
    assert all(result.trial.seed < 3 for result in course.outcome.ranked)
    two = run_synthetic(spec_of(confirm=2), laws.__getitem__)
    assert {r.trial.structure for r in two.outcome.confirmation} == {DENSE, MONARCH, LOW_RANK}


def test_controls_are_trained_and_go_on_with_their_candidates() -> None:
    gains = {DENSE: 1.0, LOW_RANK: 3.0, BTT: 2.0, MONARCH: 0.5}
    spec = spec_of(structures=["btt:r=4", "low-rank", "tt:r=2"], halving={"keep": 0.6})
    course = run_synthetic(spec, lambda s: Law(gain=gains.get(s, 0.1)))
    assert dict(course.outcome.controls) == {
        MONARCH: (BTT,),
        parse_structure("kronecker"): (parse_structure("tt:r=2"),),
    }
    last = {r.trial.structure for r in course.outcome.ranked if r.trial.rung == 1}
    assert last == {DENSE, BTT, LOW_RANK, MONARCH}, "the control of the dropped candidate is dropped"
    without = run_synthetic(spec_of(structures=["btt:r=4"], controls=False), lambda _: Law())
    assert {trial.structure for trial in without.ran} == {DENSE, BTT}


def test_tuning_costs_less_than_two_fifths_more_runs() -> None:
    spec = spec_of(structures=["monarch", "low-rank", "kronecker"], controls=False)
    laws = {DENSE: 4.0, MONARCH: 8.0, LOW_RANK: 0.5, parse_structure("kronecker"): 1.0}
    tuned, fixed = (
        run_synthetic(spec.model_copy(update={"rates": rates}), lambda s: Law(rate=laws[s], noise=0.01))
        for rates in ("tuned", "fixed")
    )
    assert len(fixed.ran) < len(tuned.ran) < 1.4 * len(fixed.ran)


@pytest.mark.parametrize("settings", [{}, {"widths": [32, 64, 128]}, {"rates": "fixed"}, {"confirm": 2}])
def test_the_plan_expects_about_as_many_runs_as_there_are(settings: dict[str, object]) -> None:
    spec = spec_of(structures=["monarch", "low-rank", "kronecker", "btt:r=4"], halving={"keep": 0.5}, **settings)
    course = run_synthetic(spec, lambda s: Law(rate=1.5, noise=0.005, gain=1 + len(str(s)) / 20))
    planned = planned_stages(spec, spec.candidates())
    for stage in planned:
        assert course.count(stage.stage, stage.rung) == pytest.approx(stage.runs, rel=0.45), stage
    assert len(course.ran) == pytest.approx(sum(stage.runs for stage in planned), rel=0.15)


@pytest.fixture(scope="module")
def undisturbed() -> Course:
    return run_synthetic(interrupted_spec(), noisy)


def interrupted_spec() -> StudySpec:
    return spec_of(
        structures=["btt:r=4", "low-rank"], seeds=2, most_seeds=5, halving={"rungs": 2, "keep": 0.5}, confirm=1
    )


def noisy(structure: LayerSpec) -> Law:
    return Law(rate=3.0, width=100.0, noise=0.02, gain=1 + len(str(structure)) / 20)


@pytest.mark.parametrize("every", [1, 7])
def test_a_study_that_is_interrupted_at_every_event_ends_the_same(undisturbed: Course, every: int) -> None:
    store = MemoryStore()
    for _ in range(1000):
        try:
            last = run_synthetic(interrupted_spec(), noisy, store=store, stop_after=every)
        except Interrupted:
            continue
        break
    assert last.outcome == undisturbed.outcome
    assert [result.trial.key for result in store.results()] == [
        trial.key for trial in sorted(undisturbed.ran, key=lambda trial: trial.budget_flops)
    ]
    assert store.begun == len(undisturbed.ran), "no finished trial is run twice"


def test_a_finished_study_takes_more_seeds_candidates_and_rungs() -> None:
    store = MemoryStore()
    first = run_synthetic(spec_of(confirm=1), lambda _: Law(), store=store)
    again = run_synthetic(spec_of(confirm=1), lambda _: Law(), store=store)
    assert again.ran == []
    assert again.outcome == first.outcome
    more_seeds = run_synthetic(spec_of(confirm=1, seeds=4), lambda _: Law(), store=store)
    assert {trial.seed for trial in more_seeds.ran} == {3, CONFIRMING_SEED + 3}
    candidate = run_synthetic(spec_of(structures=["monarch", "low-rank", "btt:r=4"]), lambda _: Law(), store=store)
    assert {trial.structure for trial in candidate.ran} == {BTT}
    rung = spec_of(budget_flops=7.5e10, halving={"rungs": 4, "keep": 1})
    further = run_synthetic(rung, lambda _: Law(), store=store)
    assert {trial.budget_flops for trial in further.ran} == {7.5e10}
    assert {result.trial.rung for result in further.outcome.ranked} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("rungs", "budget_flops", "fresh"),
    [(4, 2.5e10, {2.5e10 / 27}), (4, 7.5e10, {7.5e10}), (5, 7.5e10, {2.5e10 / 27, 7.5e10})],
)
def test_rungs_below_and_above_leave_all_runs_of_the_others(rungs: int, budget_flops: float, fresh: set[float]) -> None:
    """A rung keeps the rates with which it was trained, also if the best rate moves with compute."""
    store, law = MemoryStore(), Law(rate=1.5, rate_drift=0.3)
    first = run_synthetic(spec_of(), lambda _: law, store=store)
    assert any(tuned.last_rate != tuned.rate for tuned in first.outcome.rates.values())
    spec = spec_of(budget_flops=budget_flops, halving={"rungs": rungs, "keep": 1})
    more = run_synthetic(spec, lambda _: law, store=store)
    assert {round(trial.budget_flops) for trial in more.ran} == {round(budget) for budget in fresh}
    assert run_synthetic(spec, lambda _: law, store=store).ran == []


def test_other_seeds_repeat_the_study_independently_of_the_first() -> None:
    store = MemoryStore()
    first, second = (
        run_synthetic(spec_of(confirm=1, first_seed=seed), lambda _: Law(noise=0.01), store=store) for seed in (0, 3)
    )
    assert {trial.seed for trial in first.ran} == {0, 1, 2, 1000, 1001, 1002}
    assert {trial.seed for trial in second.ran} == {3, 4, 5, 1003, 1004, 1005}
    assert {result.trial.seed for result in second.outcome.tuning} == {3}
    assert {result.trial.seed for result in second.outcome.ranked} == {3, 4, 5}
    assert run_synthetic(spec_of(confirm=1), lambda _: Law(noise=0.01), store=store).ran == []


def test_only_undecided_candidates_get_more_seeds() -> None:
    laws = {DENSE: Law(noise=0.02), MONARCH: Law(gain=3.0, noise=0.02), LOW_RANK: Law(gain=1.02, noise=0.02)}
    course = run_synthetic(spec_of(most_seeds=10, confirm=1), laws.__getitem__)
    seeds: dict[tuple[LayerSpec, int], set[int]] = {}
    for trial in (result.trial for result in course.outcome.ranked):
        seeds.setdefault((trial.structure, trial.rung), set()).add(trial.seed)
    assert seeds[MONARCH, 2] == {0, 1, 2}
    assert seeds[LOW_RANK, 2] == seeds[DENSE, 2] == set(range(10))
    assert all(seeds[structure, rung] == {0, 1, 2} for structure in laws for rung in (0, 1))
    spending = course.outcome.spending
    assert (spending.looks, spending.extended) == ((3, 6, 10), (1, 1))
    assert spending.saved_runs == 3 * 7
    assert spending.saved_flops == 21 * 2.5e10
    assert spending.planned_runs == pytest.approx(len(course.ran), rel=0.2)
    assert course.count("more seeds", 2) == 2 * 3 * 7
    assert {r.trial.seed for r in course.outcome.confirmation} == {1000, 1001, 1002}
    assert {t.seed for t in run_synthetic(spec_of(confirm=1), laws.__getitem__).ran} == {0, 1, 2, 1000, 1001, 1002}


def test_a_verdict_has_to_hold_over_all_looks() -> None:
    """An advantage that one look would call better, but the bounds for three looks do not, gets more seeds."""
    laws = {DENSE: Law(noise=0.03), MONARCH: Law(gain=1.1, noise=0.03)}
    once = run_synthetic(spec_of(structures=["monarch"]), laws.__getitem__).outcome
    called = {looks: rank_candidates(once.ranked, DENSE, looks=looks).entry_of(MONARCH) for looks in ((3,), (3, 6, 12))}
    assert [entry.verdict for entry in called.values() if entry is not None] == ["better", "cannot tell"]
    more = run_synthetic(spec_of(structures=["monarch"], most_seeds=12), laws.__getitem__).outcome
    assert more.spending.extended[0] == 1


def test_the_ablation_repeats_the_run_that_stands_for_each_mixture_once() -> None:
    mixtures = ["btt-moe:experts=4,top=2", "low-rank-moe:r=4,experts=4,top=2"]
    spec = spec_of(structures=mixtures, widths=[16, 32], seeds=2, ablate_balance=True, controls=False, rates="fixed")
    best = {"btt-moe": 32.0, "low-rank-moe": 16.0}
    course = run_synthetic(spec, lambda s: Law(width=best.get(getattr(s, "family", ""), 16.0), growth=0.0))
    ablations = [result.trial for result in course.outcome.unbalanced]
    assert set(course.ran[-2:]) == set(ablations)
    assert {(trial.structure.family, trial.width, trial.seed, trial.rung) for trial in ablations} == {
        ("btt-moe", 32, 0, 2),
        ("low-rank-moe", 16, 0, 2),
    }
    assert all(result.trial.balanced for result in course.outcome.ranked)


def test_the_grid_has_a_ratio_of_about_the_root_of_two() -> None:
    widths = [grid_width(number) for number in range(4, 30)]
    assert all(1.3 < wide / narrow < 1.51 for narrow, wide in itertools.pairwise(widths))
    assert [grid_number(width) for width in widths] == list(range(4, 30))
