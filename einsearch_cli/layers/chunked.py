"""The same contraction in chunks of tokens, with a backward pass written by hand.

What makes it fast (figures in `docs/log.md`): intermediates of a chunk stay in
the second-level cache and never reach main memory; every batched product writes a
contiguous result, which keeps MKL's batched path; the scale is folded into a
product; the bias is added by the pass that writes the output. Intermediates are
kept for the backward pass only where the layer still needs no more memory than the
dense one it stands for, and are computed anew otherwise.

Axes: B batch, R rows (tokens among them), K contracted, N new; see `plan`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from einsearch_cli.layers.contraction import contract, permuted, read, repeated, sum_repeats
from einsearch_cli.layers.plan import Plan, Reading, Step
from einsearch_cli.layers.rms_scale import caps, norm_dtype, rms_scale

_saving_hooks = torch._C._autograd._top_saved_tensors_default_hooks
_CHUNK_ELEMENTS = 1 << 18
"""Elements of the widest intermediate of a chunk: one megabyte of float32."""
_MIN_CHUNK = 200
"""Tokens below which the calls cost more than the cache saves."""
_LARGE_CHUNK = 1000
"""Tokens below which packing a large matrix anew for every chunk costs more than 2%."""
_WITH_GRADIENT = 2
"""What a dense layer holds for each weight in a backward pass: itself and its gradient."""
_WITH_MOMENTS = 4
"""What it holds while it is trained: Adam's two moments too."""
_DEAR = 128
"""Elements summed over beyond which computing an intermediate anew is always dearer than keeping it."""


def contract_in_chunks(
    plan: Plan,
    x: Tensor,
    bias: Tensor | None,
    weights: Sequence[Tensor],
    gain: Tensor | None = None,
    stds: Sequence[float] = (),
) -> Tensor:
    """The contraction of `x` (tokens, padded_in) with the factors, plus `bias` (padded_out).

    With a gain the product is scaled as by `rms_scale(gain, weights, stds)`. That reads
    numbers, for which a GPU would have to wait: there the scale is better multiplied to
    a factor before.
    """
    result: Tensor = _Contraction.apply(plan, tuple(stds), x, gain, bias, *weights)  # type: ignore[no-untyped-call]
    return result


@lru_cache(maxsize=4096)
def chunks(plan: Plan, tokens: int) -> tuple[tuple[int, int], ...]:
    """Begin and end of every chunk of tokens, all nearly of one length.

    Lengths of an odd number of eights keep the rows of feature-major intermediates from
    falling onto the same cache lines.
    """
    wanted = max(_MIN_CHUNK, _CHUNK_ELEMENTS // max(plan.widths))
    if any(step.is_large for step in plan.steps):
        wanted = max(wanted, _LARGE_CHUNK)
    if plan.is_dense or 2 * tokens <= 3 * wanted:
        return ((0, tokens),)
    length = -(-tokens // -(-tokens // wanted))
    length += -length % 8
    length += 8 * (length // 8 % 2 == 0)
    return tuple((begin, min(begin + length, tokens)) for begin in range(0, tokens, length))


class _Contraction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        stds: tuple[float, ...],
        x: Tensor,
        gain: Tensor | None,
        bias: Tensor | None,
        *weights: Tensor,
    ) -> Tensor:
        ctx.plan, ctx.stds = plan, stds
        ctx.save_for_backward(x, gain, bias, *weights)
        ctx.caps, ctx.norms = (1.0, []) if gain is None else caps(weights, stds)
        ctx.scale = ctx.caps if gain is None else float(gain) * ctx.caps
        # Under hooks, such as those of activation checkpointing, what is saved is not to stay in memory.
        keeps = any(ctx.needs_input_grad) and _saving_hooks(True) is None
        ctx.kept = kept_buffers(plan, x) if keeps else []
        return run_forward(plan, x, ctx.scale, bias, weights, ctx.kept)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, bias, *weights = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():
            inputs = (x, gain, bias, *weights)
            return None, None, *_differentiable_gradients(ctx.plan, ctx.stds, inputs, grads[0], wanted)
        # The first pass may overwrite what was kept; a second one over the same graph computes it anew.
        kept, ctx.kept = ctx.kept, []
        wants_x, wants_gain, *others = wanted
        needs = (wants_x, wants_gain or any(ctx.norms), *others)  # caps pass the scale's gradient on to factors
        run = Backward(ctx.plan, x, ctx.scale, bias, weights, needs, kept)
        x_grad, scale_grad, bias_grad, *weight_grads = run.gradients(grads[0])
        gain_grad = None
        if scale_grad is not None:
            gain_grad = (scale_grad * ctx.caps).reshape(1)
            _add_cap_gradients(weight_grads, weights, ctx.norms, scale_grad * -ctx.scale)
        return None, None, x_grad, gain_grad, bias_grad, *weight_grads


def _add_cap_gradients(
    grads: list[Tensor | None], weights: Sequence[Tensor], norms: Sequence[float], per_square: Tensor
) -> None:
    """Through the norms of the factors above their cap."""
    for grad, weight, norm in zip(grads, weights, norms, strict=True):
        if norm and grad is not None:
            grad.add_(weight * (per_square / norm**2).to(weight.dtype))


def keeps_result(plan: Plan, number: int, tokens: int) -> bool:
    """Whether the result of a step is kept for the backward pass: where it fits into what dense would need, or is dear.

    A single result as wide as the input is kept sooner, as the input's gradient will take its memory.
    """
    between, dense = plan.widths[1:-1], plan.padded_in * plan.padded_out
    if between == (plan.padded_in,):
        fits = tokens * plan.padded_in <= _WITH_MOMENTS * dense
    else:
        fits = tokens * sum(between) <= _WITH_GRADIENT * (dense - plan.params)
    return fits or plan.steps[number].weight_shape[1] > _DEAR


def kept_buffers(plan: Plan, x: Tensor) -> list[Tensor | None]:
    """Memory for the results of all steps but the last, None for those to be computed anew."""
    tokens = x.shape[0]
    return [
        x.new_empty(tokens * width) if keeps_result(plan, number, tokens) else None
        for number, width in enumerate(plan.widths[1:-1])
    ]


def run_forward(
    plan: Plan,
    x: Tensor,
    scale: float,
    bias: Tensor | None,
    weights: Sequence[Tensor],
    kept: Sequence[Tensor | None] = (),
    y: Tensor | None = None,
) -> Tensor:
    """The output (tokens, padded_out), without anything that autograd sees; results of steps go to `kept`.

    It is written to `y` if given.
    """
    tokens = x.shape[0]
    x = _rows_contiguous(x)
    full = [repeated(weight, step, tokens) for step, weight in zip(plan.steps, weights, strict=True)]
    y = x.new_empty(tokens, plan.padded_out) if y is None else y
    for begin, end in chunks(plan, tokens):
        activation = x[begin:end]
        for number, step in enumerate(plan.steps[:-1]):
            into = slice_kept(kept, number, begin, end, tokens)
            activation = _forward_step(step, activation, full[number], end - begin, 1.0, into)
        direct = y[begin:end] if plan.write is None else None
        activation = _forward_step(plan.steps[-1], activation, full[-1], end - begin, scale, direct)
        if plan.write is not None:
            _write(plan.write, activation, y[begin:end])
        if bias is not None:  # a third of the time that a product which starts from the bias takes for it
            y[begin:end].add_(bias)
    return y


def slice_kept(kept: Sequence[Tensor | None], number: int, begin: int, end: int, tokens: int) -> Tensor | None:
    """The part of a kept result that belongs to one chunk."""
    buffer = kept[number] if kept else None
    if buffer is None:
        return None
    width = buffer.shape[0] // max(1, tokens)
    return buffer[begin * width : end * width]


def _forward_step(
    step: Step, activation: Tensor, weight_BKN: Tensor, tokens: int, scale: float, into: Tensor | None = None
) -> Tensor:
    rows_BRK = read(activation, step.rows, tokens)
    weight_BKN = _of_chunk(weight_BKN, step, tokens)
    if step.is_feature_major:
        return _product(weight_BKN.transpose(-2, -1), rows_BRK.transpose(-2, -1), scale, into)
    return _product(rows_BRK, weight_BKN, scale, into)


def _write(how: Reading, memory: Tensor, target: Tensor) -> None:
    source = permuted(memory, how, target.shape[0])
    target.view(source.shape).copy_(source)


def memory_for_x_grad(plan: Plan, x: Tensor, kept: Sequence[Tensor | None]) -> Tensor:
    """That of the first kept result where the sizes agree: chunk by chunk the one is read before the other is written."""
    shape = (x.shape[0], plan.padded_in)
    first = kept[0] if kept else None
    return first.view(shape) if first is not None and first.numel() == math.prod(shape) else x.new_empty(shape)


class Backward:
    """One backward pass: gradients of x, scale, bias and factors, where wanted; that of x goes to `x_grad` if given."""

    def __init__(
        self,
        plan: Plan,
        x: Tensor,
        scale: float,
        bias: Tensor | None,
        weights: Sequence[Tensor],
        wanted: Sequence[bool],
        kept: Sequence[Tensor | None],
        x_grad: Tensor | None = None,
    ) -> None:
        self.kept = kept
        self.plan, self.x, self.scale, self.weights = plan, _rows_contiguous(x), scale, weights
        self.wants_x, self.wants_scale, self.wants_bias, *self.wants_weights = wanted
        self.wants_weights[-1] |= self.wants_scale
        tokens = x.shape[0]
        self.full = [repeated(weight, step, tokens) for step, weight in zip(plan.steps, weights, strict=True)]
        self.x_grad = x_grad
        if self.wants_x and x_grad is None:
            self.x_grad = memory_for_x_grad(plan, self.x, kept)
        self.bias_grad = self.x.new_zeros(1, plan.padded_out) if bias is not None and self.wants_bias else None
        self.sums: list[Tensor | None] = [None] * len(plan.steps)

    def gradients(self, grad: Tensor) -> list[Tensor | None]:
        """Of x, scale, bias and the factors."""
        grad = _rows_contiguous(grad)
        tokens = grad.shape[0]
        for begin, end in chunks(self.plan, tokens):
            self._chunk(self.x[begin:end], grad[begin:end], begin)
        weight_grads = [self._weight_grad(number) for number in range(len(self.weights))]
        scale_grad = self._scale_grad(weight_grads)
        bias_grad = None if self.bias_grad is None else self.bias_grad[0]
        return [self.x_grad, scale_grad, bias_grad, *weight_grads]

    def _chunk(self, x: Tensor, grad: Tensor, begin: int) -> None:
        steps, tokens = self.plan.steps, x.shape[0]
        if self.bias_grad is not None:
            self.bias_grad.addmm_(grad.new_ones(1, tokens), grad)
        activations = [x]
        for number, step in enumerate(steps[:-1]):
            result = slice_kept(self.kept, number, begin, begin + tokens, self.x.shape[0])
            if result is None:
                result = _forward_step(step, activations[-1], self.full[number], tokens, 1.0)
            activations.append(result)
        for number in reversed(range(len(steps))):
            step = steps[number]
            grad_BRN = read(grad, step.grad, tokens)
            if self.wants_weights[number]:
                self._add_weight_grad(number, read(activations[number], step.rows, tokens), grad_BRN)
            if number or self.x_grad is not None:
                is_first, is_last = number == 0, number + 1 == len(steps)
                direct = None
                if is_first and self.x_grad is not None and self.plan.write_grad is None:
                    direct = self.x_grad[begin : begin + tokens]
                grad = _rows_grad(step, grad_BRN, self.full[number], tokens, self.scale if is_last else 1.0, direct)
        if self.x_grad is not None and self.plan.write_grad is not None:
            _write(self.plan.write_grad, grad, self.x_grad[begin : begin + tokens])

    def _add_weight_grad(self, number: int, rows_BRK: Tensor, grad_BRN: Tensor) -> None:
        """Sums over chunks in place; the first chunk starts the sum."""
        step = self.plan.steps[number]
        left, right = (grad_BRN, rows_BRK) if step.weight_grad_is_swapped else (rows_BRK, grad_BRN)
        is_last = number + 1 == len(self.plan.steps)
        # The scale's gradient needs what multiplies it, which is lost where the scale is zero.
        scale = self.scale if is_last and self.scale else 1.0
        total = self.sums[number]
        if total is None:
            self.sums[number] = _product(left.transpose(-2, -1), right, scale)
        elif step.repeat_to.token_axis is None:
            _product(left.transpose(-2, -1), right, scale, total, adds=True)
        else:
            _product(left.transpose(-2, -1), right, scale, total[: left.shape[0]], adds=True)

    def _weight_grad(self, number: int) -> Tensor | None:
        if not self.wants_weights[number]:
            return None
        step, total, weight = self.plan.steps[number], self.sums[number], self.weights[number]
        if total is None:
            return torch.zeros_like(weight)
        grad = total.transpose(-2, -1) if step.weight_grad_is_swapped else total
        return sum_repeats(grad, step, tokens=grad.shape[0]).contiguous()

    def _scale_grad(self, weight_grads: list[Tensor | None]) -> Tensor | None:
        """The product is linear in the last factor: scale · ∂L/∂scale = ⟨W, ∂L/∂W⟩."""
        last = weight_grads[-1]
        if last is None:
            return None
        scale_grad = None
        if self.wants_scale:
            dtype = norm_dtype(last.dtype)
            scale_grad = torch.vdot(last.reshape(-1).to(dtype), self.weights[-1].reshape(-1).to(dtype))
        if self.scale == 0:
            weight_grads[-1] = torch.zeros_like(last)
            return scale_grad
        return None if scale_grad is None else scale_grad / self.scale


def _rows_grad(
    step: Step, grad_BRN: Tensor, weight_BKN: Tensor, tokens: int, scale: float, into: Tensor | None
) -> Tensor:
    weight_BKN = _of_chunk(weight_BKN, step, tokens)
    if step.grad_is_feature_major:
        return _product(weight_BKN, grad_BRN.transpose(-2, -1), scale, into)
    return _product(grad_BRN, weight_BKN.transpose(-2, -1), scale, into)


def _of_chunk(weight_BKN: Tensor, step: Step, tokens: int) -> Tensor:
    """A factor that is repeated along the tokens, for the tokens of one chunk."""
    return weight_BKN if step.repeat_to.token_axis is None else weight_BKN[:tokens]


def _product(left: Tensor, right: Tensor, scale: float, into: Tensor | None = None, adds: bool = False) -> Tensor:
    """scale · left @ right, contiguous, for matrices or batches of them; written to `into`, or added there."""
    is_matrix = left.ndim == 2
    if scale == 1 and not adds:
        product = torch.mm if is_matrix else torch.bmm
        return product(left, right) if into is None else product(left, right, out=_as_result(into, left, right))
    out = left.new_empty((*left.shape[:-1], right.shape[-1])) if into is None else _as_result(into, left, right)
    (torch.addmm if is_matrix else torch.baddbmm)(out, left, right, beta=float(adds), alpha=scale, out=out)
    return out


def _as_result(into: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return into.view(*left.shape[:-1], right.shape[-1])


def _rows_contiguous(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _differentiable_gradients(
    plan: Plan, stds: tuple[float, ...], inputs: tuple[Tensor | None, ...], grad: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again, by the obvious route."""
    x, gain, bias, *weights = inputs
    assert x is not None
    factors = [weight for weight in weights if weight is not None]
    scaled = factors if gain is None else [*factors[:-1], factors[-1] * rms_scale(gain, factors, stds)]
    y = contract(plan, x, scaled)
    y = y if bias is None else y + bias
    asked = [tensor for tensor, wants in zip(inputs, wanted, strict=True) if wants and tensor is not None]
    found = iter(torch.autograd.grad(y, asked, grad, create_graph=True))
    return [next(found) if wants and tensor is not None else None for tensor, wants in zip(inputs, wanted, strict=True)]
