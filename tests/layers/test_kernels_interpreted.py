"""Every Triton kernel without a GPU, at small sizes, by Triton's interpreter: `make kernels`."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from types import ModuleType

import pytest
import torch

from einsearch_cli.layers import EinsumLinear, execution
from einsearch_cli.layers.execution import kernels, scaling
from einsearch_cli.layers.execution.autograd import execute
from einsearch_cli.layers.execution.gpu import GpuExecutor
from einsearch_cli.layers.execution.reference import contract
from einsearch_cli.layers.execution.scaling import gradients_by_torch, reference_scaled, scaled, scaled_by_torch
from einsearch_cli.layers.plans.planner import routes
from einsearch_cli.layers.plans.two_cores import two_cores

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by `make kernels`, which installs Triton for these tests alone", allow_module_level=True)

from einsearch_cli.layers.execution.kernels import by_triton, tensor_train
from tests.layers.parts import factors_of, padded_bias_of


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two programs for any number of multiprocessors, with a count of the queries."""
    asked: list[int] = []
    monkeypatch.setattr(tensor_train, "programs_for", lambda x, _: asked.append(1) or min(2, x.shape[0]))
    return asked


@pytest.mark.parametrize("shape", [(1, 1), (7, 1500), (33, 5)])
def test_a_bias_is_added(shape: tuple[int, int]) -> None:
    y, bias = torch.randn(shape), torch.randn(shape[1])
    expected = y + bias
    by_triton.add_bias_(y, bias)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [0.5, 2.0, float("nan")])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_factors_are_scaled_as_by_torch(
    count: int, size: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_triton, "MOST_PROGRAMS", 4)  # the interpreter runs one after another
    torch.manual_seed(0)
    factors = tuple(torch.randn(shape).to(dtype) for shape in ((16, 24, 8), (3, 5, 7), (1, 90, 60))[:count])
    factors[0].mul_(size)
    at_cap = tuple(1.1 * factor.numel() ** 0.5 for factor in factors)
    gain = torch.full((1,), 1.5, dtype=dtype)
    found, scale_and_norms = by_triton.scaled_last(gain, factors, at_cap)
    expected, saved = scaled_by_torch(gain, factors, at_cap)
    grads = tuple(map(torch.randn_like, factors))
    slow_gain_grad, slow = gradients_by_torch(tuple(map(torch.clone, grads)), gain, factors, at_cap, saved)
    gain_grad = by_triton.add_scale_(grads, gain, factors, at_cap, scale_and_norms)
    tolerance = 2e-2 if dtype is torch.bfloat16 else 1e-4
    pairs = zip(
        (scale_and_norms, found, gain_grad, *grads),
        (torch.cat(saved), expected, slow_gain_grad, *slow),
        strict=True,
    )
    for ours, theirs in pairs:
        largest = theirs.nan_to_num().abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * largest, equal_nan=True)


@pytest.mark.parametrize("size", [0.5, 2.0])
@pytest.mark.parametrize("text", ["btt:r=2", "tt:r=2", "low-rank:r=4", "dense", "XAB^1 YA^1/2 YB^1/2"])
def test_layers_use_the_kernels_as_on_a_gpu(text: str, size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients are those of torch, and the given gradients stay as they are."""
    monkeypatch.setattr(by_triton, "MOST_PROGRAMS", 4)
    called: list[str] = []
    for name in ("add_bias_", "scaled_last", "add_scale_"):
        function = getattr(by_triton, name)
        monkeypatch.setattr(by_triton, name, lambda *given, f=function, name=name: (called.append(name), f(*given))[1])
    for module in (scaling, kernels):
        monkeypatch.setattr(module, "kernels_for", lambda *_: by_triton)
    torch.manual_seed(0)
    layer = EinsumLinear(16, 16, text)
    plan, factors = layer.plan, factors_of(layer)
    with torch.no_grad():
        layer.gain.fill_(1.5)
        factors[0].mul_(size)
    inputs = [torch.randn(5, 16, requires_grad=True), layer.gain, padded_bias_of(layer), *factors]
    executor = GpuExecutor(plan, 5)
    leaves = [layer.gain, *factors]
    for found, expected, wanted in (
        (execute(executor, *inputs), executor.reference(*inputs), inputs),
        (scaled(layer.gain, factors, plan.limits)[-1], reference_scaled(layer.gain, factors, plan.limits)[-1], leaves),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        grad = torch.randn_like(found)
        before = grad.clone()
        pairs = (torch.autograd.grad(y, wanted, grad, materialize_grads=True) for y in (found, expected))
        for ours, theirs in zip(*pairs, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=4e-6)
        assert torch.equal(grad, before)
    # A product of one matrix adds the bias itself.
    assert set(called) == {"scaled_last", "add_scale_"} | ({"add_bias_"} if text != "dense" else set())


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize(("d_in", "d_out", "text"), [(64, 64, "kronecker"), (48, 80, "tt:r=2"), (16, 144, "tt:r=3")])
def test_two_cores_as_their_products(d_in: int, d_out: int, text: str, tokens: int, launched: list[int]) -> None:
    torch.manual_seed(0)
    layer = EinsumLinear(d_in, d_out, text)
    plan = next(route.plan for route in routes(layer.sized) if route.is_own)
    cores = two_cores(plan)
    assert cores is not None
    x, grad = torch.randn(tokens, d_in), torch.randn(tokens, d_out)
    bias, factors = torch.randn(d_out), [factor.detach() for factor in factors_of(layer)]
    leaves = [tensor.clone().requires_grad_() for tensor in (x, bias, *factors)]
    expected = 1.5 * contract(plan, leaves[0], leaves[2:]) + leaves[1]
    y, x_grad = torch.empty(tokens, d_out), torch.empty(tokens, d_in)
    tensor_train.multiply(cores, x, y, 1.5, bias, factors)
    torch.testing.assert_close(y, expected.detach(), rtol=1e-5, atol=1e-5)
    scaled = torch.autograd.grad(expected, leaves, grad)
    tensor_train.multiply(cores.transposed, grad, x_grad, 1.5, None, factors)
    torch.testing.assert_close(x_grad, scaled[0], rtol=1e-5, atol=1e-5)
    for wants_bias in (True, False):
        bias_grad, factor_grads = tensor_train.gradients(cores, grad, x, factors, wants_bias)
        for ours, theirs in zip(factor_grads, scaled[2:], strict=True):
            torch.testing.assert_close(1.5 * ours, theirs, rtol=1e-5, atol=1e-5)
        assert (bias_grad is not None) is wants_bias
        if bias_grad is not None:
            torch.testing.assert_close(bias_grad, scaled[1], rtol=1e-5, atol=1e-5)
    assert len(launched) == 4


def test_there_is_no_other_kernel() -> None:
    """A new kernel needs a test above."""
    tested = {"_add_bias", "_squares", "_scale_last", "_products", "_add_scale", "_multiply", "_sum_gradients"}
    helpers = {"_sum_of_products"}
    found = {name for module in (by_triton, tensor_train) for name in _kernels(module)}
    assert found == tested | helpers
    folder = Path(execution.__file__).parent
    users = {path.name for path in folder.parents[1].rglob("*.py") if "@triton.jit" in path.read_text()}
    assert users == {"by_triton.py", "tensor_train.py"}


def _kernels(module: ModuleType) -> list[str]:
    assert module.__file__ is not None
    functions = (
        node for node in ast.parse(Path(module.__file__).read_text()).body if isinstance(node, ast.FunctionDef)
    )
    return [
        function.name for function in functions if any(ast.unparse(d) == "triton.jit" for d in function.decorator_list)
    ]
