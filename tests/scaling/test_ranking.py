import json
import math
import random
import subprocess
import sys

import pytest

from einsearch_cli.errors import SpecError
from einsearch_cli.scaling import Ranking, rank_candidates
from einsearch_cli.structures import parse_structure

DENSE = parse_structure("dense")


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
    assert (monarch.loss, monarch.verdict, monarch.compute_gain) == (0.5, "not compared", None)
    assert "yardstick has no finished run" in (monarch.compute_gain_reason or "")
    assert dense.verdict == "failed"


def test_dense_is_listed_even_without_any_run(run):
    ranking = rank_candidates([run("monarch", 0.5)], DENSE)
    assert names(ranking) == ["monarch", "dense"]


@pytest.mark.parametrize("loss", [0.0, -2.0])
def test_losses_without_a_logarithm_do_not_crash(run, loss):
    results = [run("dense", 0.5, seed=s) for s in range(3)] + [run("monarch", loss, seed=s) for s in range(3)]
    best = rank_candidates(results, DENSE).entries[0]
    assert (best.loss, best.verdict, best.compute_gain) == (loss, "better", None)
    assert "positive loss" in (best.compute_gain_reason or "")


def test_verdict_needs_an_interval_that_leaves_out_zero(run):
    def verdict(losses):
        results = [run("dense", loss, seed=s) for s, loss in enumerate((0.50, 0.52, 0.54))]
        results += [run("monarch", loss, seed=s) for s, loss in enumerate(losses)]
        return rank_candidates(results, DENSE).entry_of(parse_structure("monarch"))

    assert verdict((0.40, 0.42, 0.44)).verdict == "better"
    assert verdict((0.60, 0.62, 0.64)).verdict == "worse"
    assert verdict((0.40, 0.60, 0.50)).verdict == "not separated"
    assert verdict((0.40,)).verdict == "not compared"
    assert verdict((0.40, 0.42, 0.44)).difference == pytest.approx(-0.10)


def test_difference_is_taken_at_the_rung_the_structure_reached(run):
    results = [run("dense", loss, seed=s) for s, loss in enumerate((0.8, 0.8, 0.8))]
    results += [run("dense", 0.2, rung=1, flops=1e10, seed=s) for s in range(3)]
    results += [run("monarch", 0.7, seed=s) for s in range(3)]
    entry = rank_candidates(results, DENSE).entry_of(parse_structure("monarch"))
    assert entry is not None
    assert entry.difference == pytest.approx(-0.1)
    assert entry.verdict == "better"


def test_a_structure_that_went_on_is_compared_where_it_ended(run):
    results = [run("dense", 0.8, seed=s) for s in range(3)] + [run("monarch", 0.7, seed=s) for s in range(3)]
    for text, loss in (("dense", 0.2), ("monarch", 0.3)):
        results += [run(text, loss, rung=1, flops=1e10, seed=s) for s in range(3)]
    entry = rank_candidates(results, DENSE).entry_of(parse_structure("monarch"))
    assert entry is not None
    assert entry.difference == pytest.approx(0.1)
    assert entry.verdict == "worse"


def test_equal_structures_are_rarely_called_different(run):
    source, wrong, repetitions = random.Random(2), 0, 400
    for _ in range(repetitions):
        results = [run(text, 0.5 + source.gauss(0, 0.02), seed=s) for text in ("dense", "monarch") for s in range(3)]
        wrong += {entry.verdict for entry in rank_candidates(results, DENSE).entries} != {"yardstick", "not separated"}
    assert 0.02 <= wrong / repetitions <= 0.09  # nominally 5%


def test_json_reads_back_to_an_equal_ranking(run):
    results = [run("dense", 0.5 / (k + 1), rung=k, flops=10.0 ** (9 + k), seed=s) for k in range(2) for s in range(3)]
    results += [run("block-shuffle:blocks=4", 0.3 + 0.01 * s, seed=s) for s in range(3)]
    results += [run("(1/2|1/4|1/4|1/4|1/2|1/4|1/4)", None, status="failed"), run("monarch", math.nan)]
    ranking = rank_candidates(results, DENSE)
    text = json.dumps(ranking.to_json(), allow_nan=False)
    assert Ranking.from_json(json.loads(text)) == ranking
    assert json.loads(text)["entries"][0]["rank"] == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"verdict": "great"}, "unknown verdict 'great'"),
        ({"loss": "0.5"}, "loss must be a number or null, found '0.5'"),
        ({"loss": True}, "loss must be a number"),
    ],
)
def test_damaged_json_is_refused_by_name(run, change, complaint):
    document = rank_candidates([run("dense", 0.5)], DENSE).to_json()
    document["entries"][0] |= change
    with pytest.raises(SpecError, match=complaint):
        Ranking.from_json(document)


@pytest.mark.parametrize("document", [None, [], {}, {"entries": [{}]}, {"entries": [1], "yardstick": "XA YA"}])
def test_json_of_another_shape_is_refused(document):
    with pytest.raises(SpecError):
        Ranking.from_json(document)


def test_importing_needs_neither_torch_nor_scipy():
    code = "import sys, einsearch_cli.scaling, einsearch_cli.reports; print({'torch', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
