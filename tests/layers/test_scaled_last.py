"""Scaling without waiting for a device, compared with operations that torch differentiates itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from einsearch_cli.layers.execution.scaling import reference_scaled, scaled

STDS = (0.5, 0.25, 0.125)
SHAPES = ((4, 5, 6), (3, 7, 2), (1, 8, 4))
LIMITS = tuple(std * math.prod(shape) ** 0.5 for std, shape in zip(STDS, SHAPES, strict=True))


def inputs(scales: tuple[float, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor]]:
    """A gain, and factors whose rms is about `scales` times their init std."""
    factors = [
        (torch.randn(shape, dtype=torch.float64) * std * scale).to(dtype).requires_grad_()
        for shape, std, scale in zip(SHAPES, STDS, scales, strict=True)
    ]
    return torch.full((1,), 1.5, dtype=dtype, requires_grad=True), factors


@pytest.mark.parametrize("scales", [(0.5, 0.5, 0.5), (2, 0.5, 0.5), (0.5, 0.5, 2), (2, 3, 4)])
def test_values_and_gradients(scales: tuple[float, ...]) -> None:
    gain, factors = inputs(scales)
    grad = torch.randn_like(factors[-1])
    found, expected = scaled(gain, factors, LIMITS)[-1], reference_scaled(gain, factors, LIMITS)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    slow = torch.autograd.grad(expected, (gain, *factors), grad)
    for gradient, wanted in zip(
        torch.autograd.grad(found, (gain, *factors), grad, materialize_grads=True), slow, strict=True
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scales", [(0.5, 0.5, 0.5), (2, 3, 4)])
def test_derivatives_of_derivatives(scales: tuple[float, ...]) -> None:
    gain, factors = inputs(scales)
    assert torch.autograd.gradgradcheck(lambda gain, *factors: scaled(gain, factors, LIMITS)[-1], (gain, *factors))


def test_a_batch_of_gradients() -> None:
    gain, factors = inputs((2, 3, 4))
    result = scaled(gain, factors, LIMITS)[-1]
    grads = torch.randn(5, *result.shape, dtype=torch.float64)
    batched = torch.autograd.grad(result, factors, grads, is_grads_batched=True, retain_graph=True)
    for number, grad in enumerate(grads):
        for gradient, wanted in zip(
            batched, torch.autograd.grad(result, factors, grad, retain_graph=True), strict=True
        ):
            torch.testing.assert_close(gradient[number], wanted)


@pytest.mark.parametrize("position", [0, 2])
def test_what_is_not_a_number_spreads(position: int) -> None:
    gain, factors = inputs((0.5, 0.5, 0.5))
    with torch.no_grad():
        factors[position][0, 0, 0] = torch.nan
    result = scaled(gain, factors, LIMITS)[-1]
    assert result.isnan().all()
    gain_grad, *_, last_grad = torch.autograd.grad(result.sum(), (gain, *factors))
    assert gain_grad.isnan().all()
    assert last_grad.isnan().all()


def test_half_precision_rounds_the_scale_only_with_the_product() -> None:
    gain, factors = inputs((2, 3, 4), torch.bfloat16)
    result = scaled(gain, factors, LIMITS)[-1]
    double = [factor.detach().double() for factor in factors]
    expected = reference_scaled(gain.detach().double(), double, LIMITS)[-1]
    assert result.dtype is torch.bfloat16
    torch.testing.assert_close(result.double(), expected, rtol=2**-8, atol=0)
    assert all(g.dtype is torch.bfloat16 for g in torch.autograd.grad(result.sum(), (gain, *factors)))


def test_only_what_is_wanted_is_computed() -> None:
    gain, factors = inputs((2, 3, 4))
    factors[0].requires_grad_(False)
    result = scaled(gain.detach(), factors, LIMITS)[-1]
    expected = reference_scaled(gain.detach(), factors, LIMITS)[-1]
    for gradient, wanted in zip(
        torch.autograd.grad(result.sum(), factors[1:]), torch.autograd.grad(expected.sum(), factors[1:]), strict=True
    ):
        torch.testing.assert_close(gradient, wanted)
