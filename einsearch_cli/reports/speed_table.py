"""The measured speed of layers as rows of text and as sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING

from einsearch_cli.reports.numbers import MISSING, bytes_text, factor_text, share_text, time_text

if TYPE_CHECKING:  # the speed package needs torch, a report does not
    from einsearch_cli.speed import BenchResult, Case, Measurement, Spread

PAR = 1.05
"""The largest multiple of the dense layer's time at which a layer does not count as slower."""


OVER_EINSUM = "over einsum"
"""The column of the speed-up over `torch.einsum`; larger is better, as for the speed-up over the dense layer."""


def by_case(result: BenchResult) -> list[tuple[Case, list[Measurement]]]:
    """The measurements of each case, sorted by mode, width and tokens."""
    taken = [(case, list(items)) for case, items in groupby(result.measurements, key=lambda item: item.case)]
    return sorted(taken, key=lambda pair: (pair[0].mode, pair[0].width, pair[0].tokens))


def case_title(case: Case) -> str:
    """`training, width 1,024, 4,096 tokens`; says where layers are merged."""
    return f"{case.mode}, {_size(case)}{', merged layers' * case.mode.merges}"


def _size(case: Case) -> str:
    return f"width {case.width:,}, {case.tokens:,} token{'s' * (case.tokens != 1)}"


def case_rows(items: Sequence[Measurement]) -> list[dict[str, str]]:
    """One case for people: the dense layer, then every structure."""
    first = items[0]
    dense = {
        "layer": "nn.Linear",
        "time": time_text(first.dense_s.median),
        "quartiles": _quartiles(first.dense_s),
        "speed-up": factor_text(1.0),
        "possible": factor_text(1.0),
        "realised": MISSING,
        "× bare": MISSING,
        OVER_EINSUM: MISSING,
        "GFLOP/s": f"{first.dense_flops / first.dense_s.median / 1e9:.1f}",
        "peak memory": bytes_text(first.dense_peak_bytes),
    }
    rows = [dense, *(_row(item) for item in items)]
    if first.vs_einsum is None:
        for row in rows:
            del row[OVER_EINSUM]
    return rows


def _row(item: Measurement) -> dict[str, str]:
    return {
        "layer": item.name,
        "time": time_text(item.layer_s.median),
        "quartiles": _quartiles(item.layer_s),
        "speed-up": factor_text(item.speedup),
        "possible": factor_text(item.theoretical_speedup),
        "realised": share_text(item.realised),
        "× bare": f"{item.vs_bare.median:.2f}",
        OVER_EINSUM: MISSING if item.vs_einsum is None else factor_text(1 / item.vs_einsum.median),
        "GFLOP/s": f"{item.gflops_per_s:.1f}",
        "peak memory": f"{bytes_text(item.peak_bytes)} = {factor_text(item.peak_bytes / item.dense_peak_bytes)}",
    }


def _quartiles(spread: Spread) -> str:
    return f"{time_text(spread.low)} – {time_text(spread.high)}"


def speed_rows(result: BenchResult) -> list[dict[str, str]]:
    """All cases for people in one list."""
    return [
        {"mode": str(case.mode), "width": str(case.width), "tokens": str(case.tokens), OVER_EINSUM: MISSING, **row}
        for case, items in by_case(result)
        for row in case_rows(items)
    ]


def speed_headline(result: BenchResult) -> list[str]:
    """The findings of the benchmark, one sentence for each mode."""
    sentences = []
    for mode in sorted({item.case.mode for item in result.measurements}):
        items = [item for item in result.measurements if item.case.mode is mode]
        par = sum(item.vs_dense.median <= PAR for item in items)
        worst = max(items, key=lambda item: item.vs_dense.median)
        best = max(items, key=lambda item: item.speedup)
        subject = f"{str(mode).capitalize()}{' of merged layers' * mode.merges}"
        layers = "1 layer is" if len(items) == 1 else f"{len(items)} layers are"
        sentences.append(
            f"{subject}: {par} of {layers} at most {PAR - 1:.0%} slower than nn.Linear; "
            f"the median takes {_median(item.vs_bare.median for item in items):.2f} times its bare products and "
            f"realises {share_text(_median(item.realised for item in items))} of its theoretical speed-up; "
            f"best {_place(best)}, worst {_place(worst)}."
        )
    if not result.complete:
        sentences.append("The run was stopped before its last case.")
    return sentences


def _median(values: Iterable[float]) -> float:
    return float(median(values))


def _place(item: Measurement) -> str:
    return f"{factor_text(item.speedup)} ({item.name}, {_size(item.case)})"
