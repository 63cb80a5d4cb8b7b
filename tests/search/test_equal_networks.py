"""Thirds and quarters of 64 and 128 are the same integers: such candidates are one network, and trained once."""

from __future__ import annotations

from pathlib import Path

import pytest

from einsearch_cli.search.equal_networks import EqualNetworks
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.structures import parse_layer
from einsearch_cli.tasks import open_task
from einsearch_cli.training.proxy.trial import TrialResult
from tests.search.synthetic import Course, Law, MemoryStore, run_synthetic
from tests.taxonomy.test_exponents import PUBLISHED

THIRD, QUARTER = "XA^1/3 XAB^2/3 YB^2/3 YAB^1/3", "XA^1/4 XAB^3/4 YB^3/4 YAB^1/4"


def test_the_published_structures_are_different_networks_at_60_but_not_at_64() -> None:
    networks, published = EqualNetworks.of_task(open_task("teacher")), [parse_layer(text) for text in PUBLISHED]
    assert [networks.distinct(published, width) for width in (60, 64, 128)] == [23, 20, 19]
    assert all(width != 60 for width, _ in networks.groups(published, (60, 64, 128)))


def test_bonds_and_experts_make_other_networks() -> None:
    mixtures = ("btt-moe:experts=4,top=2", "btt-moe:experts=4,top=1", "btt-moe:experts=8,top=2")
    structures = [parse_layer(text) for text in ("monarch", "btt:r=2", *mixtures)]
    networks = EqualNetworks.of_task(open_task("teacher"))
    assert networks.distinct(structures, 64) == len(structures)
    assert networks.groups(structures, (64,)) == []


def course_of(store: MemoryStore, **settings: object) -> Course:
    given = {"structures": [THIRD, QUARTER], "widths": [64, 120], "seeds": 2, "halving": {"rungs": 2, "keep": 1}}
    spec = StudySpec.model_validate(given | {"confirm": 0} | settings)
    networks = EqualNetworks.of_task(spec.open_task())
    return run_synthetic(spec, lambda _: Law(noise=0.01), networks=networks, store=store)


def test_an_equal_network_is_trained_once_and_its_result_stands_for_both() -> None:
    store = MemoryStore()
    course = course_of(store, rates="fixed")
    ran, results = course.ran, course.outcome.results
    third, quarter = parse_layer(THIRD), parse_layer(QUARTER)
    assert len(ran) == 2 * 2 * (2 + 3), "rungs x seeds x (two networks at width 64, three at 120), dense among them"
    assert {trial.width for trial in ran if trial.structure == quarter} == {120}
    assert len(results) == 2 * 2 * 2 * 3, "every candidate has a result at every width"
    assert [stage.trials for stage in course.stages] == [10, 10]
    copies = [result for result in results if result.trained_as is not None]
    assert {(copy.trial.structure, copy.trial.width, copy.trained_as) for copy in copies} == {(quarter, 64, third)}
    sources = {(r.trial.rung, r.trial.seed): r for r in results if r.trial.structure == third and r.trial.width == 64}
    assert all(copy.loss == sources[copy.trial.rung, copy.trial.seed].loss for copy in copies)
    assert len(copies) == 4
    again = course_of(store, rates="fixed")
    assert again.ran == []
    assert again.outcome == course.outcome
    assert TrialResult.from_json(copies[0].to_json()) == copies[0]


def test_networks_that_are_equal_where_rates_are_tuned_get_the_same_rate() -> None:
    rates = course_of(MemoryStore(), widths=[60, 64, 120]).outcome.rates
    assert rates[parse_layer(THIRD)].rate == rates[parse_layer(QUARTER)].rate
    apart = course_of(MemoryStore(), widths=[64, 120]).outcome.rates
    assert apart[parse_layer(THIRD)].rate != apart[parse_layer(QUARTER)].rate


def test_equal_networks_at_other_rates_are_trained_each() -> None:
    course = course_of(MemoryStore(), widths=[64, 120])
    third, quarter = parse_layer(THIRD), parse_layer(QUARTER)
    own = {trial.structure for trial in course.ran if trial.width == 64 and trial.rung == 0}
    assert {third, quarter} <= own


def test_the_plan_names_equal_networks_and_counts_their_runs_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from einsearch_cli.cli.main import main

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    study_file = tmp_path / "study.yaml"
    study_file.write_text(
        f"structures: ['{THIRD}', '{QUARTER}']\nwidths: [64, 120]\nseeds: 1\nbudget_flops: 1e9\n"
        "halving: {rungs: 1}\nrates: fixed\nconfirm: 0\n"
        "task_settings: {teacher_width: 16, pool_size: 1024, validation_size: 64, batch_size: 64}\n"
    )
    assert main(["rank", str(study_file), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"at width 64 these are one network, trained once: {THIRD}, {QUARTER}" in out
    assert "in all 5 runs" in out
