"""The scale of a layer: its gain and the rms caps of its factors, with gradients. It is computed only here.

Every factor is divided by max(1, rms / init std): Qiu et al. 2024 (arXiv 2406.06248). All caps and the gain make one
number, which multiplies the last factor or is folded into a product:

    limit_k = std_k · √(elements of F_k)                   the norm of a factor at its cap
    caps    = Π_k min(1, limit_k / ‖F_k‖)
    scale   = gain · caps

With s = ∂L/∂scale = ⟨F_last, gradient of the scaled F_last⟩, the gradients through the scale are

    ∂L/∂gain = s · caps ∂L/∂F_k  = −s · scale / ‖F_k‖² · F_k                   where ‖F_k‖ > limit_k, else zero

These lines are implemented three times: in operations that torch differentiates (`reference_scale`), in Python numbers
for a CPU (`scale_of`, `scale_gradients`), and in tensors that stay on the device (`scaled_on_device`,
`gradients_on_device`). Triton kernels do the last in fewer launches (`kernels.by_triton`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from einsearch_cli.layers.execution.kernels import kernels_for
from einsearch_cli.layers.execution.reference import needs_reference_gradients, reference_gradients

_vector_norm, _dot = torch.linalg.vector_norm, torch.dot
_MATRICES = (-3, -2, -1)
"""Number of axes of a stored factor; axes of experts or of runs may come before."""
_SUMMED = (torch.float32, torch.float64)
"""Dtypes that are summed directly; half precision is summed in float32."""
_FEW = 1 << 14
"""The most elements whose product takes less time to write than two views."""


def reference_scale(gain: Tensor, factors: Sequence[Tensor], limits: Sequence[float]) -> Tensor:
    """The scale gain / Π max(1, rms(factor) / std), with the gain's shape, in float32 at least; differentiable.

    With factors (experts, batch, fan_in, fan_out), every expert has its own gain and caps.

    >>> reference_scale(torch.tensor([3.0]), [torch.full((1, 2, 2), 4.0)], [4.0])
    tensor([1.5000])
    >>> reference_scale(torch.tensor([3.0, 1.0]), [torch.tensor([4.0, 1.0]).view(2, 1, 1, 1)], [2.0])
    tensor([1.5000, 1.0000])
    """
    scale = gain.to(_norm_dtype(gain.dtype))
    for factor, limit in zip(factors, limits, strict=True):
        norm = _vector_norm(factor, dim=_MATRICES, dtype=_norm_dtype(factor.dtype))
        scale = scale * (limit / torch.clamp(norm, min=limit))
    return scale


def reference_scaled(gain: Tensor, factors: Sequence[Tensor], limits: Sequence[float]) -> list[Tensor]:
    """The factors of a layer, the last one times the scale, in operations that torch itself differentiates."""
    *others, last = factors
    return [*others, (last * reference_scale(gain, factors, limits)).to(last.dtype)]


class Scale(NamedTuple):
    """The scale of one layer in Python numbers: an operation on a one-element tensor takes up to 20 µs."""

    value: float
    caps: float
    norms: tuple[float, ...]
    """Norms of the factors above their caps; zero for the others."""


UNSCALED = Scale(1.0, 1.0, ())
"""The scale for factors that are scaled already."""


def scale_of(gain: Tensor | None, factors: Sequence[Tensor], limits: Sequence[float]) -> Scale:
    """The scale of a layer on a CPU."""
    if gain is None:
        return UNSCALED
    caps, norms = 1.0, []
    for factor, limit in zip(factors, limits):  # noqa: B905  (0.2 µs)
        # Naming the factor's own dtype takes 1 of 8 µs. The last bit of a dot product depends on where the factor lies.
        norm = (_vector_norm(factor) if factor.dtype in _SUMMED else _vector_norm(factor, dtype=torch.float32)).item()
        if norm <= limit:
            norms.append(0.0)
        else:  # true for a norm that is NaN, which must spread
            norms.append(norm)
            caps *= limit / norm
    return Scale(gain.item() * caps, caps, tuple(norms))


def per_scale(scale: float, x: Tensor, x_grad: Tensor | None, last: Tensor, last_grad: Tensor | None) -> float:
    """The derivative ∂L/∂scale; `last_grad` is that of the last factor times `scale`, unless the scale is zero.

    A layer is linear in x and in its last factor, so ⟨x, ∂L/∂x⟩ and ⟨F, ∂L/∂F⟩ are both scale · ∂L/∂scale. The pair
    with fewer elements is used.
    """
    first, second = last, last_grad
    if last_grad is None or (scale and x_grad is not None and x.numel() < last.numel()):
        first, second = x, x_grad
    assert second is not None
    if first.dtype not in _SUMMED:
        first, second = first.float(), second.float()
    few = first.numel() <= _FEW  # views take 2 to 6 µs
    product = (first * second).sum() if few else _dot(first.flatten(), second.flatten())
    return product.item() / (scale or 1.0)


def scale_gradients(
    scale: Scale, slope: float, gain: Tensor, factors: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> Tensor:
    """The gradient of the gain from `slope` = ∂L/∂scale; parts through the caps are added to the factors' `grads`."""
    for factor, grad, norm in zip(factors, grads, scale.norms):  # noqa: B905  (0.2 µs)
        if norm and grad is not None:
            grad.add_(factor, alpha=-slope * scale.value / norm**2)
    return torch.full_like(gain, slope * scale.caps)


def scaled(gain: Tensor, factors: Sequence[Tensor], limits: tuple[float, ...]) -> list[Tensor]:
    """The factors of a layer, the last one times the scale, with all numbers on the device; differentiable.

    >>> factors = [torch.full((1, 2, 2), 4.0), torch.full((1, 2, 2), 0.5)]
    >>> scaled(torch.ones(1), factors, (4.0, 2.0))[-1]
    tensor([[[0.2500, 0.2500],
             [0.2500, 0.2500]]])
    """
    return [*factors[:-1], _ScaledLast.apply(limits, gain, *factors)[0]]  # type: ignore[no-untyped-call]


DeviceScale = tuple[Tensor, ...]
"""The values that `gradients_on_device` needs of the forward pass: norms, caps and scale, one tensor by a kernel."""


def scaled_on_device(gain: Tensor, factors: Sequence[Tensor], limits: tuple[float, ...]) -> tuple[Tensor, DeviceScale]:
    """The scaled last factor without autograd, by kernels if there are any."""
    kernels = None if is_first_order() else kernels_for(gain, factors)
    if kernels is None:
        return scaled_by_torch(gain, factors, limits)
    scaled, scale_and_norms = kernels.scaled_last(gain, tuple(factors), limits)
    return scaled, (scale_and_norms,)


def gradients_on_device(
    grads: Sequence[Tensor | None],
    gain: Tensor,
    factors: Sequence[Tensor],
    limits: tuple[float, ...],
    saved: DeviceScale,
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of gain and factors, from those of the earlier factors (None means zero) and of the scaled last one."""
    if len(saved) > 1:
        return gradients_by_torch(grads, gain, factors, limits, saved)
    kernels = kernels_for(gain, factors)
    assert kernels is not None  # the kernels of the same forward pass
    found = [torch.zeros_like(f) if g is None else g for f, g in zip(factors, grads, strict=True)]
    return kernels.add_scale_(tuple(found), gain, tuple(factors), limits, *saved), found


def scaled_by_torch(gain: Tensor, factors: Sequence[Tensor], limits: tuple[float, ...]) -> tuple[Tensor, DeviceScale]:
    """The function `scaled_on_device` in torch operations; further axes may come before those of factors and gain."""
    dtype, last = _norm_dtype(gain.dtype), factors[-1]
    norms = torch.stack([_vector_norm(factor, dim=_MATRICES, dtype=dtype) for factor in factors], dim=-1)
    at_cap = _like(limits, norms)
    caps = (at_cap / torch.maximum(norms, at_cap)).prod(dim=-1, keepdim=True)
    scale = gain * caps
    return (last * scale[..., None, None]).to(last.dtype), (norms, caps, scale)


def gradients_by_torch(
    grads: Sequence[Tensor | None],
    gain: Tensor,
    factors: Sequence[Tensor],
    limits: tuple[float, ...],
    saved: DeviceScale,
) -> tuple[Tensor, list[Tensor]]:
    """The function `gradients_on_device` in torch operations."""
    (norms, caps, scale), last_grad = saved, grads[-1]
    assert last_grad is not None
    slope = (last_grad * factors[-1]).sum(_MATRICES, dtype=scale.dtype)[..., None]
    # A comparison with > would not spread a norm that is NaN.
    pulls = (slope * scale / -norms.square()).masked_fill(norms <= _like(limits, norms), 0.0)
    found = []
    for factor, grad, pull in zip(factors, (*grads[:-1], last_grad), pulls.unbind(-1), strict=True):
        if grad is last_grad:
            grad = (grad * scale[..., None, None]).to(grad.dtype)
        pull = pull[..., None, None, None].to(factor.dtype)
        found.append(pull * factor if grad is None else torch.addcmul(grad, pull, factor))
    return (slope * caps).to(gain.dtype).view(gain.shape), found


class _ScaledLast(torch.autograd.Function):
    @staticmethod
    def forward(limits: tuple[float, ...], gain: Tensor, *factors: Tensor) -> tuple[Tensor, ...]:
        scaled, saved = scaled_on_device(gain, factors, limits)
        return scaled, *saved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.limits, *tensors = inputs
        ctx.count = len(tensors)
        ctx.save_for_backward(*tensors, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, saved = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        limits, wanted, grad = ctx.limits, ctx.needs_input_grad[1:], grads[0]
        if needs_reference_gradients(grad) and not is_first_order():
            return None, *reference_gradients(
                lambda gain, *factors: reference_scaled(gain, factors, limits)[-1], inputs, grad, wanted
            )
        gain, *factors = inputs
        if len(saved) == 1:  # a kernel writes into it
            grad = grad.clone(memory_format=torch.contiguous_format)
        given = (*[None] * (len(factors) - 1), grad)
        gain_grad, found = gradients_on_device(given, gain, factors, limits, saved)
        return None, *(g if wants else None for g, wants in zip((gain_grad, *found), wanted, strict=True))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], limits: tuple[float, ...], *tensors: Tensor) -> Any:
        moved = [
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        found = _ScaledLast.apply(limits, *moved)  # type: ignore[no-untyped-call]
        return found, (0,) * len(found)


_is_first_order: ContextVar[bool] = ContextVar("is_first_order", default=False)


@contextmanager
def first_order_gradients() -> Iterator[None]:
    """A context in which function transforms get gradients by fewer operations; these cannot be differentiated again.

    A program of a training step is recorded once and run thousands of times (`training.proxy.program`), and every
    operation on single elements takes 2 to 3 µs. torch's own gradient of the scale of two factors takes 40 µs.
    """
    token = _is_first_order.set(True)
    try:
        yield
    finally:
        _is_first_order.reset(token)


def is_first_order() -> bool:
    """Whether first-order gradients are enough; always false in compiled code, which cannot ask."""
    return not torch.compiler.is_compiling() and _is_first_order.get()


def _norm_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums: float32 for half-precision factors."""
    return dtype if dtype.itemsize >= 4 else torch.float32


def _like(limits: tuple[float, ...], norms: Tensor) -> Tensor:
    """The numbers as a tensor like `norms`; cached on a GPU because transfers are slow, but new in recorded programs."""
    if norms.is_cuda and not is_first_order():
        return _kept_tensor(limits, norms.dtype, norms.device)
    return norms.new_tensor(limits)


@lru_cache(maxsize=1024)
def _kept_tensor(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=dtype, device=device)
