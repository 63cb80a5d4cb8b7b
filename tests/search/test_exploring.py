"""The search for candidates, on an engine that only pretends to train."""

from __future__ import annotations

import math
import sys
from statistics import fmean

import pytest

from einsearch_cli.errors import SpecError
from einsearch_cli.scaling import rank_candidates
from einsearch_cli.search import proposing
from einsearch_cli.search.budgets import width_grid
from einsearch_cli.search.equal_networks import EqualNetworks
from einsearch_cli.search.explore_spec import SAMPLERS, ExploreSpec
from einsearch_cli.search.plan import planned_stages, run_total
from einsearch_cli.search.proposing import check_space
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.search.widths import grid_number
from einsearch_cli.structures import LayerSpec, expert_of, parse_structure
from einsearch_cli.taxonomy import taxonomy_of
from tests.search.synthetic import Course, Interrupted, Law, MemoryStore, run_synthetic

DENSE = parse_structure("dense")


def spec_of(**explore: object) -> StudySpec:
    given = {"runs": 40, "min_psi": "1/2", "max_omega": "1/2", **explore}
    return StudySpec.model_validate({
        "explore": given, "budget_flops": 2.5e10, "controls": False, "rates": "fixed", "halving": {"rungs": 2},
        "task_settings": {"batch_size": 16},
    })  # fmt: skip


def law(structure: LayerSpec) -> Law:
    """Small ω and ν pay off; the best structures of the space are 20% below dense at equal compute."""
    known = taxonomy_of(expert_of(structure))
    return Law(gain=math.exp(2 * (1 - float(known.nu)) - 4 * float(known.omega)), noise=0.01)


def proposals(course: Course) -> dict[LayerSpec, list[float]]:
    """Log losses of the structures that the search proposed, by structure."""
    given = spec_of().candidates()
    found: dict[LayerSpec, list[float]] = {}
    for result in course.outcome.explored:
        if result.trial.structure not in given:
            found.setdefault(result.trial.structure, []).append(math.log(result.loss or math.nan))
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_spends_its_runs_within_the_bounds_and_ranks_what_it_found(sampler: str) -> None:
    course = run_synthetic(spec_of(sampler=sampler), law)
    found = course.outcome.exploration
    assert found is not None
    early = [trial for trial in course.ran if trial.stage == "explore"]
    assert len(early) == found.runs == 40
    assert {trial.budget_flops for trial in early} == {2.5e10 / 3}
    assert min(trial.seed for trial in early) == 2000, "no seed of a ranking or a confirmation"
    for structure in proposals(course):
        known = taxonomy_of(expert_of(structure))
        assert known.psi >= 0.5
        assert known.omega <= 0.5
        assert known.nu <= 1
    assert len(found.found) == 3
    assert set(found.found) <= {result.trial.structure for result in course.outcome.ranked}
    assert all(result.trial.seed < 1000 for result in course.outcome.ranked), "no run chose what it ranks"
    confirmed = {result.trial.structure for result in course.outcome.confirmation}
    assert confirmed & set(found.found)
    assert {DENSE, found.rival} <= confirmed
    entry = rank_candidates(course.outcome.results, found.rival or DENSE).entry_of(found.found[0])
    assert entry is not None


def test_the_sampler_learns_from_losses() -> None:
    tpe, chance = (
        [fmean(losses) for losses in proposals(run_synthetic(spec_of(sampler=s, runs=80), law)).values()]
        for s in ("tpe", "random")
    )
    half = len(tpe) // 2
    assert fmean(tpe[half:]) < fmean(chance[half:]) - 0.05
    assert fmean(tpe[half:]) < fmean(tpe[:half]) - 0.05, "later proposals are better than earlier ones"


def test_a_search_that_was_interrupted_goes_on_where_it_was() -> None:
    whole = run_synthetic(spec_of(), law)
    store, ran = MemoryStore(), 0
    for stop_after in (7, 20, math.inf):
        try:
            course = run_synthetic(spec_of(), law, store=store, stop_after=stop_after)
        except Interrupted:
            continue
        ran = store.begun
        assert course.outcome.exploration == whole.outcome.exploration
        assert course.outcome.explored == whole.outcome.explored
    assert ran == len(whole.ran), "nothing was trained twice"


def test_equal_networks_are_trained_once_and_the_sampler_gets_their_loss() -> None:
    def rounded(structure: LayerSpec, _: int) -> object:
        known = taxonomy_of(expert_of(structure))
        return round(8 * float(known.nu)), round(4 * float(known.omega)), round(4 * float(known.psi))

    course = run_synthetic(spec_of(), law, networks=EqualNetworks(rounded))
    early = [trial for trial in course.ran if trial.stage == "explore"]
    networks = {(rounded(trial.structure, 0), trial.width, trial.seed) for trial in early}
    assert len(networks) == len(early)
    assert course.outcome.exploration is not None
    assert course.outcome.exploration.repeated > 0


def test_exponents_that_all_round_to_one_network_are_reported() -> None:
    with pytest.raises(SpecError, match="found no network besides those of the candidates") as caught:
        run_synthetic(
            spec_of().model_copy(update={"widths": [64]}), law, networks=EqualNetworks(lambda _, width: width)
        )
    assert "larger budget or wider widths" in caught.value.remedy


def test_a_search_whose_candidates_take_all_runs_says_so() -> None:
    with pytest.raises(SpecError, match="the search has 10 runs, and none is left for new structures: candidates took"):
        run_synthetic(spec_of(runs=10), lambda _: Law(width=400))


@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0])
def test_every_structure_is_trained_where_its_flops_pay(scale: float) -> None:
    """Best widths are known for two anchors; others are placed by FLOPs per token, however far that is from the guess."""
    spec = spec_of()
    course = run_synthetic(spec, lambda s: Law(width=scale * (40 if s == DENSE else 110), gain=law(s).gain))
    grid = width_grid(spec, spec.open_task())

    def flops(structure: LayerSpec, width: float) -> float:
        return grid.flops_per_token(structure, grid_number(width)) or math.nan

    growth = (25 / 3) ** (1 / 3)  # of best widths, up to the budget of the rung
    best = [flops(s, scale * width * growth) for s, width in ((DENSE, 40), (parse_structure("monarch"), 110))]
    for result in course.outcome.explored:
        if result.trial.structure in proposals(course):
            assert min(best) / 2 <= flops(result.trial.structure, result.trial.width) <= 2 * max(best)


def test_rates_of_the_anchors_are_those_of_all() -> None:
    spec = spec_of().model_copy(update={"rates": "tuned"})
    course = run_synthetic(spec, lambda s: Law(rate=4.0, gain=law(s).gain))
    rates = {r.trial.rate for r in course.outcome.explored if r.trial.structure in proposals(course)}
    assert len(rates) == 1
    assert rates.pop() == pytest.approx(4, rel=0.1)


def test_the_plan_counts_the_search_and_what_it_is_to_find() -> None:
    spec = spec_of()
    plan = planned_stages(spec, spec.candidates())
    assert (plan[0].stage, plan[0].runs) == ("explore", 40)
    assert next(stage for stage in plan if stage.stage == "widths").structures == 6 + 3
    course = run_synthetic(spec, law)
    assert len(course.ran) == pytest.approx(run_total(plan), rel=0.2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"factors": 1}, "a structure of one factor is dense"),
        (
            {"max_omega": "0", "min_psi": "1", "max_nu": "1/4"},
            r"max_omega = 0, max_nu = 1/4: max_nu and min_psi together leave nothing\ntry: max_nu = 0\.5\d, or min_psi",
        ),
    ],
)
def test_spaces_without_a_structure_are_refused_before_anything_is_trained(
    settings: dict, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposing, "MOST_DRAWS", 1000)
    with pytest.raises(SpecError, match=said) as caught:
        check_space(ExploreSpec.model_validate(settings))
    for way in caught.value.remedy.split(", or ") if "max_nu" in said else ():
        name, value = way.split(" = ")
        check_space(ExploreSpec.model_validate({**settings, name: value}))


def test_a_sampler_whose_package_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(SpecError, match="the sampler cma-es needs the package cmaes") as caught:
        run_synthetic(spec_of(sampler="cma-es"), law)
    assert caught.value.remedy == "pip install 'einsearch[cmaes]'"
