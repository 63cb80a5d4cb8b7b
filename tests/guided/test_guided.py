"""Self-guided layers: their definition, their start, and how they are steered and dropped."""

from __future__ import annotations

import copy
import gc
import json
import math
import pickle
import runpy
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.guided import SelfGuidedLinear, flop_matched_guide, guide_is_evaluated, guide_layers, guide_weight
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.models.transformer import Transformer, TransformerConfig, preset
from einsearch_cli.moe import FeedForwardMoE, StructuredMoE

DenseRoute = Callable[[EinsumLinear], Tensor]


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        EinsumLinear(16, 36, "btt:r=2"), nn.ReLU(), EinsumLinear(36, 4, "low-rank:r=3"), nn.Linear(4, 2)
    )


def _apart(layer: EinsumLinear) -> SelfGuidedLinear:
    """A guided layer whose guide has moved away from the product of the factors."""
    guided = SelfGuidedLinear(layer)
    with torch.no_grad():
        guided.guide.add_(torch.randn_like(guided.guide))
    return guided


@pytest.mark.parametrize("cap", [False, True], ids=["below-cap", "above-cap"])
def test_at_the_start_it_is_the_structured_layer_for_every_weight(
    case: Any, cap: bool, dense_by_columns: DenseRoute
) -> None:
    layer = case.layer(cap=cap)
    dense = dense_by_columns(layer)
    guided = SelfGuidedLinear(layer)
    torch.testing.assert_close(guided.guide, dense, rtol=1e-10, atol=1e-10)
    x = torch.randn(5, 3, case.d_in, dtype=torch.float64)
    for weight in (1.0, 0.7, 0.25, 0.0):
        guided.set_weight(weight)
        torch.testing.assert_close(guided(x), x @ dense.T + layer.bias, rtol=1e-10, atol=1e-10)
        with torch.no_grad():
            torch.testing.assert_close(guided(x), x @ dense.T + layer.bias, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["block-shuffle", "prime-in-and-out", "bond-of-three"])
@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_output_is_the_mixture_with_the_bias_counted_once(
    market: dict[str, Any], name: str, weight: float, dense_by_columns: DenseRoute
) -> None:
    layer = market[name].layer(cap=True)
    guided = _apart(layer)
    guided.set_weight(weight)
    matrix = weight * guided.guide + (1 - weight) * dense_by_columns(layer)
    x = torch.randn(6, market[name].d_in, dtype=torch.float64)
    torch.testing.assert_close(guided(x), x @ matrix.T + layer.bias, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(guided.to_dense(), matrix, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.func.vmap(guided)(x), guided(x))
    guided(x).sum().backward()
    torch.testing.assert_close(guided.bias.grad, torch.full_like(guided.bias, 6.0))


def test_gradients_agree_with_finite_differences(case: Any) -> None:
    guided = _apart(case.layer(cap=True))
    guided.set_weight(0.6)
    x = torch.randn(2, case.d_in, dtype=torch.float64, requires_grad=True)
    assert "guide" in dict(guided.named_parameters())
    assert torch.autograd.gradcheck(lambda x, *_: guided(x), (x, *guided.parameters()), fast_mode=True)


def test_a_step_without_the_guide_is_one_of_the_structured_layer(market: dict[str, Any]) -> None:
    layer = market["btt-2"].layer()
    guided = _apart(layer)
    guided.set_weight(0.8, evaluate=False)
    x = torch.randn(4, 36, dtype=torch.float64)
    assert torch.equal(guided(x), layer(x))
    assert torch.equal(guided.to_dense(), layer.to_dense())
    guided(x).sum().backward()
    assert guided.guide.grad is None
    assert guided.flops_per_token == layer.flops_per_token
    guided.set_weight(0.8)
    assert guided.flops_per_token == layer.flops_per_token + 2 * 36 * 16


def test_the_weight_of_the_guide_is_half_a_cosine() -> None:
    weights = [guide_weight(step, 100) for step in range(130)]
    assert weights[0] == 1
    assert weights[:100] == [pytest.approx((1 + math.cos(math.pi * step / 100)) / 2) for step in range(100)]
    assert weights[100:] == [0.0] * 30
    assert sum(weights) == pytest.approx(101 / 2)
    assert guide_weight(0, 0) == 0


def test_the_guide_is_evaluated_as_often_as_it_weighs() -> None:
    drawn = [guide_is_evaluated(step, 0.3, seed=1) for step in range(10_000)]
    assert sum(drawn) == pytest.approx(3000, abs=200)  # 4.4 standard deviations
    assert drawn == [guide_is_evaluated(step, 0.3, seed=1) for step in range(10_000)]
    assert drawn != [guide_is_evaluated(step, 0.3, seed=2) for step in range(10_000)]
    assert all(guide_is_evaluated(step, 1.0, seed=1) for step in range(100))
    assert not any(guide_is_evaluated(step, 0.0, seed=1) for step in range(100))


@pytest.mark.parametrize("stochastic", [False, True])
def test_a_flop_matched_guide_costs_what_the_dense_model_costs(stochastic: bool) -> None:
    steps, dense, structured, guide = 1000, 100.0, 56.0, 65.0

    def cost(guided: int) -> float:
        evaluated = sum(guide_weight(step, guided) for step in range(guided)) if stochastic else guided
        return (steps + guided) * structured + evaluated * guide

    options = {"dense_flops": dense, "structured_flops": structured, "guide_flops": guide, "stochastic": stochastic}
    found = flop_matched_guide(steps, **options)
    assert cost(found) <= steps * dense < cost(found + 1)
    assert flop_matched_guide(steps, **{**options, "dense_flops": structured}) == 0
    assert flop_matched_guide(steps, **{**options, "dense_flops": 1e6}) == steps


def test_the_guide_on_self_guided_training_has_these_shares() -> None:
    page = (Path(__file__).parents[2] / "docs/guide/self-guided.md").read_text(encoding="utf-8")
    for name, ranks in {"s": (384, 192), "m": (512, 256), "l": (768, 384), "xl": (1024, 512)}.items():
        with torch.device("meta"):
            dense = Transformer(preset(name)).flops_per_token().total
            models = {rank: Transformer(preset(name, structure=f"low-rank:r={rank}")) for rank in ranks}
        for rank, model in models.items():
            structured = model.flops_per_token().total
            flops = {"dense_flops": dense, "structured_flops": structured}
            flops["guide_flops"] = guide_layers(model).flops_per_token
            shares = [flop_matched_guide(100_000, **flops, stochastic=mode) / 100_000 for mode in (False, True)]
            cells = (name, f"{rank:,}", f"{structured / dense:.3f}", *(f"{share:.0%}" for share in shares))
            assert f"| {' | '.join(cells)} |" in page


def test_rates_and_flops_reach_those_of_the_model() -> None:
    config = TransformerConfig(vocabulary=20, width=32, layers=2, heads=2, context=8, structure="btt:r=2")
    with torch.device("meta"):
        model = Transformer(config)
    rates, flops = model.learning_rate_multipliers(8), model.flops_per_token()
    guide = guide_layers(model)
    dense = 2 * 2 * (2 * 32 * 128)
    assert guide.flops_per_token == dense
    assert model.flops_per_token().linears == flops.linears + dense
    guide.set_weight(0.5, evaluate=False)
    assert model.flops_per_token() == flops
    own = dict.fromkeys(guide.parameters(), 8 / 32)
    assert sorted(own) == [f"blocks.{block}.ffn.{layer}.guide" for block in (0, 1) for layer in ("down", "up")]
    assert model.learning_rate_multipliers(8) == rates | own


def test_compiled_code_serves_every_weight() -> None:
    class Counter:
        """A compiler that only counts its calls."""

        graphs = 0

        def __call__(self, graph: Any, _: Any) -> Any:
            self.graphs += 1
            return graph.forward

    counter = Counter()
    model = _network()
    guide = guide_layers(model)
    compiled = torch.compile(model, backend=counter)
    x = torch.randn(4, 16)
    with torch.no_grad():
        model[0].guide.add_(1)
    for step in range(4):
        guide.set_weight(guide_weight(step, 4))
        torch.testing.assert_close(compiled(x), model(x))
    assert counter.graphs == 1
    for evaluate in (False, True, False):
        guide.set_weight(0.5, evaluate)
        torch.testing.assert_close(compiled(x), model(x))
    assert counter.graphs == 2
    guide.drop()
    torch.testing.assert_close(compiled(x), model(x))


def test_dropping_leaves_the_model_as_it_was_made() -> None:
    model = _network()
    before = dict(model.named_parameters())
    guide = guide_layers(model)
    optimizer = torch.optim.AdamW(
        [{"params": list(before.values()), "lr": 0.1}, {"params": list(guide.parameters().values()), "lr": 0.2}]
    )
    model(torch.randn(3, 16)).sum().backward()
    optimizer.step()
    values = {name: value.clone() for name, value in before.items()}
    watched = [weakref.ref(value) for value in guide.parameters().values()]
    assert sorted(guide.parameters()) == ["0.guide", "2.guide"]
    guide.drop(optimizer)
    gc.collect()
    assert [ref() for ref in watched] == [None, None]
    assert [type(layer) for layer in model] == [EinsumLinear, nn.ReLU, EinsumLinear, nn.Linear]
    assert list(model.state_dict()) == list(before)
    for name, value in model.named_parameters():
        assert value is before[name]
        assert torch.equal(value, values[name])
        assert optimizer.state[value]["step"] == 1
    assert [group["lr"] for group in optimizer.param_groups] == [0.1]
    assert len(optimizer.state) == len(before)
    model(torch.randn(3, 16)).sum().backward()
    optimizer.step()


def test_the_state_in_the_middle_has_the_guide_and_comes_back() -> None:
    model, other = _network(), _network()
    plain = list(model.state_dict())
    guide, other_guide = guide_layers(model), guide_layers(other)
    assert sorted(model.state_dict()) == sorted([*plain, "0.guide", "2.guide"])
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    other.load_state_dict(model.state_dict())
    x = torch.randn(5, 16)
    for steered in (guide, other_guide):
        steered.set_weight(0.4)
    assert torch.equal(other(x), model(x))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert torch.equal(twin(x), model(x))


def test_autocast_and_half_precision() -> None:
    guided = _apart(EinsumLinear(64, 64, "btt:r=2"))
    guided.set_weight(0.5)
    x = torch.randn(8, 64)
    exact = guided(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = guided(x)
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05 * exact.abs().max().item())
    half = guided.bfloat16()
    torch.testing.assert_close(half(x.bfloat16()).float(), exact, rtol=0.05, atol=0.05 * exact.abs().max().item())


def test_drawing_again_keeps_the_guide_equal() -> None:
    guided = _apart(EinsumLinear(16, 16, "btt:r=2"))
    for start in (guided.reset_parameters, guided.zero_last_factor_):
        start()
        torch.testing.assert_close(guided.guide, guided.structured.to_dense())
    assert not guided.guide.any()


def test_layers_that_share_factors_share_the_guide() -> None:
    first, second = EinsumLinear(16, 16, "btt:r=2"), EinsumLinear(16, 16, "btt:r=2")
    second.factors, second.gain = first.factors, first.gain
    model = nn.ModuleDict({"a": first, "b": second, "c": first})
    guide = guide_layers(model)
    assert model["a"] is model["c"]
    assert model["a"].guide is model["b"].guide
    assert list(guide.parameters()) == ["a.guide"]
    guide.drop()
    assert model["a"] is model["c"]
    assert model["a"].factors["A"] is model["b"].factors["A"]


def test_only_the_named_layers_are_guided_and_dense_ones_only_by_name() -> None:
    model = nn.Sequential(EinsumLinear(8, 8, "dense"), EinsumLinear(8, 8, "monarch"), EinsumLinear(8, 8, "monarch"))
    assert list(guide_layers(copy.deepcopy(model)).layers) == ["1", "2"]
    assert list(guide_layers(model, ["0", "2"]).layers) == ["0", "2"]


@pytest.mark.parametrize(
    ("model", "names", "message"),
    [
        (
            nn.ModuleDict({"m": StructuredMoE(16, 16, "btt-moe:experts=2,top=1")}),
            None,
            "m is a StructuredMoE: only layers without experts can be guided\n"
            "try: guide_layers(model, names) with other layers, or a structure without experts",
        ),
        (
            nn.Sequential(FeedForwardMoE(16, 32, "ffn-moe:experts=2,top=1")),
            None,
            "0 is a FeedForwardMoE: only layers without experts can be guided\n"
            "try: guide_layers(model, names) with other layers, or a structure without experts",
        ),
        (
            nn.Sequential(EinsumLinear(4, 4, "monarch"), nn.ReLU()),
            ["1"],
            "layer '1' to be guided: ReLU has that name, an EinsumLinear is needed\ntry: one of 0",
        ),
        (
            nn.Sequential(nn.ReLU()),
            ["2"],
            "layer '2' to be guided: no module has that name, an EinsumLinear is needed\n"
            "try: one of none: swap_linear(model, structure) first",
        ),
        (
            nn.Sequential(nn.Linear(4, 4)),
            None,
            "Sequential has no structured layer to guide\n"
            "try: build it with a structure other than dense, or swap_linear(model, structure) first",
        ),
        (
            EinsumLinear(4, 4, "monarch"),
            None,
            "the model itself is an EinsumLinear: a module cannot be replaced inside itself\n"
            "try: wrap it, nn.Sequential(layer), or use SelfGuidedLinear(layer)",
        ),
        (
            nn.Sequential(SelfGuidedLinear(EinsumLinear(4, 4, "monarch"))),
            None,
            "layer '0' has a guide already\ntry: drop() the first SelfGuide before",
        ),
    ],
)
def test_what_cannot_be_guided_is_named(model: nn.Module, names: list[str] | None, message: str) -> None:
    with pytest.raises(LayerError) as caught:
        guide_layers(model, names)
    assert str(caught.value) == message


def test_a_weight_outside_of_its_range() -> None:
    guide = guide_layers(_network())
    with pytest.raises(
        LayerError, match=r"guide weight 1.5: the output is a · guide \+ \(1 - a\) · structured, with a"
    ):
        guide.set_weight(1.5)


def test_two_processes_train_as_one_and_drop_the_guide_midway(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("guided_worker.py")
    command = [sys.executable, str(worker)]
    both = [
        subprocess.Popen([*command, str(rank), "2", str(tmp_path / "meeting")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    alone, names = runpy.run_path(str(worker))["train"](0, 1)
    found = [json.loads(process.communicate(timeout=200)[0].splitlines()[-1]) for process in both]
    assert found[0] == found[1] == [pytest.approx(alone, rel=1e-10), names]
    assert len(set(alone)) == 8
    assert sorted(names) == sorted(_network_names())


def _network_names() -> list[str]:
    return [f"{layer}.{name}" for layer in (0, 2) for name in ("gain", "bias", "factors.A", "factors.B")]
