"""`einsearch bench --calibrate`: measured constants are kept, used, and never required."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.execution.choose import executor_for
from einsearch_cli.layers.plans.machine_profile import (
    DEFAULT_CPU,
    WIDTHS,
    profile_for,
    profile_path,
    store_profile,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty cache folder; the process's profile and threads are restored afterwards."""
    before = torch.get_num_threads()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    profile_for.cache_clear()
    executor_for.cache_clear()
    yield
    profile_for.cache_clear()
    executor_for.cache_clear()
    torch.set_num_threads(before)


def test_measured_constants_are_used_from_then_on(einsearch) -> None:
    outcome = einsearch("bench", "--calibrate", "--threads", "1", "--format", "json")
    assert outcome.code == 0
    told = json.loads(outcome.out)
    used = profile_for("cpu", 1, torch.float32)
    assert json.loads(json.dumps(asdict(used))) == told
    assert len(used.mac_ns) == len(WIDTHS)
    assert used.chunks is not None
    assert used.chunks.of_many_params in (136, 264, 504)
    assert used.source == "constants measured here with 1 thread(s) for float32"
    assert profile_for("cpu", 2, torch.float32) is DEFAULT_CPU
    assert str(profile_path(1, torch.float32)) in outcome.err


def test_every_dtype_has_constants_of_its_own(einsearch) -> None:
    outcome = einsearch("bench", "--calibrate", "--dtype", "float64", "--format", "json")
    assert outcome.code == 0
    used = profile_for("cpu", 1, torch.float64)
    assert json.loads(json.dumps(asdict(used))) == json.loads(outcome.out)
    assert (used.itemsize, used.source) == (8, "constants measured here with 1 thread(s) for float64")
    assert profile_for("cpu", 1, torch.float32) is DEFAULT_CPU


def test_other_dtypes_are_guessed_from_what_was_measured() -> None:
    store_profile(replace(DEFAULT_CPU, copy_ns=1.5, source="ours"), 1, torch.float32)
    double, half = (profile_for("cpu", 1, dtype) for dtype in (torch.float64, torch.bfloat16))
    assert (double.source, double.copy_ns, double.itemsize) == ("ours", 3.0, 8)
    assert (half.source, half.copy_ns, half.itemsize) == ("ours", 1.5, 2)


DAMAGED = {
    "no JSON": "{",
    "a list": "[1, 2]",
    "too few": json.dumps({"mac_ns": [1.0]}),
    "short": json.dumps({**asdict(DEFAULT_CPU), "mac_ns": [1.0]}),
    "text": json.dumps({**asdict(DEFAULT_CPU), "step_ns": "fast"}),
    "not finite": json.dumps({**asdict(DEFAULT_CPU), "copy_ns": float("nan")}),
    "another dtype": json.dumps({**asdict(DEFAULT_CPU), "itemsize": 8}),
    "nested text": json.dumps({**asdict(DEFAULT_CPU), "chunks": {**asdict(DEFAULT_CPU)["chunks"], "least": "few"}}),
    "another version": json.dumps({**asdict(DEFAULT_CPU), "chunks": {"least": 72, "most": 1}}),
    "no chunks": json.dumps({**asdict(DEFAULT_CPU), "chunks": None}),
    "bytes": "\x00",
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_counts_as_missing(text: str) -> None:
    path = store_profile(replace(DEFAULT_CPU, source="ours"), 1, torch.float32)
    assert profile_for("cpu", 1, torch.float32).source == "ours"
    path.write_text(text)
    profile_for.cache_clear()
    assert profile_for("cpu", 1, torch.float32) is DEFAULT_CPU


@pytest.mark.parametrize("extra", [("monarch",), ("--device", "cuda"), ("--out", "speed.json")])
def test_options_that_calibration_ignores_are_refused(einsearch, extra: tuple[str, ...]) -> None:
    outcome = einsearch("bench", "--calibrate", *extra)
    assert outcome.code == 2
    assert f"--calibrate with {' '.join(extra)}: calibration measures this CPU" in outcome.err


def test_layers_are_cut_as_the_stored_profile_says() -> None:
    layer = EinsumLinear(1024, 1024, "btt:r=4")
    assert layer.explain(40, "inference").plan is layer.plan
    assert len(layer.explain(4096).chunks) > 8
    chunks, few = replace(DEFAULT_CPU.chunks, least=2048), replace(DEFAULT_CPU.token_major, usual=64)
    store_profile(replace(DEFAULT_CPU, chunks=chunks, token_major=few), torch.get_num_threads(), torch.float32)
    executor_for.cache_clear()  # a process keeps its decisions; the next one begins without
    assert layer.explain(40, "inference").plan is layer.plan.few_tokens
    assert len(layer.explain(4096).chunks) == 2
    x = torch.randn(4096, 1024, requires_grad=True)
    layer.route = "(xA)B"
    with _Products() as products:
        layer(x)
    assert products.count == 2 * 2, "two products in each of two chunks"


class _Products(TorchDispatchMode):
    """Counts calls of batched matrix products."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "bmm" in str(func)
        return func(*args, **(kwargs or {}))
