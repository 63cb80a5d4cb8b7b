"""Layers on a GPU compared with float64 on the CPU: every route, forward and backward; needs a GPU."""

from __future__ import annotations

import copy

import pytest
import torch

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.execution.kernels import kernels_for, two_core_kernels
from einsearch_cli.layers.execution.scaling import gradients_by_torch, scaled_by_torch
from einsearch_cli.layers.plans.planner import routes
from einsearch_cli.layers.plans.two_cores import two_cores
from einsearch_cli.speed.cases import MARKET
from tests.layers.parts import factors_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

# Relative to the largest entry. TensorFloat-32 is off by default.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 4e-2}


def pair(text: str, dtype: torch.dtype) -> tuple[EinsumLinear, EinsumLinear]:
    """A layer with capped and other factors on the GPU, and its copy on the CPU."""
    torch.manual_seed(0)
    layer = EinsumLinear(256, 256, text, dtype=dtype)
    with torch.no_grad():
        layer.gain.fill_(1.25)
        layer.bias.normal_()
        next(iter(layer.factors.values())).mul_(1.5)
    return copy.deepcopy(layer).cuda(), layer.double()


def assert_close(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, text: str) -> None:
    error = (found.double().cpu() - expected).abs().max() / expected.abs().max()
    assert error <= TOLERANCES[dtype], f"{text}: {error:.2e}"


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("text", [text.replace("d/4", "64") for text in MARKET])
@pytest.mark.parametrize("tokens", [3, 700])
def test_both_passes_on_every_route(text: str, dtype: torch.dtype, tokens: int) -> None:
    layer, double = pair(text, dtype)
    x = torch.randn(tokens, 256).to(dtype)
    y_grad = torch.randn(tokens, 256).to(dtype)
    x_double = x.detach().double().clone().requires_grad_()
    expected = double(x_double)
    expected.backward(y_grad.double())
    for route in routes(layer.sized):
        layer.route = route.text
        x_gpu = x.cuda().detach().requires_grad_()
        y = layer(x_gpu)
        layer.zero_grad()
        y.backward(y_grad.cuda())
        assert_close(y, expected, dtype, route.text)
        assert_close(x_gpu.grad, x_double.grad, dtype, route.text)
        for (name, parameter), wanted in zip(layer.named_parameters(), double.parameters(), strict=True):
            if name == "gain":  # a sum of terms that cancel
                typical = (expected.detach() * y_grad).norm()
                assert abs(parameter.grad.item() - wanted.grad.item()) <= TOLERANCES[dtype] * typical, route.text
            else:
                assert_close(parameter.grad, wanted.grad, dtype, f"{route.text} {name}")
        with torch.no_grad():
            assert_close(layer(x_gpu), expected, dtype, f"{route.text} at inference")


@pytest.mark.parametrize("text", ["monarch", "btt:r=4", "dense"])
def test_a_training_step_does_not_wait_for_the_gpu(text: str) -> None:
    layer = EinsumLinear(256, 256, text, device="cuda")
    x = torch.randn(64, 256, device="cuda", requires_grad=True)
    layer(x).sum().backward()  # what is kept is made
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(x).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("text", ["monarch", "btt:r=4", "block-dense:blocks=4,r=4"])
def test_derivatives_of_derivatives(text: str) -> None:
    layer = EinsumLinear(16, 16, text, device="cuda", dtype=torch.float64)
    x = torch.randn(3, 16, device="cuda", dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, x)


@pytest.mark.parametrize("text", ["monarch", "btt:r=4"])
def test_autocast_and_padding(text: str) -> None:
    layer = EinsumLinear(250, 254, text, device="cuda")
    x = torch.randn(5, 7, 250, device="cuda")
    expected = layer(x)
    with torch.autocast("cuda", torch.bfloat16):
        y = layer(x)
    assert y.dtype is torch.bfloat16
    assert_close(y, expected.double().cpu().detach(), torch.bfloat16, text)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [0.5, 2.0])
def test_triton_and_torch_scale_alike(dtype: torch.dtype, count: int, size: float) -> None:
    by_triton = pytest.importorskip("einsearch_cli.layers.execution.kernels.by_triton")
    shapes = [(64, 32, 48), (16, 96, 33), (1, 700, 900), (3, 5, 7), (2, 2, 2)][:count]
    factors = tuple(size * torch.randn(shape, device="cuda").to(dtype) for shape in shapes)
    at_cap = tuple(factor.numel() ** 0.5 for factor in factors)
    gain, grad = torch.full((1,), 1.5, device="cuda", dtype=dtype), torch.randn_like(factors[-1])
    found, scale_and_norms = by_triton.scaled_last(gain, factors, at_cap)
    expected, saved = scaled_by_torch(gain, factors, at_cap)
    gradients = (*map(torch.randn_like, factors[:-1]), grad)
    slow_gain_grad, slow = gradients_by_torch(tuple(map(torch.clone, gradients)), gain, factors, at_cap, saved)
    gain_grad = by_triton.add_scale_(gradients, gain, factors, at_cap, scale_and_norms)
    torch.testing.assert_close(scale_and_norms, torch.cat(saved), rtol=1e-5, atol=0)
    for ours, theirs in zip((found, gain_grad, *gradients), (expected, slow_gain_grad, *slow), strict=True):
        tolerance = 2e-2 if dtype is torch.bfloat16 else 1e-4
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item())


@pytest.mark.parametrize("shape", [(1, 1), (7, 1500), (700, 33), (16, 4096)])
def test_triton_adds_a_bias(shape: tuple[int, int]) -> None:
    by_triton = pytest.importorskip("einsearch_cli.layers.execution.kernels.by_triton")
    y, bias = torch.randn(shape, device="cuda"), torch.randn(shape[1], device="cuda")
    expected = y + bias
    by_triton.add_bias_(y, bias)
    torch.testing.assert_close(y, expected)


def test_triton_is_used_where_it_can_be() -> None:
    bias = torch.randn(64, device="cuda")
    assert kernels_for(bias, [bias.bfloat16()]) is not None
    for other in (bias.double(), bias[::2], bias[:0]):
        assert kernels_for(bias, [bias, other]) is None
    assert kernels_for(bias.cpu(), [bias.cpu()]) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("d_in", "d_out", "text"),
    [
        (64, 64, "kronecker"),
        (48, 80, "kronecker"),
        (250, 1024, "kronecker"),
        (8192, 8192, "kronecker"),
        (16_384, 1024, "kronecker"),
        (64, 256, "tt:r=2"),
        (250, 80, "tt:r=5"),
        (8192, 4096, "tt:r=4"),
    ],
)
def test_two_cores_in_one_kernel(d_in: int, d_out: int, text: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = EinsumLinear(d_in, d_out, text, dtype=dtype)
    with torch.no_grad():
        layer.bias.normal_()
        layer.factors["A"].mul_(1.5)
    double, layer = copy.deepcopy(layer).double(), layer.cuda()
    layer.route = next(route.text for route in routes(layer.sized) if route.is_own)
    cores = two_cores(layer.plan)
    assert cores is not None
    for tokens in (1, 7, 300):
        x, y_grad = torch.randn(tokens, d_in, dtype=dtype), torch.randn(tokens, d_out, dtype=dtype)
        x_double, x_gpu = x.double().requires_grad_(), x.cuda().requires_grad_()
        padded = layer.padded(x_gpu.detach())
        factors = [factor.detach() for factor in factors_of(layer)]
        assert two_core_kernels(cores, padded, factors, None) is not None
        expected, y = double(x_double), layer(x_gpu)
        double.zero_grad()
        layer.zero_grad()
        expected.backward(y_grad.double())
        y.backward(y_grad.cuda())
        assert_close(y, expected, torch.bfloat16, text)
        assert_close(x_gpu.grad, x_double.grad, torch.bfloat16, text)
        for (name, parameter), wanted in zip(layer.named_parameters(), double.parameters(), strict=True):
            if name != "gain":
                assert_close(parameter.grad, wanted.grad, torch.bfloat16, f"{name} {tokens}")
        with torch.no_grad():
            assert_close(layer(x_gpu), expected, torch.bfloat16, f"{text} at inference")


@pytest.mark.parametrize("text", ["kronecker", "tt:r=2"])
def test_two_cores_in_compiled_code(text: str) -> None:
    layer = EinsumLinear(256, 256, text, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(64, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    torch.compiler.reset()
    y, expected = torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x)
    inputs = (x, *layer.parameters())
    found, wanted = (torch.autograd.grad(output.sum(), inputs) for output in (y, expected))
    for ours, theirs in zip((y, *found), (expected, *wanted), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2 * theirs.abs().max().item())


def test_two_cores_take_no_memory_for_the_intermediate() -> None:
    layer = EinsumLinear(1024, 1024, "tt:r=8", device="cuda", dtype=torch.bfloat16)
    layer.route = next(route.text for route in routes(layer.sized) if route.is_own)
    x = torch.randn(4096, 1024, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    layer(x).sum().backward()
    layer.zero_grad()
    x.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    layer(x).sum().backward()
    one = x.numel() * x.element_size()
    # Output, gradients of both and partial sums took 4.2; the intermediate would take 8 more.
    assert torch.cuda.max_memory_allocated() - before < 6 * one


@pytest.mark.parametrize("text", ["monarch", "dense"])
def test_what_is_not_a_number_spreads(text: str) -> None:
    layer = EinsumLinear(64, 64, text, device="cuda")
    with torch.no_grad():
        layer.factors["A"][0, 0, 0] = torch.nan
    x = torch.randn(5, 64, device="cuda", requires_grad=True)
    y = layer(x)
    assert y.isnan().all()
    for gradient in torch.autograd.grad(y.sum(), (x, layer.gain, *layer.factors.values())):
        assert gradient.isnan().all()


@pytest.mark.parametrize("text", ["monarch", "btt:r=4"])
@pytest.mark.parametrize("kind", ["compiled", "graphed"])
def test_compiled_and_captured_layers_are_the_same(text: str, kind: str) -> None:
    layer = EinsumLinear(250, 254, text, device="cuda")
    x = torch.randn(64, 250, device="cuda", requires_grad=True)
    if kind == "graphed":
        other = torch.cuda.make_graphed_callables(copy.deepcopy(layer), (x,))
    else:
        torch.compiler.reset()
        other = torch.compile(copy.deepcopy(layer), backend="aot_eager", fullgraph=True)
    y, expected = other(x), layer(x)
    torch.testing.assert_close(y, expected)
    found = torch.autograd.grad(y.square().sum(), (x, *other.parameters()))
    wanted = torch.autograd.grad(expected.square().sum(), (x, *layer.parameters()))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
