"""Packed experts of transformers, as structured matrices."""

from __future__ import annotations

import copy
import importlib
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli.export import dense_copy
from einsearch_cli.layers import learning_rate_multipliers
from einsearch_cli.swap import SwapReport, apply_swaps, plan_swaps, swap_linear
from einsearch_cli.swap.fused_experts import FusedExperts
from tests.clients.architectures import ARCHITECTURES

transformers = pytest.importorskip("transformers")

KINDS = ("Mixtral", "GptOss", "Qwen2Moe", "DeepseekV3")
"""GptOss has biases, transposed weights, and gates that alternate with the values; the others differ in their routers."""


def experts_of(name: str) -> tuple[nn.Module, str]:
    """The experts of a model with drawn weights, and their name."""
    torch.manual_seed(0)
    made = ARCHITECTURES[name]
    model = getattr(transformers, made.auto).from_config(getattr(transformers, made.config)(**made.settings))
    found = next(n for n, module in model.named_modules() if n.endswith("experts") and hasattr(module, "down_proj"))
    for parameter in model.get_submodule(found).parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval(), found


def routed(model: nn.Module, name: str) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    experts = model.get_submodule(name)
    weights, index = torch.rand(6, 4).topk(2)
    assert experts.num_experts == 4
    return torch.randn(6, 32), index, weights


@pytest.mark.parametrize("name", KINDS)
def test_dense_factors_give_what_the_experts_gave_and_train_all_that_they_trained(name: str) -> None:
    """The way of tokens to experts is compared with the library's own loop, with gradients of tokens and of gates."""
    model, at = experts_of(name)
    x, index, weights = routed(model, at)
    results = []
    for swapped in (False, True):
        if swapped:
            report = swap_linear(model, "dense", lambda _, name: at + "." in name, project=True)
            assert [swap.experts for swap in report.replaced] == [4, 4]
            assert all(swap.relative_error < 1e-5 for swap in report.replaced)
        inputs = x.clone().requires_grad_(), weights.clone().requires_grad_()
        y = model.get_submodule(at)(inputs[0], index, inputs[1])
        results.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
    fused = model.get_submodule(at)
    assert isinstance(fused, FusedExperts)
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    program = torch.export.export(fused, (x, index, weights), strict=False).module()
    torch.testing.assert_close(program(x, index, weights), results[0][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["nemotron_h.NemotronH", "muse_spark.MuseSpark", "aria.Aria", "deepseek_v4.DeepseekV4"]
)
def test_kinds_without_gates_with_norms_transposed_or_with_gates_of_their_own(name: str) -> None:
    torch.manual_seed(0)
    folder, _, kind = name.partition(".")
    module = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
    config = types.SimpleNamespace(
        _experts_implementation="eager", hidden_size=32, intermediate_size=48, moe_intermediate_size=48, moe_latent_size=None,
        moe_hidden_size=32, hidden_act="silu", mlp_hidden_act="relu2", post_norm_eps=1e-6, swiglu_limit=1.0, moe_num_experts=4,
        n_routed_experts=4, num_local_experts=4, num_experts=4,
    )  # fmt: skip
    model = nn.ModuleDict({"experts": getattr(module, f"{kind}Experts")(config)})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    weights, index = torch.rand(6, 4).topk(2)
    x = torch.randn(6, 32)
    expected = model["experts"](x, index, weights)
    assert len(swap_linear(model, "dense", project=True).replaced) == 2
    torch.testing.assert_close(model["experts"](x, index, weights), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dense_copy(model)["experts"](x, index, weights), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", ["gate_up_proj", "down_proj"])
def test_one_of_the_two_weights_may_stay(part: str) -> None:
    model, at = experts_of("GptOss")
    x, index, weights = routed(model, at)
    before = {name: value for name, value in model.named_parameters() if at in name and part not in name}
    report = swap_linear(model, "btt:r=2", lambda _, name: name == f"{at}.{part}", project=True)
    fused = model.get_submodule(at)
    assert len(fused.structured) == 1
    assert report.replaced[0].relative_error > 0.01
    after = dict(model.named_parameters())
    assert all(after[name] is value for name, value in before.items())
    dense = dense_copy(model).get_submodule(at)
    assert type(dense) is fused.kind
    torch.testing.assert_close(fused(x, index, weights), dense(x, index, weights), rtol=1e-4, atol=1e-5)
    again = plan_swaps(model, "monarch", lambda _, name: at in name)
    assert again.skipped[f"{at}.{part}"] == "already structured experts"
    assert len(again.replaced) == 1


def test_costs_add_up_and_the_recipe_builds_the_same_model() -> None:
    model, at = experts_of("Mixtral")
    other = copy.deepcopy(model)
    report = swap_linear(model, "monarch")
    assert report.model.params_after == sum(p.numel() for p in model.parameters())
    swaps = {swap.name: swap for swap in report.replaced}
    assert swaps[f"{at}.down_proj"].costs.params_before == 4 * 64 * 32
    assert swaps[f"{at}.down_proj"].costs.flops_before == 2 * 2 * 64 * 32  # of 2 experts a token
    assert f"{at}.down_proj  64 -> 32 x 4: " in str(report)
    left = plan_swaps(model, "monarch")
    assert left.model.params_before == report.model.params_after
    assert left.model.flops_before == report.model.flops_after
    apply_swaps(other, SwapReport.from_json(report.to_json()))
    state: dict[str, Any] = model.state_dict()
    other.load_state_dict(state)
    rates = learning_rate_multipliers(model)
    assert {name for name in state if f"{at}." in name and "factors" in name} <= rates.keys()
    assert f"{at}.up.factors.A" in state


def test_experts_do_not_become_mixtures_of_experts() -> None:
    model, at = experts_of("Mixtral")
    report = plan_swaps(model, "btt-moe:experts=4,top=2")
    assert "experts already" in report.skipped[f"{at}.gate_up_proj"]


def test_hooked_and_split_experts_stay() -> None:
    model, at = experts_of("Mixtral")
    experts = model.get_submodule(at)
    handle = experts.register_forward_hook(lambda *_: None)
    assert "hooks" in plan_swaps(model, "monarch").skipped[f"{at}.down_proj"]
    handle.remove()
    experts._is_expert_parallel = True
    assert "split over processes" in plan_swaps(model, "monarch").skipped[f"{at}.down_proj"]
