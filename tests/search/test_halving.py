from __future__ import annotations

import math

from einsearch_cli.search.halving import planned_counts, promoted, rung_budgets
from einsearch_cli.search.spec import HalvingSpec, StudySpec
from einsearch_cli.structures import parse_structure

DENSE, MONARCH, LOW_RANK, KRONECKER, TT = (
    parse_structure(text) for text in ("dense", "monarch", "low-rank", "kronecker", "tt:r=2")
)


def test_budgets_grow_by_the_factor_up_to_the_full_one() -> None:
    assert rung_budgets(8.0, HalvingSpec(rungs=4, factor=2)) == (1.0, 2.0, 4.0, 8.0)
    assert rung_budgets(8.0, HalvingSpec(rungs=1)) == (8.0,)


def test_the_better_half_goes_on_and_the_yardstick_always() -> None:
    scores = {DENSE: 9.0, MONARCH: 1.0, LOW_RANK: 4.0, KRONECKER: 2.0, TT: 3.0}
    assert promoted(scores, list(scores), 0.5, [DENSE], {}) == [DENSE, MONARCH, KRONECKER]
    assert promoted(scores, list(scores), 1.0, [DENSE], {}) == list(scores)


def test_baselines_go_on_besides_the_better_half_of_the_others() -> None:
    scores = {DENSE: 9.0, LOW_RANK: 8.0, MONARCH: 1.0, KRONECKER: 2.0, TT: 3.0}
    assert promoted(scores, list(scores), 0.3, [DENSE, LOW_RANK], {}) == [DENSE, LOW_RANK, MONARCH]
    spec = StudySpec(baselines=["low-rank"], structures=["monarch", "kronecker", "tt:r=2"], halving={"keep": 0.3})
    assert spec.candidates() == [DENSE, LOW_RANK, MONARCH, KRONECKER, TT]
    assert planned_counts(HalvingSpec(rungs=2, keep=0.3), structures=5, always=2, controls=0) == [5, 3]


def test_a_structure_without_a_loss_never_goes_on() -> None:
    assert promoted({DENSE: math.inf, TT: math.inf}, [DENSE, TT], 1.0, [DENSE], {}) == [DENSE]


def test_a_control_goes_on_with_its_candidate_or_on_its_own_account_and_takes_no_place() -> None:
    of = {KRONECKER: (TT,)}
    scores = {DENSE: 9.0, MONARCH: 1.0, LOW_RANK: 2.0, TT: 3.0, KRONECKER: 8.0}
    assert promoted(scores, list(scores), 1.0, [DENSE], of) == list(scores), "with its candidate"
    assert promoted(scores, list(scores), 0.5, [DENSE], of) == [DENSE, MONARCH, LOW_RANK], "dropped with it"
    best = scores | {KRONECKER: 0.5}
    assert promoted(best, list(scores), 0.5, [DENSE], of) == [DENSE, MONARCH, LOW_RANK, KRONECKER]
    lost = scores | {KRONECKER: math.inf}
    assert KRONECKER not in promoted(lost, list(scores), 1.0, [DENSE], of)
