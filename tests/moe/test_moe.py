"""Layers of experts compared with running and masking all experts; their costs, and bad input."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from einsearch_cli.errors import LayerError, SizeError, StructureError
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.execution.autograd import execute
from einsearch_cli.layers.plans.chunking import kept_steps
from einsearch_cli.moe import AuxiliaryLoss, FeedForwardMoE, StructuredMoE
from einsearch_cli.moe.grouped import EachExpert, can_be_grouped, contract_each, contract_in_groups
from einsearch_cli.moe.grouping import group
from einsearch_cli.structures import parse_structure
from einsearch_cli.taxonomy import layer_costs

FAMILIES = [
    "dense", "low-rank", "kronecker", "tt:r=3", "monarch", "btt:r=2", "block-dense:blocks=4,r=8",
    "block-shuffle:blocks=2", "khatri-rao:n=3,r=2", "cp:n=2,r=3", "tucker:n=2,r=2", "btt:n=3,r=2",
]  # fmt: skip


def make(structure: str, experts: int, top: int, d_in: int = 36, d_out: int = 16, **more: Any) -> StructuredMoE:
    """A float64 layer with random parameters, some experts above their cap and some below."""
    torch.manual_seed(0)
    text = f"{parse_structure(structure)} moe:experts={experts},top={top}"
    layer = StructuredMoE(d_in, d_out, text, **{"dtype": torch.float64, **more})
    with torch.no_grad():
        for factor in layer.experts.factors.values():
            factor.mul_(torch.linspace(0.5, 2, experts).view(-1, 1, 1, 1))
        layer.experts.gain.normal_(1, 0.3)
        layer.router.weight.normal_()
        if layer.bias is not None:
            layer.bias.normal_()
    return layer


def expert_matrix(layer: StructuredMoE, expert: int) -> Tensor:
    """One expert as a separate `EinsumLinear`, then as a dense matrix."""
    single = EinsumLinear(
        layer.in_features, layer.out_features, layer.mixture.structure, bias=False, dtype=layer.router.weight.dtype
    )
    values = {"gain": layer.experts.gain[expert]}
    values |= {f"factors.{name}": factor[expert] for name, factor in layer.experts.factors.items()}
    identity = torch.eye(layer.in_features, dtype=layer.router.weight.dtype)
    return torch.func.functional_call(single, values, (identity,)).T


def masked(layer: StructuredMoE, x: Tensor) -> Tensor:
    """All experts on all tokens, with gates of zero where a token does not use the expert."""
    logits = x @ layer.router.weight.T
    order = logits.sort(dim=1, descending=True).indices
    chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order[:, : layer.mixture.top], True)
    gates = torch.where(chosen, logits, -torch.inf).softmax(dim=1)
    outputs = torch.stack([x @ expert_matrix(layer, expert).T for expert in range(layer.mixture.experts)], dim=1)
    y = (gates[:, :, None] * outputs).sum(dim=1)
    return y if layer.bias is None else y + layer.bias


def gradients(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(1)
    return list(torch.autograd.grad(y, inputs, torch.randn_like(y)))


@pytest.mark.parametrize("experts", [2, 8, 16])
@pytest.mark.parametrize("structure", FAMILIES)
@pytest.mark.parametrize("top", ["all", 2, 1])
def test_equals_all_experts_masked(structure: str, experts: int, top: Any) -> None:
    layer = make(structure, experts, experts if top == "all" else top)
    x = torch.randn(40, 36, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    found, plain, wanted = layer(x), layer.plain_forward(x), masked(layer, x)
    assert wanted.abs().max() > 1e-2
    for y in (found, plain):
        torch.testing.assert_close(y, wanted, rtol=1e-9, atol=1e-9)
    reference = gradients(wanted, inputs)
    for y in (found, plain):
        for (name, parameter), ours, theirs in zip(
            [("x", x), *layer.named_parameters()], gradients(y, inputs), reference, strict=True
        ):
            assert ours.shape == parameter.shape
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("experts", [2, 8, 16])
@pytest.mark.parametrize("structure", FAMILIES)
def test_uniform_gates_over_equal_experts_are_the_structure_itself(structure: str, experts: int) -> None:
    torch.manual_seed(0)
    single = EinsumLinear(36, 16, structure, dtype=torch.float64)
    layer = StructuredMoE(36, 16, f"{single.structure} moe:experts={experts},top={experts}", dtype=torch.float64)
    assert not layer.router.weight.any()
    with torch.no_grad():
        for name, factor in layer.experts.factors.items():
            factor.copy_(single.factors[name].expand_as(factor))
    x = torch.randn(7, 36, dtype=torch.float64)
    torch.testing.assert_close(layer(x), single(x), rtol=1e-9, atol=1e-9)


def test_one_expert_is_the_structure_itself() -> None:
    layer = make("btt:r=2", 1, 1)
    x = torch.randn(5, 36, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ expert_matrix(layer, 0).T + layer.bias)


@pytest.mark.parametrize("structure", [f for f in FAMILIES if f != "dense"])
@pytest.mark.parametrize(("d_in", "d_out"), [(13, 17), (37, 8)])
def test_sizes_that_nothing_divides(structure: str, d_in: int, d_out: int) -> None:
    try:
        parse_structure(structure).at(d_in, d_out)
    except SizeError:
        pytest.skip("the structure itself does not fit")
    layer = make(structure, 3, 2, d_in, d_out)
    x = torch.randn(9, d_in, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layer(x), masked(layer, x), rtol=1e-9, atol=1e-9)
    inputs = [x, *layer.parameters()]
    for ours, theirs in zip(gradients(layer(x), inputs), gradients(masked(layer, x), inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("structure", FAMILIES)
def test_grouped_products_give_the_same(structure: str) -> None:
    """The route of a GPU, run here in float32 on the CPU; one expert has no rows."""
    layer = make(structure, 4, 2, 64, 64, dtype=torch.float32)
    plan = layer.experts.plan
    rows = torch.randn(24, plan.padded_in, requires_grad=True)
    if not can_be_grouped(plan, rows):
        pytest.skip("sizes that grouped_mm does not take")
    scales = torch.rand(4) + 0.5
    weights = [layer.experts.factors[step.factor] for step in plan.steps]
    ends = torch.tensor([6, 6, 16, 24])
    found = contract_in_groups(plan, rows, ends, scales, weights)
    wanted = contract_each(plan, rows, [6, 0, 10, 8], scales, weights)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(gradients(found, [rows, *weights]), gradients(wanted, [rows, *weights]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("structure", ["dense", "btt:r=2"])
def test_grouped_products_can_be_differentiated_twice(structure: str) -> None:
    layer = make(structure, 4, 2, 64, 64, dtype=torch.float32)
    plan = layer.experts.plan
    weights = [layer.experts.factors[step.factor] for step in plan.steps]
    inputs = [torch.randn(24, plan.padded_in, requires_grad=True), torch.rand(4, requires_grad=True), *weights]
    ends = torch.tensor([6, 6, 16, 24])

    def second(y: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(gradient.sin().sum() for gradient in first), inputs)  # type: ignore[arg-type]

    found = second(contract_in_groups(plan, inputs[0], ends, inputs[1], weights))
    wanted = second(contract_each(plan, inputs[0], [6, 0, 10, 8], inputs[1], weights))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())


def test_some_structures_can_be_grouped() -> None:
    able = {text for text in FAMILIES if can_be_grouped(make(text, 2, 1, 64, 64).experts.plan, torch.zeros(8, 64))}
    assert {"dense", "monarch", "btt:r=2", "low-rank"} <= able


@pytest.mark.parametrize("structure", FAMILIES)
def test_flops_are_those_of_the_active_experts(structure: str) -> None:
    layer = make(structure, 8, 2, bias=False)
    single = EinsumLinear(36, 16, layer.mixture.structure)
    x = torch.randn(4, 36, dtype=torch.float64, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        y = layer(x)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert layer.flops_per_token == 2 * single.flops_per_token + 2 * 36 * 8
    assert forward.get_total_flops() == 4 * layer.flops_per_token
    plan, rows = layer.experts.plan, 4 * 2
    anew = [step for step, kept in zip(plan.steps, kept_steps(plan, rows), strict=False) if not kept]
    again = sum(2 * rows * step.macs_per_token for step in anew)
    assert backward.get_total_flops() == 2 * 4 * layer.flops_per_token + again


def test_flops_of_a_feed_forward_mixture() -> None:
    torch.manual_seed(0)
    layer = FeedForwardMoE(16, 64, "ffn-moe:experts=8,top=2", dtype=torch.float64)
    x = torch.randn(6, 16, dtype=torch.float64, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    assert counter.get_total_flops() == 3 * 6 * layer.flops_per_token


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_and_flops_without_memory(dtype: torch.dtype) -> None:
    layers = [
        StructuredMoE(64, 64, "btt-moe:experts=8,top=2", device="meta", dtype=dtype),
        FeedForwardMoE(64, 96, "ffn-moe:experts=8,top=2", device="meta", dtype=dtype),
    ]
    x = torch.empty(2, 3, 64, device="meta", dtype=dtype)
    with FlopCounterMode(display=False) as counter:
        y = layers[0](x)
        z = layers[1](y)
    assert y.shape == z.shape == (2, 3, 64)
    assert z.is_meta
    assert counter.get_total_flops() == 6 * sum(layer.flops_per_token for layer in layers)


def test_feed_forward_mixture_equals_all_networks_masked() -> None:
    torch.manual_seed(0)
    layer = FeedForwardMoE(12, 20, "ffn-moe:experts=5,top=3", dtype=torch.float64)
    nn.init.normal_(layer.router.weight)
    x = torch.randn(11, 12, dtype=torch.float64, requires_grad=True)
    logits = x @ layer.router.weight.T
    kept = logits >= logits.sort(dim=1, descending=True).values[:, 2:3]
    gates = torch.where(kept, logits, -torch.inf).softmax(dim=1)
    wanted = 0
    for expert in range(5):
        up, down = layer.up.factors["A"][expert, 0], layer.down.factors["A"][expert, 0]
        wanted = wanted + gates[:, expert : expert + 1] * (nn.functional.gelu(x @ up * _cap(up)) @ down * _cap(down))
    torch.testing.assert_close(layer(x), wanted, rtol=1e-9, atol=1e-9)
    inputs = [x, layer.router.weight, layer.up.factors["A"], layer.down.factors["A"]]
    for ours, theirs in zip(gradients(layer(x), inputs), gradients(wanted, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def _cap(matrix: Tensor) -> Tensor:
    fan_in, fan_out = matrix.shape
    std = math.sqrt(min(fan_in, fan_out)) / fan_in
    return 1 / (matrix.square().mean().sqrt() / std).clamp(min=1)


def test_start_and_rates_are_those_of_one_expert() -> None:
    torch.manual_seed(0)
    layer = StructuredMoE(1024, 256, "btt-moe:r=2,experts=4,top=2")
    single = EinsumLinear(1024, 256, "btt:r=2")
    for role in single.plan.roles:
        factor = layer.experts.factors[role.factor]
        assert factor.shape == (4, *single.factors[role.factor].shape)
        for expert in factor:
            assert expert.std().item() == pytest.approx(role.init_std, rel=0.05)
    rates = layer.learning_rate_multipliers()
    assert rates.pop("router.weight") == 1
    assert rates == {f"experts.{name}": rate for name, rate in single.learning_rate_multipliers().items()}
    assert not layer.router.weight.any()
    assert layer.router.weight.shape == (4, 1024)
    assert (layer.experts.gain == 1).all()


def test_every_expert_has_its_own_cap() -> None:
    layer = make("monarch", 3, 3, bias=False)
    x = torch.randn(20, 36, dtype=torch.float64)
    with torch.no_grad():
        layer.router.weight.zero_()
        for factor in layer.experts.factors.values():
            factor.div_(factor.square().mean(dim=(1, 2, 3), keepdim=True).sqrt())  # all far above the deviation
        before = layer(x)
        layer.experts.factors["A"][1].mul_(100)
    torch.testing.assert_close(layer(x), before)


def test_zero_last_factor_gives_zero_output_that_can_learn() -> None:
    layer = make("btt:r=2", 4, 2, bias=False)
    layer.zero_last_factor_()
    y = layer(torch.randn(30, 36, dtype=torch.float64))
    assert not y.any()
    y.sum().backward()
    last = layer.experts.factors[layer.experts.plan.steps[-1].factor].grad
    assert last is not None
    assert (last.abs().amax(dim=(1, 2, 3)) > 0).all()


def test_the_router_learns_from_the_task_alone() -> None:
    """Two groups of tokens need two different maps, and the gates have to discover that."""
    torch.manual_seed(0)
    layer = StructuredMoE(8, 8, "dense-moe:experts=2,top=1", bias=False)
    nn.init.normal_(layer.router.weight, std=0.01)
    soft = StructuredMoE(8, 8, "dense-moe:experts=2,top=2", bias=False)
    soft.load_state_dict(layer.state_dict())
    x = torch.randn(512, 8)
    wanted = torch.where(x[:, :1] > 0, x, -x)
    optimizer = torch.optim.Adam(soft.parameters(), lr=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (soft(x) - wanted).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.15
    strength = soft.router.weight[0] - soft.router.weight[1]
    assert strength[0].abs() > 5 * strength[1:].abs().max()


def test_with_one_expert_of_a_token_the_auxiliary_loss_alone_trains_the_router() -> None:
    layer = make("btt:r=2", 4, 1)
    with AuxiliaryLoss(layer) as auxiliary:
        y = layer(torch.randn(30, 36, dtype=torch.float64))
    (of_task,) = torch.autograd.grad(y.square().sum(), layer.router.weight, retain_graph=True)
    assert not of_task.any()
    assert torch.autograd.grad(auxiliary.loss(), layer.router.weight)[0].abs().max() > 1e-4


@pytest.mark.parametrize("tokens", [0, 1])
def test_batches_of_no_and_of_one_token(tokens: int) -> None:
    layer = make("btt:r=2", 8, 2)
    x = torch.randn(tokens, 36, dtype=torch.float64, requires_grad=True)
    with AuxiliaryLoss(nn.ModuleList([layer])) as auxiliary:
        y = layer(x)
    assert y.shape == (tokens, 16)
    (y.sum() + auxiliary.loss()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    if tokens:
        torch.testing.assert_close(y, masked(layer, x), rtol=1e-9, atol=1e-9)


def test_all_tokens_routed_to_one_expert() -> None:
    layer = make("btt:r=2", 8, 1)
    x = torch.randn(50, 36, dtype=torch.float64).abs()
    with torch.no_grad():
        layer.router.weight.fill_(-1)
        layer.router.weight[5] = 1
    with AuxiliaryLoss(nn.ModuleList([layer])) as auxiliary:
        y = layer(x)
    torch.testing.assert_close(y, masked(layer, x), rtol=1e-9, atol=1e-9)
    (found,) = auxiliary.statistics()
    assert found.load == (0, 0, 0, 0, 0, 1, 0, 0)
    assert found.dropped == 0


def test_a_token_with_nan_spoils_itself_alone() -> None:
    layer = make("btt:r=2", 4, 2)
    x = torch.randn(6, 36, dtype=torch.float64)
    wanted = layer(x)
    x[2, 7] = math.nan
    y = layer(x)
    assert y[2].isnan().all()
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(y[others], wanted[others])


def test_nan_logits_spread_to_the_output_and_the_loss() -> None:
    layer = make("btt:r=2", 4, 2)
    with torch.no_grad():
        layer.router.weight[1, 0] = math.nan
    with AuxiliaryLoss(nn.ModuleList([layer])) as auxiliary:
        y = layer(torch.randn(6, 36, dtype=torch.float64))
    assert y.isnan().all()
    assert auxiliary.loss().isnan()


def test_an_expert_that_is_nan_spoils_its_own_scale_and_gradient_alone() -> None:
    plan = make("dense", 2, 1, 4, 4).experts.plan
    factor = 0.1 * torch.randn(2, 1, 4, 4, dtype=torch.float64)  # none is above the cap
    factor[1, 0, 0, 0] = math.nan
    factor.requires_grad_()
    gain = torch.ones(2, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(6, 4, dtype=torch.float64)
    y = execute(EachExpert(plan, (3, 3)), rows, gain, None, factor)
    assert y.isnan().all(dim=1).tolist() == [False] * 3 + [True] * 3
    for gradient in torch.autograd.grad(y.sum(), (gain, factor)):
        assert gradient.view(2, -1).isnan().any(dim=1).tolist() == [False, True]


def test_autocast_routes_in_float32() -> None:
    torch.manual_seed(0)
    layer = StructuredMoE(64, 64, "btt-moe:experts=8,top=2")
    nn.init.normal_(layer.router.weight, std=0.2)
    x = torch.randn(100, 64)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        routing = layer.router(x)
    assert y.dtype is torch.bfloat16
    assert routing.gates_TK.dtype is torch.float32
    torch.testing.assert_close(routing.gates_TK, layer.router(x).gates_TK)
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = StructuredMoE(64, 64, "btt-moe:experts=4,top=2")
    nn.init.normal_(layer.router.weight)
    x = torch.randn(30, 64)
    half = StructuredMoE(64, 64, "btt-moe:experts=4,top=2", dtype=dtype)
    half.load_state_dict(layer.state_dict())
    y = half(x.to(dtype))
    assert y.dtype is dtype
    same = (half.router(x.to(dtype)).experts_TK == layer.router(x).experts_TK).all(dim=1)
    assert same.float().mean() > 0.8
    torch.testing.assert_close(y.float()[same], layer(x)[same], rtol=0.1, atol=0.1)
    y.sum().backward()


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def test_deterministic_when_asked() -> None:
    layer = make("btt:r=2", 8, 2, 64, 64, dtype=torch.float32)
    x = torch.randn(300, 64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    with deterministic():
        first, second = (gradients(layer(x), inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_eval_after_training_is_the_same_map() -> None:
    layer = make("btt:r=2", 4, 2)
    x = torch.randn(9, 36, dtype=torch.float64)
    layer(x).square().sum().backward()
    torch.optim.SGD(layer.parameters(), lr=1e-3).step()
    trained = layer(x)
    with torch.no_grad():
        evaluated = layer.eval()(x)
    torch.testing.assert_close(evaluated, trained)
    torch.testing.assert_close(evaluated, masked(layer, x))


def test_copies_are_the_same_map_and_share_the_plan() -> None:
    layer = make("btt:r=2", 4, 2)
    x = torch.randn(9, 36, dtype=torch.float64)
    memory = io.BytesIO()
    torch.save(layer, memory)
    memory.seek(0)
    for other in (copy.deepcopy(layer), torch.load(memory, weights_only=False)):
        assert other.experts.plan is layer.experts.plan
        assert torch.equal(other(x), layer(x))


def test_plain_route_can_be_differentiated_twice() -> None:
    layer = make("low-rank:r=2", 3, 2, 4, 3)
    x = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, *_: layer.plain_forward(x), (x, *layer.parameters()), fast_mode=True)


def test_checkpointing_keeps_no_intermediates(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are saved past the hooks by which checkpointing frees saved tensors."""
    kept: list[Any] = []
    forward = EachExpert.forward

    def noted(*words: Any) -> Any:
        y, saved = forward(*words)
        kept.extend([] if saved is None else saved.results)
        return y, saved

    monkeypatch.setattr(EachExpert, "forward", noted)
    layer = StructuredMoE(64, 64, "btt-moe:experts=4,top=2")
    x = torch.randn(9, 64, requires_grad=True)
    expected = torch.autograd.grad(layer(x).sum(), x)
    assert kept
    kept.clear()
    y = checkpoint(layer, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x), expected)
    assert not kept


def test_inside_a_compiled_model() -> None:
    layer = make("btt:r=2", 4, 2)
    model = nn.Sequential(layer, nn.ReLU())
    x = torch.randn(9, 36, dtype=torch.float64)
    compiled: Any = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("kind", ["StructuredMoE", "FeedForwardMoE"])
def test_exported_programs_serve_other_values_and_numbers_of_tokens(kind: str) -> None:
    """Nothing of the example's routing may become a constant."""
    layer: nn.Module = make("btt:r=2", 4, 2)
    if kind == "FeedForwardMoE":
        torch.manual_seed(0)
        layer = FeedForwardMoE(36, 16, "ffn-moe:experts=4,top=2", dtype=torch.float64)
        nn.init.normal_(layer.router.weight)  # type: ignore[union-attr,arg-type]
    tokens = torch.export.Dim("tokens", min=2, max=1000)
    example = torch.randn(5, 36, dtype=torch.float64)
    program = torch.export.export(layer, (example,), dynamic_shapes=({0: tokens},)).module()
    for count in (5, 40):
        x = torch.randn(count, 36, dtype=torch.float64)
        torch.testing.assert_close(program(x), layer(x), rtol=1e-9, atol=1e-9)


def test_grouping_by_hand() -> None:
    groups = group(torch.tensor([[1, 3], [3, 1], [0, 1]]), experts=5)
    assert groups.sizes() == [1, 3, 0, 2, 0]
    assert groups.token_of_row.tolist() == [2, 0, 1, 2, 0, 1]
    assert groups.row_of_slot_TK.tolist() == [[1, 4], [5, 2], [0, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("btt-moe:experts=2,top=3", "top=3 with experts=2: a token goes through at least 1"),
        ("btt-moe:experts=0,top=1", "experts=0: a layer has 1 to 4096 experts"),
        ("btt-moe:experts=4,top=0", "top=0 with experts=4"),
    ],
)
def test_numbers_that_no_mixture_has(text: str, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        StructuredMoE(16, 16, text)


@pytest.mark.parametrize(
    ("make_layer", "message"),
    [
        (lambda: StructuredMoE(16, 16, "btt:r=2"), "has no experts"),
        (lambda: StructuredMoE(16, 16, "ffn-moe:experts=2,top=1"), "has experts that are whole networks"),
        (lambda: FeedForwardMoE(16, 64, "dense-moe:experts=2,top=1"), "has experts that are single matrices"),
        (lambda: StructuredMoE(16, 16, "btt-moe:experts=2,top=1", dtype=torch.int64), "dtype torch.int64"),
        (lambda: StructuredMoE(16, 16, "btt-moe:experts=2,top=1")(torch.zeros(3, 15)), r"shape \(3, 15\)"),
        (lambda: StructuredMoE(16, 16, "btt-moe:experts=2,top=1")(torch.zeros(3, 16).long()), "dtype torch.int64"),
        (
            lambda: FeedForwardMoE(16, 64, "ffn-moe:experts=2,top=1")(torch.zeros(3, 16).double()),
            r"input of dtype torch.float64, parameter router.weight of torch.float32",
        ),
    ],
)
def test_errors_say_what_is_wrong(make_layer: Any, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        make_layer()


def test_experts_beyond_the_memory_are_refused() -> None:
    with pytest.raises(SizeError, match=r"4096 × .* parameters = "):
        StructuredMoE(2**17, 2**17, "dense-moe:experts=4096,top=2")


@pytest.mark.parametrize("structure", FAMILIES)
def test_costs_are_those_of_the_layer(structure: str) -> None:
    layer = make(structure, 8, 2)
    costs = layer_costs(layer.mixture, 36, 16)
    gains_and_bias = 8 + 16
    assert costs.params == sum(p.numel() for p in layer.parameters()) - gains_and_bias
    assert costs.active_params == costs.params - 6 * sum(f[0].numel() for f in layer.experts.factors.values())
    assert costs.flops_per_token == layer.flops_per_token
