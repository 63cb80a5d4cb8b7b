"""Rows from files: planted effects come out, missing and partial studies are taken as they are, no row lacks an interval."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.claims.document import all_rows
from benchmarks.claims.experts import contrast
from benchmarks.claims.feed_forward import overtraining_rows, steeper_rows
from benchmarks.claims.inference import Claim
from benchmarks.claims.networks import guided_rows, wide_rows
from benchmarks.claims.rates import rate_rows
from benchmarks.claims.rows import Row, finished
from benchmarks.claims.studies import Store, collect
from einsearch_cli.errors import SpecError

Loss = Callable[[str, int], float]


def write_runs(root: Path, name: str, seeds: int, runs: Mapping[str, float], loss: Loss) -> Store:
    """A training study: run name → FLOPs; the loss of a run by its name and seed."""
    for seed in range(seeds):
        rows = [
            {"name": run, "loss": loss(run, seed), "flops": flops, "params": 1000, "tokens": 10000, "elapsed_s": 1.0}
            for run, flops in runs.items()
        ]
        folder = root / "examples/reproduction" / f"{name}-{seed}"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({"runs": rows}))
    return Store(root)


def row(rows: list[Row], key: str) -> Row:
    (found,) = (item for item in rows if item.key == key)
    return found


GUIDED = {
    f"{kind}{more}": 1e9
    for kind in ("low-rank-32", "block-shuffle-32")
    for more in ("", "-equal-flops", "-equal-tokens")
}


def guided_loss(gain: float, noise: float = 0.002) -> Loss:
    draw = random.Random(0)

    def loss(run: str, seed: int) -> float:
        plain = {"dense": 3.0}.get(run, 3.2 if "equal" in run else 3.2 * math.exp(-gain))
        return plain * math.exp(draw.gauss(0, noise) + 0.01 * seed)

    return loss


def test_guides_that_help_hold_and_guides_that_do_not_cannot_be_told(tmp_path: Path) -> None:
    store = write_runs(tmp_path / "a", "guided", 3, {"dense": 1e9, **GUIDED}, guided_loss(0.05))
    found = row(finished(list(guided_rows(store))), "guided-flops")
    assert (found.verdict, found.interval) == ("holds", "3 seeds, t with 2 degrees of freedom")
    assert found.value == pytest.approx(-0.05, abs=0.005)
    assert found.shown()[0] == f"−{-math.expm1(found.value):.1%}"
    words = []
    for number in range(20):
        loss = guided_loss(0.0, noise=0.001 * (number + 1))
        words += [
            item.verdict
            for item in finished(
                list(guided_rows(write_runs(tmp_path / str(number), "guided", 3, {"dense": 1e9, **GUIDED}, loss)))
            )
        ]
    assert words.count("cannot tell") >= 37


def test_one_seed_gives_an_interval_over_structures_that_says_so(tmp_path: Path) -> None:
    store = write_runs(tmp_path, "guided", 1, {"dense": 1e9, **GUIDED}, guided_loss(0.05))
    found = row(finished(list(guided_rows(store))), "guided-flops")
    assert found.interval == "2 structures of one seed, t with 1 degree of freedom"
    assert found.verdict == "cannot tell"
    assert found.flaw.startswith("there is one seed")
    alone = {name: flops for name, flops in GUIDED.items() if name.startswith("low-rank")}
    store = write_runs(tmp_path / "alone", "guided", 1, {"dense": 1e9, **alone}, guided_loss(0.05))
    assert not list(guided_rows(store)), "one run of one seed has no interval"


def test_wide_networks_are_compared_with_dense_and_its_control(tmp_path: Path) -> None:
    runs = {f"{kind}-{size}": 1e9 * size for kind in ("wide", "dense", "dense-kv") for size in (48, 96)}

    def loss(run: str, seed: int) -> float:
        return 3.0 * math.exp(
            {"wide": -0.04, "dense": 0.0, "dense-kv": 0.01}[run.rpartition("-")[0]] + 0.001 * seed * run.startswith("w")
        )

    found = row(finished(list(wide_rows(write_runs(tmp_path, "wide", 3, runs, loss)))), "wide")
    assert found.value == pytest.approx(-0.039)
    assert found.high < 0
    assert found.flaw.startswith("its learning rate was tuned for other networks"), "no study has tuned it"
    assert "it is −4.8%" in found.control


def test_seeds_are_compared_at_the_sizes_that_all_have(tmp_path: Path) -> None:
    runs = {f"{kind}-{size}": 1e9 * size for kind in ("wide", "dense", "dense-kv") for size in (48, 96)}
    store = write_runs(tmp_path, "wide", 3, runs, lambda run, _: 3.0 - 0.3 * (run == "wide-96"))
    path = tmp_path / "examples/reproduction/wide-2/results.json"
    document = json.loads(path.read_text())
    document["runs"] = [run for run in document["runs"] if run["name"] != "dense-kv-96"]
    path.write_text(json.dumps(document))
    found = row(finished(list(wide_rows(store))), "wide")
    assert found.value == pytest.approx(math.log(2.7 / 3) / 2), "dense-kv has no part in it"
    assert found.low == found.high, "both sizes of all seeds"
    assert "it is +0.0% [+0.0%, +0.0%]" in found.control, "size 48, which all have"


def test_a_larger_loss_with_fewer_flops_refutes_nothing(tmp_path: Path) -> None:
    for share, said in ((1.0, "its learning rate"), (0.7, "it has 70% of dense's training FLOPs")):
        runs = {f"{kind}-48": share * 1e9 if kind == "wide" else 1e9 for kind in ("wide", "dense", "dense-kv")}

        def loss(run: str, seed: int) -> float:
            return (3.3 if run.startswith("wide") else 3.0) * math.exp(0.001 * math.sin(9 * seed + len(run)))

        found = row(finished(list(wide_rows(write_runs(tmp_path / str(share), "wide", 3, runs, loss)))), "wide")
        assert found.verdict == "cannot tell"
        assert found.flaw.startswith(said)


def test_guides_close_the_gap_that_networks_without_them_have_at_the_tokens_of_dense(tmp_path: Path) -> None:
    write_runs(tmp_path, "guided", 3, {"dense": 1e9, **GUIDED}, guided_loss(0.05))
    assert not [found for found in guided_rows(Store(tmp_path)) if found.key == "guided-gap"], (
        "the runs of ffn are needed"
    )
    draw = random.Random(1)
    plain = {"dense-48": 1e9, "low-rank-32-48": 7e8, "block-shuffle-32-48": 7e8}
    store = write_runs(
        tmp_path, "ffn", 3, plain, lambda run, _: (3.0 if "dense" in run else 3.3) * math.exp(draw.gauss(0, 0.002))
    )
    found = row(finished(list(guided_rows(store))), "guided-gap")
    assert found.value == pytest.approx(math.log(3.3 / 3.2) + 0.05, abs=0.01)
    assert found.verdict == "holds"
    assert "Trained on as many FLOPs as dense, its loss against dense is +6." in found.control


KINDS = ("low-rank-63", "low-rank-32", "block-shuffle-32")
SIZES = (24, 48, 72, 96)


def curves(exponents: Mapping[str, float]) -> tuple[dict[str, float], Loss]:
    """log loss = −exponent · log FLOPs; structured networks have 80% of dense's FLOPs."""
    runs = {
        f"{kind}-{size}": 1e6 * size**2 * (1 if kind == "dense" else 0.8)
        for kind in ("dense", *exponents)
        for size in SIZES
    }

    def loss(run: str, seed: int) -> float:
        exponent = exponents.get(run.rpartition("-")[0], 0.1)
        return 10 * runs[run] ** -exponent * math.exp(0.001 * math.sin(100 * seed + len(run) + runs[run]))

    return runs, loss


@pytest.mark.parametrize(("exponent", "verdict"), [(0.2, "holds"), (0.1, "cannot tell"), (0.05, "does not hold")])
def test_steeper_curves_are_seen_where_they_are(tmp_path: Path, exponent: float, verdict: str) -> None:
    store = write_runs(tmp_path, "ffn", 3, *curves(dict.fromkeys(KINDS, exponent)))
    found = row(finished(list(steeper_rows(store))), "steeper")
    assert found.value == pytest.approx(0.1 - exponent, abs=0.003)
    assert found.verdict == verdict
    assert "Read at equal FLOPs" in found.control


def test_sizes_that_some_structure_lacks_are_left_out(tmp_path: Path) -> None:
    runs, loss = curves(dict.fromkeys(KINDS, 0.2))
    del runs["low-rank-32-96"]
    runs_of = dict(runs)
    found = row(
        finished(list(steeper_rows(write_runs(tmp_path, "ffn", 3, runs_of, lambda run, seed: loss(run, seed))))),
        "steeper",
    )
    assert "widths 24, 48, 72" in found.effect


@pytest.mark.parametrize(("drift", "verdict"), [(-0.02, "holds"), (0.0, "cannot tell"), (0.02, "does not hold")])
def test_overtraining_is_judged_at_equal_flops(tmp_path: Path, drift: float, verdict: str) -> None:
    kinds = {"dense": 1.0, "low-rank-32": 0.7, "block-shuffle-32": 0.7}
    runs = {f"{kind}-{level}": level * 1e8 * cost for kind, cost in kinds.items() for level in (5, 20, 100, 500)}

    def loss(run: str, seed: int) -> float:
        x = math.log10(runs[run] / 5e8)
        own = 0.0 if run.startswith("dense") else drift * x
        return 4 * math.exp(-0.1 * x + own + 1e-4 * math.sin(7 * seed + len(run) + runs[run]))

    found = row(finished(list(overtraining_rows(write_runs(tmp_path, "overtraining", 3, runs, loss)))), "overtraining")
    assert found.verdict == verdict
    assert found.value == pytest.approx(drift, abs=1e-3)
    at_end = re.search(r"at equal FLOPs is ([+−][\d.]+)%", found.control)
    assert at_end is not None
    assert float(at_end[1].replace("−", "-")) == pytest.approx(
        100 * math.expm1(drift * math.log10(0.7 * 100)), abs=0.11
    )


def transfer(root: Path, lost: float, dense_octaves: int = 0) -> Store:
    """Losses whose best rate moves down by one octave between the widths under `factors`, and by two under the others.

    At the narrow width it is 1 for structures, and for dense higher by the given octaves.
    """
    runs = [
        {
            "rule": rule, "structure": structure, "width": width, "rate": rate, "seed": seed, "steps": 10,
            "loss": math.exp(
                lost * (
                    math.log2(rate)
                    + (1 if rule == "factors" else 2) * (width == 128)
                    - dense_octaves * (structure == "dense")
                ) ** 2
                + 0.001 * math.sin(seed * 9 + width)
            ),
        }
        for rule in ("factors", "layers", "one") for structure in ("dense", "monarch", "low-rank") for width in (32, 128)
        for rate in (0.25, 0.5, 1.0, 2.0) for seed in range(3)
    ]  # fmt: skip
    (root / "benchmarks/results").mkdir(parents=True)
    (root / "benchmarks/results/rate_transfer.json").write_text(json.dumps({"steps": 10, "runs": runs}))
    return Store(root)


def test_rates_are_carried_from_the_narrowest_width(tmp_path: Path) -> None:
    found = finished(list(rate_rows(transfer(tmp_path / "a", 0.1))))
    assert {item.verdict for item in found} == {"holds"}
    one = row(found, "rates-one")
    assert one.value == pytest.approx(0.4 - 0.1)
    assert "the difference is +0.0%" in one.control
    assert "By structure: monarch +35.0%, low-rank +35.0%; with these as replicates +35.0%" in one.control
    equal = finished(list(rate_rows(transfer(tmp_path / "b", 0.0))))
    assert {item.verdict for item in equal} == {"cannot tell"}


def test_the_claim_on_rates_is_measured_at_the_rate_that_is_best_for_dense(tmp_path: Path) -> None:
    """Dense is best at a rate of 2 here, the structures at 1: the claim is measured at 2, the questions at 1."""
    store = transfer(tmp_path, 0.1, dense_octaves=1)
    found = finished(list(rate_rows(store)))
    assert row(found, "rates-own").value == pytest.approx(0.9 - 0.4)
    assert row(found, "rates-layers").value == pytest.approx(0.4 - 0.1)
    assert [(item.key, item.kind) for item in found] == [
        ("rates-own", "claim"),
        ("rates-one", "question"),
        ("rates-layers", "question"),
    ]
    path = tmp_path / "benchmarks/results/rate_transfer.json"
    document = json.loads(path.read_text())
    document["runs"] = [run for run in document["runs"] if (run["structure"], run["seed"]) != ("dense", 2)]
    path.write_text(json.dumps(document))
    assert not list(rate_rows(Store(tmp_path))), "dense's rate is not known"


def test_contrasts_of_two_structures_are_those_of_the_ranking() -> None:
    study = Store().ranked("moe")
    assert study is not None
    for ranking in (study.ranking, *study.comparisons):
        for entry in ranking.entries:
            if entry.structure == ranking.yardstick:
                continue
            found = contrast(study, entry.structure, ranking.yardstick)
            assert found is not None
            ends = (entry.difference, entry.difference_low, entry.difference_high)
            assert (found.value, found.low, found.high) == pytest.approx([math.log1p(end) for end in ends], rel=1e-6)
            assert Claim("below").p(found) == pytest.approx(entry.p_value, rel=1e-4)
    assert contrast(study, study.ranking.yardstick, study.ranking.yardstick) is None


def test_a_row_without_an_interval_is_refused(tmp_path: Path) -> None:
    drafts = list(guided_rows(write_runs(tmp_path, "guided", 3, {"dense": 1e9, **GUIDED}, guided_loss(0.05))))
    object.__setattr__(drafts[0].found, "error", math.nan)
    with pytest.raises(ValueError, match="guided-flops has no interval"):
        finished(drafts)


def test_all_rows_that_can_be_judged_are_corrected_together(tmp_path: Path) -> None:
    first, second = finished(
        list(guided_rows(write_runs(tmp_path, "guided", 3, {"dense": 1e9, **GUIDED}, guided_loss(0.05))))
    )
    small, large = sorted((first, second), key=lambda item: item.p)
    assert small.p_adjusted == pytest.approx(2 * small.p)
    assert large.p_adjusted == max(small.p_adjusted, large.p)
    drafts = list(guided_rows(Store(tmp_path)))
    other = replace(drafts[0], key="other", study="another")
    three = finished([*drafts, other, replace(other, key="flawed", flaw="a flaw")])
    assert min(item.p_adjusted for item in three[:3]) == pytest.approx(3 * small.p), "of whatever study"
    assert three[3].p_adjusted == three[3].p, "a row that is not judged counts for nothing"


def test_nothing_measured_is_no_row(tmp_path: Path) -> None:
    assert all_rows(Store(tmp_path)) == ([], [])


def finished_run(folder: Path, name: str, loss: float) -> None:
    from einsearch_cli.training.full.result import RunResult

    run = folder / name
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text(
        '{"step": 1, "total_flops": 5, "validation_loss": 2.5}\n{"step": 2, "total_flops": 9}\n'
    )
    spec = {"model": {}, "seed": 0}
    RunResult(
        name=name, structure="dense", loss=loss, params=10, steps=2, guided_steps=0, repeated_steps=0, tokens=20, flops=30,
        total_flops=40, elapsed_s=1.0, spec=spec, data_digest="ab" * 32,
    ).save(run)  # fmt: skip


def test_finished_studies_are_brought_in_and_unfinished_ones_as_far_as_they_are(tmp_path: Path) -> None:
    runs, root = tmp_path / "runs", tmp_path / "project"
    finished_run(runs / "ffn-0", "dense-24", 3.0)
    (runs / "ffn-0/low-rank-63-24").mkdir()
    finished_run(runs / "wide-1", "dense-48", 3.0)
    finished_run(runs / "wide-1", "dense-72", 2.5)
    (runs / "other").mkdir()
    written = collect(runs, root)
    place = root / "examples/reproduction"
    assert {path.relative_to(place).as_posix() for path in written} == {
        "ffn-0/results.json",
        "ffn-0/report.html",
        "wide-1/results.json",
        "wide-1/report.html",
    }
    partial = json.loads((place / "ffn-0/results.json").read_text())
    assert [(run["name"], run["loss"], len(run["curve"])) for run in partial["runs"]] == [("dense-24", 3.0, 1)]
    assert partial["commands"] == ["einsearch train specs/paper/ffn.yaml --set seed=0 --out runs/ffn-0"]
    assert "dense-72" in (place / "wide-1/report.html").read_text()
    finished_run(tmp_path / "others/ffn-0", "dense-24", 4.0)
    finished_run(tmp_path / "others/ffn-0", "dense-36", 4.0)
    assert collect(tmp_path / "others", root), "more runs are added"
    assert collect(runs, root), "runs of a folder that is gone are kept"
    trained = Store(root).trained("ffn")
    assert trained is not None
    assert trained.names == ["dense-24", "dense-36"]
    part = tmp_path / "part/ffn-0/results.json"
    part.parent.mkdir(parents=True)
    part.write_text((place / "wide-1/results.json").read_text())
    assert collect(tmp_path / "part", root), "a study that has finished may be a part of the spec"
    trained = Store(root).trained("ffn")
    assert trained is not None
    assert trained.names == ["dense-48", "dense-72", "dense-24", "dense-36"]


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no study of specs/paper with a finished run"):
        collect(tmp_path, tmp_path / "project")
    folder = tmp_path / "examples/reproduction/wide-0"
    folder.mkdir(parents=True)
    for text, said in (
        ("{", "cannot be read as JSON"),
        ("[]", "does not hold the results of `einsearch train`"),
        ('{"runs": [{"name": "dense-48"}]}', "does not hold the results of `einsearch train`"),
    ):
        (folder / "results.json").write_text(text)
        with pytest.raises(SpecError, match=said):
            all_rows(Store(tmp_path))


def test_seeds_that_differ_in_more_than_the_seed_are_refused(tmp_path: Path) -> None:
    for seed, rate in ((0, 1e-3), (1, 2e-3)):
        folder = tmp_path / f"examples/reproduction/wide-{seed}"
        folder.mkdir(parents=True)
        spec = {"seed": seed, "optimizer": {"learning_rate": rate}}
        run = {"name": "dense-48", "loss": 3.0, "flops": 1, "spec": spec, "data_digest": "ab"}
        (folder / "results.json").write_text(json.dumps({"runs": [run]}))
    with pytest.raises(SpecError, match=r"wide-1: run dense-48 has other settings than in wide-0: .*learning_rate"):
        Store(tmp_path).trained("wide")
