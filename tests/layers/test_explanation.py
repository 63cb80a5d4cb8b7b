"""`EinsumLinear.explain` says what a call does; it is compared with what calls actually do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from einsearch_cli.errors import LayerError
from einsearch_cli.layers import EinsumLinear, merge
from einsearch_cli.layers.plans.planner import routes


def test_the_text() -> None:
    layer = EinsumLinear(1024, 1024, "btt:r=4")
    layer.route = "(xA)B"
    first, *lines, predicted = str(layer.explain(4096, "training")).splitlines()
    assert first == "XA^1/2 XAB^1/2 YB^1/2 YAB^1/2 AB=4, 1,024 → 1,024: training, 4,096 tokens, float32 on cpu"
    found = layer.explain(4096, "training")
    assert lines == [
        "route     (xA)B: 524,288 FLOPs per token, dense 2,097,152",
        f"executor  cpu, in {len(found.chunks)} chunks of {found.chunks[0]} tokens, the last of {found.chunks[-1]}",
        f"step 1    A: 32 × (4,096 × 32) · (32 × 128){', computed again backward' * (not found.kept[0])}",
        "step 2    B: 32 × (4,096 × 128) · (128 × 32)",
    ]
    assert predicted.startswith("predicted (xA)B ")
    assert len(found.chunks) > 1
    assert sum(found.chunks) == 4096
    assert "1 token, bfloat16 on meta\n" in str(layer.explain(1, device="meta", dtype=torch.bfloat16))


@pytest.mark.parametrize("text", ["btt:r=2", "tt:n=3,r=2", "low-rank:r=4", "dense"])
@pytest.mark.parametrize("tokens", [1, 300])
def test_calls_have_the_flops_of_the_route(text: str, tokens: int) -> None:
    layer, x = EinsumLinear(64, 64, text, bias=False), torch.randn(tokens, 64)
    merges = {route.text: route.flops_per_merge for route in routes(layer.sized)}
    for route in (None, *merges):
        layer.route = route
        for has_grad in (True, False):
            with torch.set_grad_enabled(has_grad), FlopCounterMode(display=False) as counter:
                layer(x)
                found = layer.explain(tokens)
            assert found.use.value == ("training" if has_grad else "inference")
            assert route in (None, found.route)
            assert set(found.predicted_us) == set(merges)
            assert counter.get_total_flops() == tokens * found.plan.flops_per_token + merges[found.route]


@torch.no_grad()
def test_the_explanation_of_a_call_is_up_to_date() -> None:
    layer = EinsumLinear(256, 256, "monarch").eval()
    assert layer.explain(1).use.value == "inference"
    merge(layer)
    found = layer.explain(1)
    assert (found.use.value, found.route, found.executor, found.kept) == ("merged", "x(AB)", "kept matrix", ())
    with torch.enable_grad():
        assert layer.explain(1).use.value == "training"
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.explain(1).dtype is torch.bfloat16
    assert layer.explain(1, "inference", device="cuda").executor == "gpu"
    with pytest.raises(LayerError, match=r"use 'decoding': .*\ntry: one of inference, merged, training"):
        layer.explain(1, "decoding")


@torch.no_grad()
@pytest.mark.parametrize("text", ["tt:n=3,r=2", "dense", "monarch"])
def test_merged_calls_use_no_executor_for_the_dense_matrix(text: str) -> None:
    layer = merge(EinsumLinear(16, 16, text).eval())
    for route in routes(layer.sized):
        layer.route = route.text
        merge(layer)(torch.randn(3, 16))
        assert layer._merging is not None
        kept = layer._merging.weights
        assert kept is not None
        assert layer.explain(3, "merged").executor == ("kept matrix" if hasattr(kept, "weight") else "cpu")


def test_a_fused_kernel_keeps_nothing() -> None:
    layer, half = EinsumLinear(64, 64, "tt:r=4"), torch.bfloat16
    found = layer.explain(1000, "training", "cuda", half)
    assert (found.executor, found.kept, found.chunks) == ("fused kernel", (False,), (1000,))
    assert "executor  fused kernel, in one piece\n" in str(found)
    assert layer.explain(1000, "inference", "cuda", half).executor == "fused kernel"
    for device, dtype in (("cuda", torch.float32), ("meta", half)):
        other = layer.explain(1000, "training", device, dtype)
        assert (other.executor, other.kept) == ("gpu", (True,))


@pytest.mark.parametrize("text", ["tt:n=3,r=2", "btt:r=4"])
@pytest.mark.parametrize("tokens", [1, 700])
def test_the_executor_of_a_call_is_the_one_that_is_explained(text: str, tokens: int) -> None:
    layer = EinsumLinear(256, 256, text)
    for route in routes(layer.sized):
        layer.route = route.text
        layer(torch.randn(tokens, 256))
        call, found = layer._calls[True], layer.explain(tokens)
        assert call is not None
        executor = call.executor
        assert (found.executor, found.plan) == (executor.name, executor.plan)
        assert (found.chunks, found.kept) == (executor.chunks(tokens), tuple(executor.keeps))
        assert len(found.kept) == len(found.plan.steps) - 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"tokens": -5}, r"tokens -5: .*\ntry: a whole number from 0"),
        ({"tokens": 1.5}, r"tokens 1\.5"),
        ({"tokens": "3"}, r"tokens '3'"),
        ({"device": "tpu"}, r"device 'tpu': torch has no such device\ntry: cpu"),
        ({"dtype": torch.int32}, r"dtype torch\.int32"),
        ({"dtype": torch.float8_e4m3fn}, r"dtype torch\.float8_e4m3fn"),
    ],
)
def test_calls_that_no_layer_can_have(words: dict[str, Any], message: str) -> None:
    with pytest.raises(LayerError, match=message):
        EinsumLinear(16, 16, "btt:r=2").explain(**{"tokens": 3, **words})
