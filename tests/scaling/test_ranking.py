import json
import math
import random
import subprocess
import sys
from dataclasses import replace

import pytest

from einsearch_cli.errors import SpecError
from einsearch_cli.scaling import Ranking, rank_candidates
from einsearch_cli.structures import parse_structure

DENSE, MONARCH = parse_structure("dense"), parse_structure("monarch")


def names(ranking):
    return [entry.family for entry in ranking.entries]


def test_order_is_rung_then_loss_then_failed(run):
    results = [
        run("dense", 0.50), run("dense", 0.40, rung=1, flops=1e10),
        run("monarch", 0.45), run("monarch", 0.35, rung=1, flops=1e10),
        run("low-rank", 0.30),  # lower than all, but stopped at the first rung
        run("kronecker", 0.60),
        run("tt:r=4", None, status="failed"),
    ]  # fmt: skip
    ranking = rank_candidates(results, DENSE)
    assert names(ranking) == ["monarch", "dense", "low-rank", "kronecker", "tt"]
    assert [entry.rank for entry in ranking.entries] == [1, 2, 3, 4, 5]
    assert [entry.rung for entry in ranking.entries] == [1, 1, 0, 0, None]
    last = ranking.entries[-1]
    assert (last.loss, last.verdict, last.runs_failed, last.compute_gain) == (None, "failed", 1, None)


def test_order_does_not_hang_on_the_order_of_results(run):
    texts = ["dense", "monarch", "kronecker", "low-rank"]
    results = [run(text, 0.5 + 0.1 * (index % 2), seed=s) for index, text in enumerate(texts) for s in range(3)]
    expected = rank_candidates(results, DENSE)
    random.Random(0).shuffle(results)
    assert rank_candidates(results, DENSE) == expected


def test_equal_losses_share_a_rank(run):
    ranking = rank_candidates([run("dense", 0.5), run("monarch", 0.5), run("kronecker", 0.7)], DENSE)
    assert [entry.rank for entry in ranking.entries] == [1, 1, 3]


def test_failed_dense_leaves_the_others_ranked(run):
    results = [run("dense", None, status="diverged")] + [run("monarch", 0.5, seed=s) for s in range(3)]
    monarch, dense = rank_candidates(results, DENSE).entries
    assert (monarch.loss, monarch.verdict, monarch.compute_gain) == (pytest.approx(0.5), "cannot tell", None)
    assert monarch.verdict_reason == "the yardstick has no finished run at the same rung"
    assert dense.verdict == "failed"


def test_dense_is_listed_even_without_any_run(run):
    assert names(rank_candidates([run("monarch", 0.5)], DENSE)) == ["monarch", "dense"]


@pytest.mark.parametrize("loss", [0.0, -2.0, math.nan, math.inf])
def test_losses_without_a_logarithm_count_as_failed(run, loss):
    results = [run("dense", 0.5, seed=s) for s in range(3)] + [run("monarch", loss, seed=s) for s in range(3)]
    entry = rank_candidates(results, DENSE).entry_of(MONARCH)
    assert (entry.loss, entry.verdict, entry.runs_failed) == (None, "failed", 3)


def test_verdict_needs_an_interval_that_leaves_out_zero(cells):
    def verdict(losses):
        results = cells("dense", (0.50, 0.52, 0.54)) + cells("monarch", losses)
        return rank_candidates(results, DENSE).entry_of(MONARCH)

    assert verdict((0.40, 0.42, 0.44)).verdict == "better"
    assert verdict((0.60, 0.62, 0.64)).verdict == "worse"
    unsure = verdict((0.40, 0.60, 0.50))
    assert (unsure.verdict, unsure.verdict_reason) == (
        "cannot tell",
        "the interval for all candidates together includes 0",
    )
    geometric = (0.40 * 0.42 * 0.44 / (0.50 * 0.52 * 0.54)) ** (1 / 3)
    assert verdict((0.40, 0.42, 0.44)).difference == pytest.approx(geometric - 1)


def test_one_seed_gives_no_verdict(cells):
    entry = rank_candidates(cells("dense", (0.5,)) + cells("monarch", (0.3,)), DENSE).entry_of(MONARCH)
    assert (entry.verdict, entry.loss_low, entry.difference_low) == ("cannot tell", None, None)
    assert entry.verdict_reason == "no width was trained from two seeds, so how much losses vary is not known"


@pytest.mark.parametrize(
    ("dense", "monarch", "verdict", "reason"),
    [
        ((1.1, 1.0, 1.1), (1.2, 1.1, 1.0), "better", None),  # its loss is at most the measured one
        ((1.2, 1.1, 1.0), (1.1, 1.0, 1.1), "cannot tell", "of the yardstick: the best width, 144, is the widest"),
    ],
)
def test_a_best_width_at_an_edge_bounds_the_loss_from_above_only(cells, dense, monarch, verdict, reason):
    results = cells("dense", (0.50, 0.51, 0.52), factors=dense) + cells("monarch", (0.40, 0.41, 0.42), factors=monarch)
    entry = rank_candidates(results, DENSE).entry_of(MONARCH)
    assert entry.verdict == verdict
    assert (entry.verdict_reason or "").startswith(reason or "")
    assert (entry.width_edge == "high") == (verdict == "better")
    turned = rank_candidates(results, MONARCH).entry_of(DENSE)  # the same pair from the other side
    assert turned.verdict == ("worse" if verdict == "better" else "cannot tell")


@pytest.mark.parametrize(
    ("widths", "reason"),
    [
        ((64, 128), "2 widths: at least three show where the loss is lowest"),
        ((32, 128, 512), "widths a factor 4 apart do not show how low the loss is between them"),
    ],
)
def test_widths_that_cannot_carry_a_verdict_are_named(cells, widths, reason):
    factors = (1.1, 1.0, 1.1)[: len(widths)]
    results = cells("dense", (0.40, 0.41), widths=widths, factors=factors)
    results += cells("monarch", (0.50, 0.51), widths=widths, factors=factors)
    entry = rank_candidates(results, DENSE).entry_of(MONARCH)
    assert (entry.verdict, entry.verdict_reason, entry.width_reason) == ("cannot tell", reason, reason)


def test_difference_is_taken_at_the_rung_the_structure_reached(cells):
    results = cells("dense", (0.8, 0.8, 0.8)) + cells("dense", (0.2, 0.2, 0.2), rung=1, flops=1e10)
    results += cells("monarch", (0.70, 0.71, 0.69))
    entry = rank_candidates(results, DENSE).entry_of(MONARCH)
    assert entry.difference == pytest.approx(0.7 / 0.8 - 1, abs=1e-3)
    assert entry.verdict == "better"


def test_a_structure_that_went_on_is_compared_where_it_ended(cells):
    results = cells("dense", (0.8, 0.81)) + cells("monarch", (0.7, 0.71))
    results += cells("dense", (0.2, 0.201), rung=1, flops=1e10) + cells("monarch", (0.3, 0.301), rung=1, flops=1e10)
    entry = rank_candidates(results, DENSE).entry_of(MONARCH)
    assert entry.difference == pytest.approx(0.5, abs=0.01)
    assert entry.verdict == "worse"


def test_pilot_runs_show_edges_and_nothing_else(cells, run):
    results = cells("dense", (0.50, 0.51)) + cells("monarch", (0.40, 0.41), factors=(1.0, 1.05, 1.2))
    assert rank_candidates(results, DENSE).entry_of(MONARCH).width_edge == "low"
    more = [*results, run("monarch", 9.0, width=32, stage="pilot")]
    entry = rank_candidates(more, DENSE).entry_of(MONARCH)
    assert (entry.width_edge, entry.width_reason, entry.width) == (None, None, 64)


def test_the_confirmation_alone_makes_the_gain_that_is_quoted(cells, run):
    results = []
    for rung in range(3):
        for text, gain in (("dense", 1.0), ("monarch", 2.0)):
            losses = [(gain * 4.0**rung) ** -0.25 * (1 + 0.001 * seed) for seed in range(3)]
            results += cells(text, losses, rung=rung, flops=1e9 * 4.0**rung)
    again = [
        run(text, loss, rung=2, flops=16e9, width=96, seed=100 + seed, stage="confirmation")
        for text, gain in (("dense", 1.0), ("monarch", 1.5))
        for seed in range(4)
        for loss in [(gain * 16.0) ** -0.25 * (1 + 0.001 * seed)]
    ]
    before = rank_candidates(results, DENSE).entry_of(MONARCH)
    after = rank_candidates(results + again, DENSE).entry_of(MONARCH)
    assert (before.compute_gain, before.confirmed_gain, before.quoted_gain[0]) == (
        pytest.approx(2.0, rel=1e-3),
        None,
        before.compute_gain,
    )
    assert after.compute_gain == before.compute_gain
    assert after.quoted_gain[0] == after.confirmed_gain == pytest.approx(1.5, rel=0.05)
    assert (after.confirmed_seeds, after.confirmed_verdict) == (4, "better")


def test_three_prices_and_a_reversal_between_them(cells):
    results = []
    for rung in range(3):
        for text, gain in (("dense", 1.0), ("monarch", 2.0)):
            losses = [(gain * 4.0**rung) ** -0.25 * (1 + 0.001 * seed) for seed in range(3)]
            results += cells(text, losses, rung=rung, flops=1e9 * 4.0**rung)
    step_s = {(s, width): 1e-3 * (4 if s == MONARCH else 1) for s in (DENSE, MONARCH) for width in (64, 96, 144)}
    results = [replace_steps(result) for result in noisy(results)]
    entry = rank_candidates(results, DENSE, step_seconds=step_s).entry_of(MONARCH)
    assert (entry.compute_gain, entry.total_gain) == (pytest.approx(2.0, rel=0.02), pytest.approx(2.0, rel=0.02))
    assert entry.seconds_gain == pytest.approx(0.5, rel=0.02)
    ends = (entry.compute_gain_low / 4, entry.compute_gain_high / 4)  # the pace is the same at all widths
    assert (entry.seconds_gain_low, entry.seconds_gain_high) == pytest.approx(ends)
    assert entry.reversed_in == ("seconds",)
    ranking = rank_candidates(results, DENSE, step_seconds=step_s)
    assert names(ranking) == ["monarch", "dense"]
    assert [entry.family for entry in ranking.ordered("seconds")] == ["dense", "monarch"]
    assert rank_candidates(results, DENSE).entry_of(MONARCH).seconds_gain is None


def noisy(results):
    """Losses that vary by 0.3% between runs."""
    source = random.Random(0)
    return [replace(result, loss=result.loss * (1 + 0.003 * source.gauss(0, 1))) for result in results]


def replace_steps(result):
    return type(result)(
        **{name: getattr(result, name) for name in result.__slots__} | {"steps": int(result.train_flops / 1e6)}
    )


def test_what_more_seeds_may_settle_is_named(cells):
    results = cells("dense", (0.50, 0.52, 0.54)) + cells("monarch", (0.40, 0.42, 0.44))
    results += cells("kronecker", (0.51, 0.52, 0.54)) + cells("low-rank", (0.6, 0.62, 0.61), factors=(1.2, 1.1, 1.0))
    ranking = rank_candidates(results, DENSE)
    assert ranking.undecided() == (parse_structure("kronecker"),)
    assert ranking.undecided(resolution=0.5) == ()


def test_looks_make_bounds_wider(cells):
    results = cells("dense", (0.50, 0.52, 0.54)) + cells("monarch", (0.45, 0.46, 0.47))
    once, thrice = (rank_candidates(results, DENSE, looks=looks).entry_of(MONARCH) for looks in ((), (3, 6, 12)))
    assert thrice.difference_high_adjusted > once.difference_high_adjusted
    assert thrice.difference_high == once.difference_high
    assert thrice.p_adjusted > once.p_adjusted


def test_json_reads_back_to_an_equal_ranking(cells, run):
    results = []
    for rung in range(3):
        losses, flops = (0.5 / (rung + 1), 0.51 / (rung + 1)), 10.0 ** (9 + rung)
        results += cells("dense", losses, rung=rung, flops=flops)
        results += cells("block-shuffle:blocks=4", [0.7 * loss for loss in losses], rung=rung, flops=flops)
    results += [run("(1/2|1/4|1/4|1/4|1/2|1/4|1/4)", None, status="failed"), run("monarch", math.nan)]
    ranking = rank_candidates(results, DENSE)
    text = json.dumps(ranking.to_json(), allow_nan=False)
    assert Ranking.from_json(json.loads(text)) == ranking
    assert json.loads(text)["entries"][0]["rank"] == 1
    assert ranking.entries[0].trend is not None


def test_four_rungs_carry_a_scaling_law(cells):
    source, results = random.Random(0), []
    for rung in range(5):
        for text, gain, exponent in (("dense", 1.0, 0.2), ("monarch", 0.5, 0.3)):
            losses = [(gain * 4.0**rung) ** -exponent * source.lognormvariate(0, 0.001) for _ in range(3)]
            results += cells(text, losses, rung=rung, flops=1e9 * 4.0**rung)
    ranking = rank_candidates(results, DENSE, at=1e13)
    entry = ranking.entry_of(MONARCH)
    assert entry.law is not None, entry.law_reason
    assert entry.law.exponent == pytest.approx(0.3, rel=0.02)
    assert entry.crossover.compute == pytest.approx(1e9 * 0.5**-3, rel=0.1)  # (g C)^-0.3 = C^-0.2
    assert entry.prediction.loss == pytest.approx((0.5 * 1e4) ** -0.3, rel=0.03)
    assert entry.prediction.decades_beyond == pytest.approx(4 - 4 * math.log10(4))
    assert entry.trend.word == "rising"
    assert ranking.entry_of(DENSE).crossover is None
    assert Ranking.from_json(json.loads(json.dumps(ranking.to_json()))) == ranking
    few = rank_candidates([result for result in results if result.trial.rung < 3], DENSE).entry_of(MONARCH)
    assert few.law is None
    assert "3 rungs, and a scaling law needs 4: train at 1 more budget" in few.law_reason


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"verdict": "great"}, "unknown verdict 'great'"),
        ({"loss": "0.5"}, "loss must be a number or null, found '0.5'"),
        ({"loss": True}, "loss must be a number"),
        ({"family": 1}, "family must be text or null, found 1"),
        ({"reversed_in": ["hours"]}, "reversed_in must list prices"),
        ({"trend": 1}, "a trend of another shape"),
        ({"law": {"exponent": 1}}, "law of another shape"),
        ({"prediction": 3}, "prediction of another shape"),
        ({"trend": {"rungs": [{}]}}, "a trend of another shape"),
    ],
)
def test_damaged_json_is_refused_by_name(run, change, complaint):
    document = rank_candidates([run("dense", 0.5)], DENSE).to_json()
    document["entries"][0] |= change
    with pytest.raises(SpecError, match=complaint):
        Ranking.from_json(document)


def test_rankings_of_earlier_versions_are_refused_by_name():
    with pytest.raises(SpecError, match=r"a ranking of format 1: format 3 is read\ntry: make the ranking again"):
        Ranking.from_json({"yardstick": "dense", "confidence": 0.95, "entries": []})


@pytest.mark.parametrize(
    "document", [None, [], {}, {"entries": [{}], "format": 2}, {"entries": [1], "yardstick": "XA YA", "format": 2}]
)
def test_json_of_another_shape_is_refused(document):
    with pytest.raises(SpecError):
        Ranking.from_json(document)


def test_importing_needs_neither_torch_nor_scipy():
    code = "import sys, einsearch_cli.scaling, einsearch_cli.reports; print({'torch', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_best_width_that_is_not_known_leaves_the_gain_in_seconds_without_an_interval(cells):
    results = []
    for rung in range(3):
        for text, gain in (("dense", 1.0), ("monarch", 2.0)):
            losses = [(gain * 4.0**rung) ** -0.25 * (1 + 0.001 * seed) for seed in range(3)]
            results += cells(text, losses, rung=rung, flops=1e9 * 4.0**rung)
    results = [replace_steps(r) for r in results if not (r.trial.structure == MONARCH and r.trial.width == 144)]
    step_s = {(s, width): 1e-3 for s in (DENSE, MONARCH) for width in (64, 96, 144)}
    entry = rank_candidates(results, DENSE, step_seconds=step_s).entry_of(MONARCH)
    assert entry.compute_gain_low is not None
    assert entry.seconds_gain == pytest.approx(entry.compute_gain, rel=1e-3)
    assert entry.seconds_gain_low is entry.seconds_gain_high is None


def test_seconds_are_read_at_each_structures_own_best_width(cells):
    """At equal FLOPs a wider network takes fewer steps; if all steps take equally long, it takes less time."""
    results = []
    for rung in range(3):
        for text, widths in (("dense", (64, 96, 144)), ("monarch", (96, 144, 216))):
            losses = [(4.0**rung) ** -0.25 * (1 + 0.001 * seed) for seed in range(3)]
            results += cells(text, losses, rung=rung, flops=1e9 * 4.0**rung, widths=widths)
    results = [replace(r, steps=round(r.train_flops / (100 * r.trial.width**2))) for r in noisy(results)]
    step_s = {(r.trial.structure, r.trial.width): 1e-3 for r in results}
    entry = rank_candidates(results, DENSE, step_seconds=step_s).entry_of(MONARCH)
    assert entry.seconds_gain == pytest.approx(1.5**2, rel=0.05)
    plain = math.log(entry.compute_gain_high / entry.compute_gain_low)
    assert math.log(entry.seconds_gain_high / entry.seconds_gain_low) > 1.2 * plain
