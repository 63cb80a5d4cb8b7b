"""Tables, sentences and the page of measured layers."""

import re

import pytest

from einsearch_cli.reports.figure_speed import SPEEDUP, speed_figure
from einsearch_cli.reports.looks import looks_of
from einsearch_cli.reports.speed_page import render_speed
from einsearch_cli.reports.speed_table import by_case, case_rows, speed_headline, speed_rows
from einsearch_cli.speed import BenchResult, Case, Measurement, Mode, Spread
from tests.reports.reading import figures
from tests.reports.test_page import Checker


def measured(name: str, case: Case, layer_s: float, flops_share: float = 0.25) -> Measurement:
    """Dense takes one millisecond, the bare products half the layer's time."""
    dense_flops = 2 * case.mode.passes * case.tokens * case.width**2
    decode = case.mode is Mode.decode

    def spread(value: float) -> Spread:
        return Spread(value, 0.9 * value, 1.1 * value)

    return Measurement(
        name=name,
        structure=name,
        case=case,
        rounds=5,
        params=100,
        flops=int(dense_flops * flops_share),
        layer_s=spread(layer_s),
        dense_s=spread(1e-3),
        bare_s=spread(layer_s / 2),
        einsum_s=spread(4 * layer_s) if decode else None,
        vs_dense=spread(layer_s / 1e-3),
        vs_bare=spread(2.0),
        vs_einsum=spread(0.25) if decode else None,
        peak_bytes=3_000_000,
        dense_peak_bytes=4_000_000,
    )


def result_of(*measurements: Measurement, complete: bool = True) -> BenchResult:
    return BenchResult(
        measurements=measurements,
        settings={"dtype": "float32", "threads": 1, "clock": "CPU time"},
        machine={"device": "a <fast> machine", "torch": "2", "cuda": None},
        elapsed_s=12.0,
        complete=complete,
    )


TRAINING, DECODE = Case(Mode.training, 64, 256), Case(Mode.decode, 64, 1)
RESULT = result_of(
    measured("monarch", TRAINING, 0.5e-3),
    measured("btt", TRAINING, 2e-3),
    measured("monarch", DECODE, 1.04e-3),
    measured("btt", DECODE, 0.1e-3),
)


def test_rows_of_a_case() -> None:
    (first, decode), (second, training) = by_case(RESULT)
    assert (first, second) == (DECODE, TRAINING)
    dense, monarch, btt = case_rows(training)
    assert (dense["layer"], dense["time"], dense["peak memory"]) == ("nn.Linear", "1.00 ms", "4.0 MB")
    assert monarch == {
        "layer": "monarch",
        "time": "500 µs",
        "quartiles": "450 µs – 550 µs",
        "speed-up": "2.00×",
        "possible": "4.00×",
        "realised": "50%",
        "× bare": "2.00",
        "GFLOP/s": f"{3 * 2 * 256 * 64**2 / 4 / 0.5e-3 / 1e9:.1f}",
        "peak memory": "3.0 MB = 0.75×",
    }
    assert btt["speed-up"] == "0.50×"
    assert case_rows(decode)[1]["over einsum"] == "4.00×"


def test_lists_have_every_case() -> None:
    assert [(row["mode"], row["layer"]) for row in speed_rows(RESULT)] == [
        (mode, layer) for mode in ("decode", "training") for layer in ("nn.Linear", "monarch", "btt")
    ]
    assert len({tuple(row) for row in speed_rows(RESULT)}) == 1  # one set of columns
    record = RESULT.records()[0]
    figures = record["layer_s"], record["layer_s_low"], record["vs_bare_high"]
    assert figures == pytest.approx((0.5e-3, 0.45e-3, 2.2))


def test_sentences_count_and_name() -> None:
    decode, training = speed_headline(RESULT)
    assert decode.startswith("Decode of merged layers: 2 of 2 layers are at most 5% slower")
    assert training.startswith("Training: 1 of 2 layers are at most 5% slower")
    assert "best 2.00× (monarch, width 64, 256 tokens), worst 0.50× (btt, width 64, 256 tokens)" in training
    assert "2.00 times its bare products" in training
    assert f"realises {(50 + 12.5) / 2:.0f}%" in training
    assert ": 1 of 1 layer is at most 5% slower" in speed_headline(result_of(RESULT.measurements[0]))[0]
    assert speed_headline(result_of(*RESULT.measurements, complete=False))[-1].startswith("The run was stopped")


@pytest.mark.parametrize(
    "result",
    [RESULT, result_of(RESULT.measurements[0]), result_of(measured("<script>alert(1)</script>", DECODE, 1e-3))],
    ids=["two modes", "one measurement", "hostile name"],
)
def test_page_is_whole_and_offline(result: BenchResult) -> None:
    page = render_speed(result, "einsearch bench '<x>'")
    seen = Checker(page)
    assert seen.count("svg") >= 2
    assert seen.count("script") == 1
    assert not re.search(r'(?:src|href)=(?!"#card-)', page)
    assert "nan" not in re.sub("<script>.*</script>", "", page.lower().replace("nn.linear", ""), flags=re.S)
    assert "a <fast> machine" in seen.text
    assert "einsearch bench '<x>'" in seen.text


@pytest.mark.parametrize("layer_s", [0.25e-3, 1e-3, 5e-3])
def test_names_of_lines_are_within_the_panel_and_cover_no_mark(layer_s: float) -> None:
    """Names stand where there is room: a label on a mark would hide a measurement."""
    result = result_of(measured("some", TRAINING, layer_s), measured("dense", TRAINING, layer_s, flops_share=1.0))
    drawing = speed_figure(result, SPEEDUP)
    names = re.findall(r'<text x="(\S+)" y="(\S+)" class="tick rule-name">([^<]+)', drawing)
    assert [name for _, _, name in names] == ["nn.Linear", "all of it realised"]
    marks = [mark for mark in figures(drawing)["speed-up"].panels["training"].marks if mark.kind == "dot"]
    height = float(re.search(r'viewBox="0 0 \d+ (\d+)"', drawing)[1])
    for left, line, name in names:
        x, y, width = float(left), height - float(line), 7.0 * len(name)
        assert x > 40
        assert x + width < 360
        assert not any(x - 4 < a < x + width + 4 and y - 6 < b < y + 15 for a, b in (mark.places[0] for mark in marks))


def test_layers_are_distinguished() -> None:
    looks = looks_of(["dense", *(f"layer {n}" for n in range(20))], "dense")
    assert looks["dense"].tone == "ink"
    assert len({(look.tone, look.marker) for look in looks.values()}) == 21
    assert len({look.key for look in looks.values()}) == 21
