"""Tensor-Trains of two cores: the formula of the fused kernel in torch, compared with torch's own gradients."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.execution import gpu, kernels as small_kernels
from einsearch_cli.layers.execution.autograd import execute
from einsearch_cli.layers.execution.executor import reference_layer
from einsearch_cli.layers.execution.gpu import GpuExecutor
from einsearch_cli.layers.execution.kernels import two_core_kernels
from einsearch_cli.layers.plans.chunking import kept_when_compiled
from einsearch_cli.layers.plans.cost_model import inference_bytes, training_bytes
from einsearch_cli.layers.plans.machine_profile import DEFAULT_GPU
from einsearch_cli.layers.plans.plan import Call
from einsearch_cli.layers.plans.planner import Use, explain
from einsearch_cli.layers.plans.two_cores import TwoCores, two_cores
from tests.layers.parts import factors_of, padded_bias_of

TEXTS = ["kronecker", "tt:r=3", "XA^1/4 XB^3/4 YA^1/2 YB^1/2 AB=2", "XB^1/2 XA^1/2 YB^1/4 YA^3/4"]
SIZES = [(16, 16), (16, 81), (30, 14)]  # the last is padded


def operands(
    cores: TwoCores, x: Tensor, y: Tensor, first: Tensor, second: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """X (T, P, Q), Y (T, M, N), F (P, M, R) and S (Q, N, R), by the strides alone."""
    p, q, m, n, r = cores.sizes
    return (
        x.as_strided((x.shape[0], p, q), (p * q, *cores.x)),
        y.as_strided((y.shape[0], m, n), (m * n, *cores.y)),
        first.as_strided((p, m, r), cores.first),
        second.as_strided((q, n, r), cores.second),
    )


def multiply(
    cores: TwoCores, x: Tensor, y: Tensor, scale: float, bias: Tensor | None, factors: tuple[Tensor, Tensor]
) -> None:
    x_TPQ, y_TMN, first_PMR, second_QNR = operands(cores, x, y, *factors)
    y_TMN.copy_(scale * torch.einsum("tpq,pmr,qnr->tmn", x_TPQ, first_PMR, second_QNR))
    if bias is not None:
        y += bias


def gradients(
    cores: TwoCores, grad: Tensor, x: Tensor, factors: tuple[Tensor, Tensor], wants_bias: bool
) -> tuple[Tensor | None, list[Tensor | None]]:
    first_grad, second_grad = map(torch.empty_like, factors)
    x_TPQ, grad_TMN, into_first, into_second = operands(cores, x, grad, first_grad, second_grad)
    *_, first_PMR, second_QNR = operands(cores, x, grad, *factors)
    into_first.copy_(torch.einsum("tpq,tmn,qnr->pmr", x_TPQ, grad_TMN, second_QNR))
    into_second.copy_(torch.einsum("tpq,tmn,pmr->qnr", x_TPQ, grad_TMN, first_PMR))
    return grad.sum(0) if wants_bias else None, [first_grad, second_grad]


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace Triton's kernels by those of torch above; returns the names of calls."""
    called: list[str] = []

    def noted(function):  # type: ignore[no-untyped-def]
        return lambda *arguments: (called.append(function.__name__), function(*arguments))[1]

    fused = SimpleNamespace(multiply=noted(multiply), gradients=noted(gradients))
    monkeypatch.setattr(gpu, "two_core_kernels", lambda *_: fused)
    return called


def layer_of(text: str, d_in: int, d_out: int) -> EinsumLinear:
    torch.manual_seed(0)
    layer = EinsumLinear(d_in, d_out, text, dtype=torch.float64)
    with torch.no_grad():
        layer.gain.fill_(1.25)
        layer.factors["A"].mul_(2.0)
    return layer


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("d_in", "d_out"), SIZES)
def test_the_formula_is_the_layer(kernels: list[str], text: str, d_in: int, d_out: int) -> None:
    layer = layer_of(text, d_in, d_out)
    x = torch.randn(5, layer.plan.padded_in, dtype=torch.float64, requires_grad=True)
    inputs = [x, layer.gain, padded_bias_of(layer), *factors_of(layer)]
    y = execute(GpuExecutor(layer.plan, 5), *inputs)
    expected = reference_layer(layer.plan, *inputs)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(y)
    wanted = torch.autograd.grad(expected, inputs, grad)
    for found, other in zip(torch.autograd.grad(y, inputs, grad), wanted, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-10, atol=1e-10)
    assert kernels == ["multiply", "multiply", "gradients"]


@pytest.mark.parametrize("place", range(5))
def test_only_what_is_wanted_is_computed(kernels: list[str], place: int) -> None:
    layer = layer_of("tt:r=3", 16, 81)
    x = torch.randn(5, 16, dtype=torch.float64)
    inputs = [
        tensor.detach().requires_grad_(number == place)
        for number, tensor in enumerate((x, layer.gain, layer.bias, *factors_of(layer)))
    ]
    y = execute(GpuExecutor(layer.plan, 5), *inputs)
    (found,) = torch.autograd.grad(y.sum(), inputs[place])
    (expected,) = torch.autograd.grad(reference_layer(layer.plan, *inputs).sum(), inputs[place])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    # The gain's gradient comes with the factors', and the bias's alone is a sum.
    assert kernels[1:] == [["multiply"], ["gradients"], [], ["gradients"], ["gradients"]][place]


def test_other_layers_are_not_two_cores() -> None:
    families = ["dense", "low-rank:r=4", "monarch", "btt:r=2", "tt:n=3,r=2", "block-dense:blocks=4,r=4"]
    for text in [*families, "XAB^1/2 XB^1/2 YA^1/2 YB^1/2"]:
        assert two_cores(EinsumLinear(256, 256, text, device="meta").plan) is None, text
    assert two_cores(EinsumLinear(128**2, 128**2, "kronecker", device="meta").plan) is not None
    assert two_cores(EinsumLinear(256**2, 64, "kronecker", device="meta").plan) is None  # too large for a chip
    assert two_cores(EinsumLinear(256, 256, "tt:r=17", device="meta").plan) is None
    assert two_cores(EinsumLinear(256, 1, "kronecker", device="meta").plan) is None  # one axis is all of Y


def test_the_transposed_of_the_transposed() -> None:
    cores = two_cores(EinsumLinear(16, 81, "tt:r=3", device="meta").plan)
    assert cores is not None
    assert cores.transposed.transposed == cores
    assert cores.transposed != cores


def test_a_cpu_has_no_kernels() -> None:
    layer = layer_of("kronecker", 16, 16)
    x, cores = torch.randn(3, 16, dtype=torch.bfloat16), two_cores(layer.plan)
    assert cores is not None
    assert two_core_kernels(cores, x, [factor.bfloat16() for factor in factors_of(layer)], None) is None
    half, single = torch.bfloat16, torch.float32
    for device, dtype, keeps in (("cpu", half, True), ("cuda", half, False), ("cuda", single, True)):
        assert kept_when_compiled(layer.plan, Call(device, dtype, 3)) == (keeps,)


def test_nothing_but_input_and_output_moves() -> None:
    """In half precision, training needs 3 passes over both, and the factors."""
    sized = EinsumLinear(64, 64, "tt:r=4", device="meta").sized
    (own, *_) = (item for item in explain(sized, 1000, DEFAULT_GPU, Use.merged) if item.text != "x(AB)")
    params = 2 * 8 * 8 * 4
    assert own.intermediate_elements == 0
    assert own.bytes == 2 * (params + 1000 * 2 * 64)
    plan = EinsumLinear(64, 64, "tt:r=4", device="meta").plan
    assert training_bytes(plan, 1000, DEFAULT_GPU) == 3 * inference_bytes(plan, 1000, DEFAULT_GPU)
    wide = DEFAULT_GPU.of_itemsize(4)
    assert inference_bytes(plan, 1000, wide) == 4 * (params + 1000 * (2 * 64 + 2 * 8 * 8 * 4))


def test_kernels_that_do_not_run_are_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As without a C compiler: torch's operations do the same, but more slowly."""

    def fails(*_: object) -> None:
        raise RuntimeError("no C compiler")

    module = SimpleNamespace(add_bias_=fails)
    monkeypatch.setitem(sys.modules, "einsearch_cli.layers.execution.kernels.by_triton", module)
    monkeypatch.setattr(small_kernels, "by_triton", module, raising=False)
    monkeypatch.setattr(small_kernels, "find_spec", lambda _: object())
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, **_: ones(*shape))
    small_kernels.usable_kernels.cache_clear()
    assert small_kernels.usable_kernels(0) is None
    assert small_kernels.usable_kernels(0) is None
    small_kernels.usable_kernels.cache_clear()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == "Triton's kernels do not run here, torch's operations take their place: no C compiler"


def test_only_a_missing_triton_goes_without_saying(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = "einsearch_cli.layers.execution.kernels.by_triton"
    monkeypatch.delattr(small_kernels, "by_triton", raising=False)
    monkeypatch.setitem(sys.modules, name, None)  # importing it raises ImportError
    for is_there in (False, True):
        monkeypatch.setattr(small_kernels, "find_spec", lambda _, found=is_there: found or None)
        small_kernels.usable_kernels.cache_clear()
        assert small_kernels.usable_kernels(0) is None
        assert len(caplog.records) == is_there
    small_kernels.usable_kernels.cache_clear()
    assert name in caplog.records[0].getMessage()


def test_a_fused_kernel_that_does_not_run_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a chip that is too small for the cores."""

    def fails(*_: object) -> None:
        raise RuntimeError("out of resource: shared memory")

    module = SimpleNamespace(multiply=fails)
    monkeypatch.setitem(sys.modules, "einsearch_cli.layers.execution.kernels.tensor_train", module)
    monkeypatch.setattr(small_kernels, "tensor_train", module, raising=False)
    monkeypatch.setattr(small_kernels, "kernels_for", lambda *_: module)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, **_: zeros(*shape))
    cores = two_cores(EinsumLinear(20, 28, "tt:r=3", device="meta").plan)
    assert cores is not None
    x: Any = SimpleNamespace(shape=(3, 20), dtype=torch.bfloat16, get_device=lambda: 0)  # as on a GPU
    for _ in range(2):
        assert two_core_kernels(cores, x, [], None) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        f"the fused kernels for {cores.sizes} do not run here, torch's operations take their place: "
        "out of resource: shared memory"
    )
