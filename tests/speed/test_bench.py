"""Cases, refusals, and the arithmetic of a measurement by a second route."""

import json
import statistics

import numpy as np
import pytest
import torch

from einsearch_cli.errors import SizeError, SpecError
from einsearch_cli.layers import EinsumLinear, Plan
from einsearch_cli.speed import MARKET, WIDTHS, Bench, Case, Entrant, Mode, Spread, cases_of, measuring as bench_module
from einsearch_cli.structures import parse_structure
from einsearch_cli.taxonomy import classify

CPU = torch.device("cpu")
ENTRANTS = tuple(Entrant(text, parse_structure(text)) for text in ("monarch", "low-rank:r=4", "dense"))


def bench_of(cases: tuple[Case, ...], **changes: object) -> Bench:
    settings = {"entrants": ENTRANTS, "cases": cases, "device": CPU, "rounds": 2} | changes
    return Bench(**settings)


def test_every_ratio_by_hand() -> None:
    cases = cases_of([Mode.training, Mode.decode], [64], [16])
    result = bench_of(cases).run()
    assert result.complete
    assert [(item.name, item.case) for item in result.measurements] == [
        (entrant.name, case) for case in cases for entrant in ENTRANTS
    ]
    for item in result.measurements:
        known = classify(parse_structure(item.structure), 64, 64)
        passes = 3 if item.case.mode is Mode.training else 1
        assert item.params == known.params
        assert item.flops == passes * 16 * known.flops_per_token
        told = item.to_json()
        assert told["dense_flops"] == passes * 16 * known.dense_flops_per_token
        assert told["theoretical_speedup"] == pytest.approx(known.dense_flops_per_token / known.flops_per_token)
        assert told["speedup"] * told["vs_dense"]["median"] == pytest.approx(1)
        assert told["realised"] * known.dense_flops_per_token == pytest.approx(told["speedup"] * known.flops_per_token)
        assert told["gflops_per_s"] * 1e9 * told["layer_s"]["median"] == pytest.approx(item.flops)
        assert (told["vs_einsum"] is None) == (item.case.mode is Mode.training)
        assert (told["mode"], told["width"], told["tokens"]) == (str(item.case.mode), 64, 16)


def test_only_decoding_is_measured_with_merged_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def spied(layer: torch.nn.Module, x: torch.Tensor) -> object:
        if isinstance(layer, EinsumLinear):
            seen[x.shape[0]] = layer.is_merged
        return lambda: None

    monkeypatch.setattr(bench_module, "_inference", spied)
    bench_of(cases_of([Mode.decode, Mode.forward], [64], [16, 80]), rounds=1).run()
    assert seen == {16: True, 80: False}


def test_bare_products_are_those_of_the_plan_for_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}
    plain = bench_module.bare_products

    def spied(plan: Plan, case: Case, *arguments: object) -> object:
        asked[case.tokens] = plan
        return plain(plan, case, *arguments)

    monkeypatch.setattr(bench_module, "bare_products", spied)
    bench_of(cases_of([Mode.decode], [64], [11, 12]), entrants=ENTRANTS[:1], rounds=1).run()
    assert asked[11] is asked[12].few_tokens
    assert asked[11] is not None


def test_ratios_are_taken_round_by_round(monkeypatch) -> None:
    """Rounds in which the machine was ten times slower change seconds, not ratios."""
    times = {"dense": [4.0, 40.0, 4.0], "layer 0": [1.0, 10.0, 1.0], "bare 0": [0.5, 5.0, 0.25]}

    class Staged(bench_module.Race):
        def run(self, *_: object) -> None:
            if "dense" in self.candidates:
                assert list(self.candidates) == list(times)
                self.durations_s = times

    monkeypatch.setattr(bench_module, "Race", Staged)
    (item,) = bench_of((Case(Mode.training, 64, 16),), entrants=ENTRANTS[:1]).run().measurements
    assert item.rounds == 3
    assert (item.vs_dense, item.vs_bare.median) == (Spread(0.25, 0.25, 0.25), 2.0)
    assert (item.layer_s.median, item.layer_s.high, item.speedup) == (1.0, 5.5, 4.0)


def test_quartiles_agree_with_numpy() -> None:
    values = list(np.random.default_rng(0).normal(size=10))
    spread = Spread.of(values)
    assert (spread.low, spread.median, spread.high) == pytest.approx(tuple(np.percentile(values, [25, 50, 75])))
    assert spread.median == statistics.median(values)
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0)


def test_an_interruption_keeps_the_rounds_before_it() -> None:
    cases = cases_of([Mode.training], [32, 64], [8])

    def interrupt(case: Case, rounds: int | None) -> None:
        if case == cases[1] and rounds == 1:
            raise KeyboardInterrupt

    result = bench_of(cases, rounds=3).run(interrupt)
    assert not result.complete
    assert [(item.case.width, item.rounds) for item in result.measurements] == [(32, 3)] * 3 + [(64, 1)] * 3

    def interrupt_at_once(_case: Case, _rounds: int | None) -> None:
        raise KeyboardInterrupt

    assert bench_of(cases).run(interrupt_at_once).measurements == ()


def test_json_is_plain_and_contains_no_names_or_paths() -> None:
    import os
    import platform

    text = json.dumps(bench_of(cases_of([Mode.decode], [16], [1])).run().to_json(), allow_nan=False)
    told = json.loads(text)
    assert told["settings"] | {"threads": 0} == {
        "dtype": "float32",
        "device": "cpu",
        "threads": 0,
        "clock": told["settings"]["clock"],
    }
    assert told["machine"]["torch"] == torch.__version__
    assert platform.node() not in text
    assert os.getcwd() not in text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_run(dtype: torch.dtype) -> None:
    result = bench_of(cases_of([Mode.training, Mode.decode], [16], [4]), dtype=dtype, rounds=1).run()
    assert result.settings["dtype"] == str(dtype).removeprefix("torch.")
    assert min(item.layer_s.median for item in result.measurements) > 0


def test_the_usual_cases() -> None:
    cases = cases_of(list(Mode), WIDTHS, None)
    assert {(case.mode.value, case.tokens) for case in cases} == {
        *(("decode", tokens) for tokens in (1, 4, 16, 64)),
        *((mode, tokens) for mode in ("forward", "training") for tokens in (256, 4096)),
    }
    assert len(cases) == len(WIDTHS) * 8


def test_the_market_fits_every_usual_width() -> None:
    for text in MARKET:
        for width in WIDTHS:
            sized = parse_structure(text).at(width, width)
            assert (sized.padded_in, sized.padded_out) == (width, width)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (([Mode.decode], [64], [65]), "no case is left"),
        (([Mode.forward], [64], [64]), "no case is left"),
        (([Mode.decode], [0], None), "--widths 0"),
        (([Mode.decode], [64], [16, -1]), "--tokens 16,-1"),
    ],
)
def test_cases_that_are_refused(arguments: tuple, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        cases_of(*arguments)


def test_impossible_runs_are_refused_before_anything_runs(monkeypatch) -> None:
    case = Case(Mode.decode, 64, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpecError, match="device cuda"):
        bench_of((case,), device=torch.device("cuda"))
    with pytest.raises(SpecError, match="0 rounds"):
        bench_of((case,), rounds=0)
    with pytest.raises(SizeError, match="at width 100000 with 1,000,000,000 tokens"):
        bench_of((Case(Mode.forward, 100_000, 10**9),))
    with pytest.raises(SizeError):
        bench_of((Case(Mode.decode, 6, 1),), entrants=(Entrant("x", parse_structure("block-shuffle:blocks=64")),))


def test_the_estimate_grows_with_the_work() -> None:
    small, large = Case(Mode.decode, 64, 1), Case(Mode.training, 1024, 512)
    estimate = bench_of((small, large), rounds=5).estimate()
    assert 0 < estimate[small].total_s < estimate[large].total_s
    assert [estimate[large].done_s(None), estimate[large].done_s(9)] == [0, estimate[large].total_s]
    assert 0 < estimate[large].done_s(0) < estimate[large].done_s(2) < estimate[large].total_s
    assert bench_of((small,), rounds=50).estimate()[small].total_s > 3 * estimate[small].total_s
