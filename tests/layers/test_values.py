"""Values, gradients and costs of the layer, each compared with a separate route."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.plans.chunking import chunks, kept_steps
from einsearch_cli.layers.plans.planner import routes
from einsearch_cli.taxonomy import flops_per_token

DenseRoute = Callable[[EinsumLinear], Tensor]


@pytest.mark.parametrize("cap", [False, True], ids=["below-cap", "above-cap"])
def test_output_is_that_of_the_dense_matrix_by_every_route(case: Any, cap: bool, dense_by_columns: DenseRoute) -> None:
    layer = case.layer(cap=cap)
    dense = dense_by_columns(layer)
    x = torch.randn(5, 3, case.d_in, dtype=torch.float64)
    expected = x @ dense.T + layer.bias
    for route in routes(layer.sized):
        layer.route = route.text
        torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)  # from what was kept
    assert dense.shape == (case.d_out, case.d_in)
    assert dense.abs().max() > 1e-3
    torch.testing.assert_close(layer.to_dense(), dense, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.weight, dense, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tokens", [2, 12])  # which have plans of their own
@pytest.mark.parametrize("cap", [False, True], ids=["below-cap", "above-cap"])
def test_gradients_agree_with_finite_differences_by_every_route(case: Any, cap: bool, tokens: int) -> None:
    layer = case.layer(cap=cap)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(tokens, case.d_in, dtype=torch.float64, requires_grad=True)

    def output(x: Tensor, *values: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))
        return result

    for route in routes(layer.sized):
        layer.route = route.text
        assert torch.autograd.gradcheck(output, (x, *parameters), fast_mode=True), route.text


@pytest.mark.parametrize("name", ["btt-2", "generic", "prime-in-and-out"])
def test_every_entry_of_the_gradient_agrees_with_finite_differences(market: dict[str, Any], name: str) -> None:
    layer = market[name].layer(cap=True)
    layer.route = routes(layer.sized)[0].text
    x = torch.randn(1, market[name].d_in, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


@pytest.mark.parametrize(("name", "number"), [("btt-2", 0), ("btt-2", 1), ("dense", 0)])
def test_gradients_to_differentiate_again_of_a_layer_in_series(market: dict[str, Any], name: str, number: int) -> None:
    """The second call's input depends on the factors too; these gradients must not be counted twice."""
    layer = market[name].layer(cap=True)
    layer.route = routes(layer.sized)[number].text
    back = torch.randn(layer.in_features, layer.out_features, dtype=torch.float64)
    x = torch.randn(3, layer.in_features, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        hidden = x
        for _ in range(3):
            hidden = torch.tanh(layer(hidden) @ back.T)
        return hidden.square().sum()

    inputs = (x, *layer.parameters())
    expected = torch.autograd.grad(loss(), inputs)
    for found, once in zip(torch.autograd.grad(loss(), inputs, create_graph=True), expected, strict=True):
        torch.testing.assert_close(found, once, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "number"), [("btt-2", 0), ("btt-2", 1), ("dense", 0)])
def test_a_batch_of_output_gradients(market: dict[str, Any], name: str, number: int) -> None:
    layer = market[name].layer(cap=True)
    layer.route = routes(layer.sized)[number].text
    x = torch.randn(3, layer.in_features, dtype=torch.float64, requires_grad=True)
    inputs, y = (x, *layer.parameters()), layer(x)
    grads = torch.randn(2, *y.shape, dtype=torch.float64)
    together = torch.autograd.grad(y, inputs, grads, is_grads_batched=True, retain_graph=True)
    for number, grad in enumerate(grads):
        for found, single in zip(together, torch.autograd.grad(y, inputs, grad, retain_graph=True), strict=True):
            torch.testing.assert_close(found[number], single, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "number"), [("btt-2", 0), ("btt-2", 1), ("dense", 0)])
def test_second_derivatives(market: dict[str, Any], name: str, number: int) -> None:
    layer = market[name].layer(cap=True)
    layer.route = routes(layer.sized)[number].text
    x = torch.randn(1, market[name].d_in, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, *_: layer(x), (x, *layer.parameters()), fast_mode=True)


@pytest.mark.parametrize("frozen", ["gain", "bias", "factors.A"])
@pytest.mark.parametrize("name", ["btt-2", "dense"])
def test_parameters_learn_next_to_a_frozen_one(market: dict[str, Any], name: str, frozen: str) -> None:
    layer = market[name].layer(cap=True)
    layer.route = routes(layer.sized)[0].text
    layer.get_parameter(frozen).requires_grad_(False)
    x = torch.randn(4, market[name].d_in, dtype=torch.float64)
    layer(x).square().sum().backward()
    recorded = torch.func.grad(lambda values: torch.func.functional_call(layer, values, (x,)).square().sum())(
        dict(layer.named_parameters())
    )
    for name, parameter in layer.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, recorded[name])


@pytest.mark.parametrize("name", ["btt-2", "dense"])
@pytest.mark.parametrize("gain", [0.0, 1.0, -2.0])
@pytest.mark.parametrize("tokens", [3, 50])
def test_gradients_agree_with_those_of_the_recorded_route(
    market: dict[str, Any], name: str, gain: float, tokens: int
) -> None:
    """Any scale, with and without bias, inputs of three axes, fewer and more tokens than features."""
    layer = market[name].layer(cap=True, bias=False)
    layer.route = routes(layer.sized)[0].text
    layer.gain.data.fill_(gain)
    x = torch.randn(2, tokens, market[name].d_in, dtype=torch.float64, requires_grad=True)
    inputs = (x, *layer.parameters())
    found = torch.autograd.grad(layer(x).square().sum() + layer(x).sum(), inputs)

    def recorded(x: Tensor, *values: Tensor) -> Tensor:
        y = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))
        return y.square().sum() + y.sum()

    names = [name for name, _ in layer.named_parameters()]
    expected = torch.func.grad(recorded, argnums=tuple(range(len(inputs))))(*inputs)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("cap", [False, True])
@pytest.mark.parametrize("trained", [["bias"], ["gain"], ["factors.A"], ["gain", "bias"]])
def test_gradients_of_some_parameters_are_those_of_all(case: Any, cap: bool, trained: list[str]) -> None:
    """This includes training nothing but a bias, where the norms of factors above their cap do not matter."""
    layer = case.layer(cap=cap)
    for route in routes(layer.sized):
        layer.route = route.text
        x, grad = torch.randn(3, case.d_in, dtype=torch.float64), torch.randn(3, case.d_out, dtype=torch.float64)
        layer.requires_grad_(True)
        expected = torch.autograd.grad(layer(x), [layer.get_parameter(name) for name in trained], grad)
        layer.requires_grad_(False)
        chosen = [layer.get_parameter(name).requires_grad_() for name in trained]
        torch.testing.assert_close(torch.autograd.grad(layer(x), chosen, grad), expected)


def test_a_graph_can_be_walked_twice(case: Any) -> None:
    """The first backward pass may overwrite what was kept."""
    layer = case.layer()
    for route in routes(layer.sized):
        layer.route = route.text
        x = torch.randn(3, case.d_in, dtype=torch.float64, requires_grad=True)
        y = layer(x).square().sum()
        inputs = (x, *layer.parameters())
        first = [grad.clone() for grad in torch.autograd.grad(y, inputs, retain_graph=True)]
        torch.testing.assert_close(torch.autograd.grad(y, inputs), tuple(first))


def test_checkpointing_keeps_no_intermediates() -> None:
    """They are kept past the hooks by which checkpointing frees saved tensors."""
    layer = EinsumLinear(64, 64, "btt:r=1")
    layer.route = "(xA)B"
    x = torch.randn(3, 64, requires_grad=True)
    y = layer(x)
    assert all(result is not None for result in y.grad_fn.saved.results)  # type: ignore[union-attr]
    expected = torch.autograd.grad(y.sum(), x)
    kept_in_graph: list[Any] = []

    def forward(x: Tensor) -> Tensor:
        y = layer(x)
        kept_in_graph.append(y.grad_fn.saved)  # type: ignore[union-attr]
        return y

    y = checkpoint(forward, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x), expected)
    assert kept_in_graph == [None]  # computing again ends before the layer returns


def test_per_sample_gradients_sum_to_the_gradient(case: Any) -> None:
    layer = case.layer()
    x = torch.randn(4, case.d_in, dtype=torch.float64)
    parameters = dict(layer.named_parameters())

    def loss(values: dict[str, Tensor], x: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(layer, values, (x,)).square().sum()
        return result

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    whole = torch.func.grad(loss)(parameters, x)
    for name, gradient in whole.items():
        torch.testing.assert_close(per_sample[name].sum(0), gradient)


@pytest.mark.parametrize("name", ["btt-2", "prime-in-and-out", "dense", "kronecker-of-three"])
def test_inputs_that_outlive_their_transform(market: dict[str, Any], name: str) -> None:
    """A hook may keep a wrapper around the input, through which gradients still have to reach it."""
    layer = market[name].layer()
    x = torch.randn(3, market[name].d_in, dtype=torch.float64, requires_grad=True)
    inputs = (x, *layer.parameters())
    for route in routes(layer.sized):
        layer.route = route.text
        kept: list[Tensor] = []
        torch.func.grad(lambda x, kept=kept: (kept.append(x), x.sum())[1])(x)
        found, expected = layer(kept[0]), layer(x)
        torch.testing.assert_close(found, expected)
        gradients = torch.autograd.grad(found.square().sum(), inputs)
        torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), inputs))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, from jvp
def test_forward_mode_agrees_with_reverse_mode(case: Any) -> None:
    layer = case.layer()
    x = torch.randn(case.d_in, dtype=torch.float64)
    torch.testing.assert_close(torch.func.jacfwd(layer)(x), torch.func.jacrev(layer)(x))


def test_flops_are_those_that_torch_counts(case: Any) -> None:
    layer = case.layer(bias=False)
    layer.route = routes(layer.sized)[0].text
    tokens = 2
    x = torch.randn(tokens, case.d_in, dtype=torch.float64, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        y = layer(x)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    # Outer and element-wise products run as matrix products with one contracted entry, so torch counts them too.
    assert forward.get_total_flops() == tokens * layer.flops_per_token
    assert all(kept_steps(layer.plan, tokens))
    assert backward.get_total_flops() == 2 * tokens * layer.flops_per_token
    assert layer.flops_per_token == flops_per_token(layer.sized)


def test_many_tokens_compute_cheap_intermediates_again(market: dict[str, Any]) -> None:
    layer = market["btt-2"].layer(bias=False)
    layer.route = routes(layer.sized)[0].text
    tokens = 10_000
    assert len(chunks(layer.plan, tokens)) > 1
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(tokens, 36, dtype=torch.float64, requires_grad=True)).sum().backward()
    first = 2 * layer.plan.steps[0].macs_per_token
    assert counter.get_total_flops() == tokens * (3 * layer.flops_per_token + first)


def test_parameters_are_those_of_the_structure(case: Any) -> None:
    layer = case.layer(bias=False)
    assert sum(factor.numel() for factor in layer.factors.values()) == layer.sized.params


def test_gradients_lie_in_memory_as_the_features_do(market: dict[str, Any]) -> None:
    """A transposed input gradient would slow every layer before this one."""
    for name in ("dense", "kronecker", "monarch", "btt-2", "low-rank", "tt"):
        layer = market[name].layer()
        x = torch.randn(6, market[name].d_in, dtype=torch.float64, requires_grad=True)
        y = layer(x)
        y.backward(torch.randn_like(y))
        assert y.is_contiguous(), name
        assert x.grad is not None
        assert x.grad.is_contiguous(), name
        assert all(p.grad is not None and p.grad.is_contiguous() for p in layer.parameters()), name


@pytest.mark.parametrize("text", ["dense", "low-rank:r=16", "kronecker", "btt:r=2", "monarch:blocks=8"])
def test_init_statistics(text: str) -> None:
    torch.manual_seed(0)
    layer = EinsumLinear(1024, 256, text)
    for role in layer.plan.roles:
        factor = layer.factors[role.factor]
        std = math.sqrt(min(role.fan_in, role.fan_out) / role.fan_in**2)
        error = 5 / math.sqrt(2 * factor.numel())
        assert factor.std().item() == pytest.approx(std, rel=error)
        assert abs(factor.mean().item()) < 5 * std / math.sqrt(factor.numel())
        assert factor.shape[1:] == (role.fan_in, role.fan_out)
    assert layer.gain.item() == 1
    assert layer.bias is not None
    assert not layer.bias.any()


def test_fans_of_a_btt_layer() -> None:
    """Worked by hand for 64 = 8 · 8 and rank 2. A: (α → δφρ), B: (βγρ → ε)."""
    layer = EinsumLinear(64, 64, "btt:r=2")
    fans = {role.factor: (role.fan_in, role.fan_out) for role in layer.plan.roles}
    assert fans == {"A": (8, 16), "B": (16, 8)}
    stds = {role.factor: role.init_std for role in layer.plan.roles}
    assert stds == {"A": pytest.approx(math.sqrt(8) / 8), "B": pytest.approx(math.sqrt(8) / 16)}
    assert layer.learning_rate_multipliers() == {"factors.A": 64 / 8 / 2, "factors.B": 64 / 16 / 2}
    assert EinsumLinear(64, 32, "dense").learning_rate_multipliers() == {"factors.A": 1.0}


def test_cap_bounds_the_layer_however_large_a_factor_grows() -> None:
    torch.manual_seed(0)
    layer = EinsumLinear(64, 64, "monarch", bias=False)
    x = torch.randn(100, 64)
    with torch.no_grad():
        for factor in layer.factors.values():
            factor.mul_(3)
        capped = layer(x)
        layer.factors["A"].mul_(50)
        torch.testing.assert_close(layer(x), capped)
        layer.gain.fill_(2)
        torch.testing.assert_close(layer(x), 2 * capped)


@pytest.mark.parametrize("text", ["monarch", "dense", "low-rank:r=4"])
@pytest.mark.parametrize("factor", ["A", "B"])
@pytest.mark.parametrize("width", [16, 320])
def test_one_entry_that_is_not_a_number_spreads_to_everything(text: str, factor: str, width: int) -> None:
    """A norm with NaN is not below the cap, so a failed training does not look half right.

    MKL takes a NaN that scales a product for 1, on some processors and for some sizes.
    """
    layer = EinsumLinear(width, width, text)
    with torch.no_grad():
        layer.factors[factor if factor in layer.factors else "A"][0, 0, 0] = torch.nan
    for route in routes(layer.sized):
        layer.route = route.text
        x = torch.randn(width, width, requires_grad=True)
        y = layer(x)
        assert y.isnan().all(), route.text
        for gradient in torch.autograd.grad(y.sum(), (x, layer.gain, *layer.factors.values())):
            assert gradient.isnan().all(), route.text
        with torch.no_grad():
            assert layer(x).isnan().all(), route.text
    assert layer.to_dense().isnan().all()


def test_cap_leaves_small_factors_alone() -> None:
    torch.manual_seed(0)
    layer = EinsumLinear(64, 64, "monarch", bias=False)
    x = torch.randn(100, 64)
    with torch.no_grad():
        layer.factors["A"].mul_(0.5)
        layer.factors["B"].mul_(0.5)
        y = layer(x)
        layer.factors["A"].mul_(0.5)
        torch.testing.assert_close(layer(x), 0.5 * y)


def test_zero_last_factor_gives_zero_output_that_can_learn() -> None:
    layer = EinsumLinear(16, 16, "btt:r=2")
    layer.zero_last_factor_()
    y = layer(torch.randn(4, 16))
    assert not y.any()
    y.sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert gradients["factors.B"].abs().max() > 0  # type: ignore[union-attr]


def test_half_precision_parameters_do_not_overflow_the_norm() -> None:
    torch.manual_seed(0)
    layer = EinsumLinear(512, 512, "low-rank:r=256", dtype=torch.float16)
    with torch.no_grad():
        for factor in layer.factors.values():
            factor.mul_(100)
    y = layer(torch.randn(3, 512, dtype=torch.float16))
    assert y.dtype is torch.float16
    assert y.isfinite().all()


@pytest.mark.parametrize("cap", [0.5, 3.0], ids=["below-cap", "above-cap"])
def test_the_gradient_of_the_gain_does_not_overflow_half_precision(cap: float) -> None:
    """The gradient is a sum over all outputs."""
    torch.manual_seed(0)
    layer = EinsumLinear(64, 64, "btt:r=2", bias=False)
    layer.route = "(xA)B"
    with torch.no_grad():
        for factor in layer.factors.values():
            factor.mul_(cap)
        layer.gain.fill_(1.0 if cap > 1 else 4.0)
    x, parameters = torch.randn(4000, 64), tuple(layer.parameters())
    y = layer(x)
    expected = torch.autograd.grad(y, parameters, y.detach())
    with torch.autocast("cpu", dtype=torch.float16):
        y = layer(x)
    for half, single in zip(torch.autograd.grad(y, parameters, y.detach()), expected, strict=True):
        assert (half - single).norm() <= 0.02 * single.norm()


def test_dense_structure_starts_like_its_definition() -> None:
    torch.manual_seed(0)
    layer = EinsumLinear(128, 128, "dense", bias=False)
    x = torch.randn(64, 128)
    spectral_norm = torch.linalg.matrix_norm(layer.to_dense(), 2).item()
    assert spectral_norm == pytest.approx(2, rel=0.1)  # std 1/sqrt(d): sqrt(d_in) + sqrt(d_out) over sqrt(d)
    reference = nn.functional.linear(x, layer.to_dense())
    torch.testing.assert_close(layer(x), reference, rtol=1e-4, atol=1e-4)
