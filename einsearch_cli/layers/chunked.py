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
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from einsearch_cli.layers.contraction import contract, permuted, read, repeated, sum_repeats
from einsearch_cli.layers.plan import Plan, Reading, Step

_CHUNK_ELEMENTS = 1 << 18
"""Elements of the widest intermediate of a chunk: one megabyte of float32."""
_MIN_CHUNK = 200
"""Tokens below which the calls cost more than the cache saves."""
_DENSE_COPIES = 4
"""What a dense layer in training holds for each weight: itself, its gradient and Adam's two moments."""
_DEAR = 128
"""Elements summed over beyond which computing an intermediate anew is always dearer than keeping it."""


def contract_in_chunks(plan: Plan, x: Tensor, scale: Tensor, bias: Tensor | None, weights: Sequence[Tensor]) -> Tensor:
    """`scale` times the contraction of `x` (tokens, padded_in) with the factors, plus `bias` (padded_out).

    The scale multiplies the last factor.
    """
    result: Tensor = _Contraction.apply(plan, x, scale, bias, *weights)  # type: ignore[no-untyped-call]
    return result


def chunks(plan: Plan, tokens: int) -> Iterator[tuple[int, int]]:
    """Begin and end of every chunk of tokens, all nearly of one length.

    Lengths of an odd number of eights keep the rows of feature-major intermediates from
    falling onto the same cache lines.
    """
    wanted = max(_MIN_CHUNK, _CHUNK_ELEMENTS // max(plan.widths))
    if 2 * tokens <= 3 * wanted:
        yield 0, tokens
        return
    length = -(-tokens // -(-tokens // wanted))
    length += -length % 8
    length += 8 * (length // 8 % 2 == 0)
    for begin in range(0, tokens, length):
        yield begin, min(begin + length, tokens)


class _Contraction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, x: Tensor, scale: Tensor, bias: Tensor | None, *weights: Tensor) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(x, scale, bias, *weights)
        ctx.kept = kept_buffers(plan, x) if any(ctx.needs_input_grad) else []
        return run_forward(plan, x, float(scale), bias, weights, ctx.kept)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, bias, *weights = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return None, *_differentiable_gradients(ctx.plan, (x, scale, bias, *weights), grads[0], wanted)
        # The first pass may overwrite what was kept; a second one over the same graph computes it anew.
        kept, ctx.kept = ctx.kept, []
        return None, *Backward(ctx.plan, x, float(scale), bias, weights, wanted, kept).run(grads[0])


def kept_buffers(plan: Plan, x: Tensor) -> list[Tensor | None]:
    """Memory for the results of all steps but the last, None for those to be computed anew."""
    tokens, widths = x.shape[0], plan.widths[1:-1]
    fits = tokens * sum(widths) <= _DENSE_COPIES * plan.padded_in * plan.padded_out
    return [
        x.new_empty(tokens * width) if fits or step.weight_shape[1] > _DEAR else None
        for step, width in zip(plan.steps, widths, strict=False)
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
    y = x.new_empty(tokens, plan.padded_out) if y is None else y
    full = [repeated(weight, step, tokens) for step, weight in zip(plan.steps, weights, strict=True)]
    for begin, end in chunks(plan, tokens):
        activation = x[begin:end]
        for number, (step, weight) in enumerate(zip(plan.steps[:-1], full, strict=False)):
            into = slice_kept(kept, number, begin, end, tokens)
            activation = _forward_step(step, activation, weight, end - begin, 1.0, into)
        direct = y[begin:end] if plan.write is None else None
        activation = _forward_step(plan.steps[-1], activation, full[-1], end - begin, scale, direct)
        _write_output(plan, activation, bias, y[begin:end])
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
        return _product(weight_BKN.transpose(1, 2), rows_BRK.transpose(1, 2), scale, into)
    return _product(rows_BRK, weight_BKN, scale, into)


def _write_output(plan: Plan, result: Tensor, bias: Tensor | None, y: Tensor) -> None:
    if plan.write is None:
        if bias is not None:
            y.add_(bias)
        return
    _write(plan.write, result, y, bias)


def _write(how: Reading, memory: Tensor, target: Tensor, bias: Tensor | None = None) -> None:
    source = permuted(memory, how, target.shape[0])
    if bias is None:
        target.view(source.shape).copy_(source)
    else:
        torch.add(source, bias.view(source.shape[1:]), out=target.view(source.shape))


class Backward:
    """One backward pass: gradients of x, scale, bias and factors, where wanted."""

    def __init__(
        self,
        plan: Plan,
        x: Tensor,
        scale: float,
        bias: Tensor | None,
        weights: Sequence[Tensor],
        wanted: Sequence[bool],
        kept: Sequence[Tensor | None],
    ) -> None:
        self.kept = kept
        self.plan, self.x, self.scale, self.weights = plan, _rows_contiguous(x), scale, weights
        self.wants_x, self.wants_scale, self.wants_bias, *self.wants_weights = wanted
        self.wants_weights[-1] |= self.wants_scale
        tokens = x.shape[0]
        self.full = [repeated(weight, step, tokens) for step, weight in zip(plan.steps, weights, strict=True)]
        self.x_grad = self._memory_for_x_grad() if self.wants_x else None
        self.bias_grad = self.x.new_zeros(1, plan.padded_out) if bias is not None and self.wants_bias else None
        self.sums: list[Tensor | None] = [None] * len(plan.steps)

    def _memory_for_x_grad(self) -> Tensor:
        """That of the first kept result where the sizes agree: chunk by chunk the one is read before the other is written."""
        shape = (self.x.shape[0], self.plan.padded_in)
        first = self.kept[0] if self.kept else None
        return first.view(shape) if first is not None and first.numel() == math.prod(shape) else self.x.new_empty(shape)

    def run(self, grad: Tensor) -> list[Tensor | None]:
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
            self.sums[number] = _product(left.transpose(1, 2), right, scale)
        elif step.repeat_to.token_axis is None:
            _product(left.transpose(1, 2), right, scale, total, adds=True)
        else:
            _product(left.transpose(1, 2), right, scale, total[: left.shape[0]], adds=True)

    def _weight_grad(self, number: int) -> Tensor | None:
        if not self.wants_weights[number]:
            return None
        step, total, weight = self.plan.steps[number], self.sums[number], self.weights[number]
        if total is None:
            return torch.zeros_like(weight)
        grad = total.transpose(1, 2) if step.weight_grad_is_swapped else total
        return sum_repeats(grad, step, tokens=grad.shape[0]).contiguous()

    def _scale_grad(self, weight_grads: list[Tensor | None]) -> Tensor | None:
        """The product is linear in the last factor: scale · ∂L/∂scale = ⟨W, ∂L/∂W⟩."""
        last = weight_grads[-1]
        if last is None:
            return None
        scale_grad = torch.vdot(last.reshape(-1), self.weights[-1].reshape(-1)) if self.wants_scale else None
        if self.scale == 0:
            weight_grads[-1] = torch.zeros_like(last)
            return scale_grad
        return None if scale_grad is None else scale_grad / self.scale


def _rows_grad(
    step: Step, grad_BRN: Tensor, weight_BKN: Tensor, tokens: int, scale: float, into: Tensor | None
) -> Tensor:
    weight_BKN = _of_chunk(weight_BKN, step, tokens)
    if step.grad_is_feature_major:
        return _product(weight_BKN, grad_BRN.transpose(1, 2), scale, into)
    return _product(grad_BRN, weight_BKN.transpose(1, 2), scale, into)


def _of_chunk(weight_BKN: Tensor, step: Step, tokens: int) -> Tensor:
    """A factor that is repeated along the tokens, for the tokens of one chunk."""
    return weight_BKN if step.repeat_to.token_axis is None else weight_BKN[:tokens]


def _product(left: Tensor, right: Tensor, scale: float, into: Tensor | None = None, adds: bool = False) -> Tensor:
    """scale · left @ right, contiguous, added to `into` or written there; one matrix takes the unbatched path."""
    shape = (left.shape[0], left.shape[1], right.shape[2])
    out = left.new_empty(shape) if into is None else into.view(shape)
    if shape[0] == 1:
        torch.addmm(out[0], left[0], right[0], beta=float(adds), alpha=scale, out=out[0])
    else:
        torch.baddbmm(out, left, right, beta=float(adds), alpha=scale, out=out)
    return out


def _rows_contiguous(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _differentiable_gradients(
    plan: Plan, inputs: tuple[Tensor | None, ...], grad: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again, by the obvious route."""
    x, scale, bias, *weights = inputs
    assert x is not None
    assert scale is not None
    factors = [weight for weight in weights if weight is not None]
    y = contract(plan, x, [*factors[:-1], factors[-1] * scale])
    y = y if bias is None else y + bias
    asked = [tensor for tensor, wants in zip(inputs, wanted, strict=True) if wants and tensor is not None]
    found = iter(torch.autograd.grad(y, asked, grad, create_graph=True))
    return [next(found) if wants and tensor is not None else None for tensor, wants in zip(inputs, wanted, strict=True)]
