"""One forward and one backward pass over a plan, chunk by chunk, written by hand.

Axes: B batch, R rows (tokens among them), K contracted, N new; see `plan`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from einsearch_cli.layers.chunking import chunks
from einsearch_cli.layers.contraction import repeated, sum_repeats
from einsearch_cli.layers.plan import Plan
from einsearch_cli.layers.program import Program, StepProgram, program_for
from einsearch_cli.layers.rms_scale import norm_dtype

_as_strided, _mm, _bmm, _addmm, _baddbmm = torch.as_strided, torch.mm, torch.bmm, torch.addmm, torch.baddbmm

Kept = Sequence[Tensor | None]
"""Results of all steps but the last, for all tokens; None for those to be computed anew; empty if nothing is kept."""


def run_forward(
    plan: Plan,
    x: Tensor,
    scale: float,
    bias: Tensor | None,
    weights: Sequence[Tensor],
    kept: Kept = (),
    y: Tensor | None = None,
    results: list[Tensor | None] | None = None,
) -> Tensor:
    """The output (tokens, padded_out), without anything that autograd sees.

    It is written to `y` if given, and the results of steps to the memory in `kept`; or, for a call of a single
    chunk, their own memory is left in the list `results`.
    """
    x = rows_contiguous(x)
    y = x.new_empty(x.shape[0], plan.padded_out) if y is None else y
    full: list[Tensor] = []
    for begin, end in chunks(plan, x.shape[0]):
        program = program_for(plan, end - begin)
        if not full or program.is_along_tokens:
            full = _full(program, weights)
        memory, at = x, int(x.storage_offset()) + begin * plan.padded_in
        for number, step in enumerate(program.steps[:-1]):
            into = kept[number] if kept else None
            into_at = 0 if into is None else int(into.storage_offset()) + begin * plan.widths[number + 1]
            memory, at = _result(step, memory, at, full[number], 1.0, into, into_at), into_at
            if results is not None:
                results.append(memory)
        _write_output(program, memory, at, full[-1], scale, bias, y, begin)
    return y


def _write_output(
    program: Program,
    memory: Tensor,
    at: int,
    weight: Tensor,
    scale: float,
    bias: Tensor | None,
    y: Tensor,
    begin: int,
) -> None:
    """The last step, the bias with it."""
    step, y_at = program.steps[-1], int(y.storage_offset()) + begin * y.shape[1]
    if program.write is None:
        _result(step, memory, at, weight, scale, y, y_at)
        if bias is not None:  # a third of the time that a product which starts from the bias takes for it
            (y if program.tokens == y.shape[0] else y[begin : begin + program.tokens]).add_(bias)
        return
    lies, wanted = program.write
    source = _as_strided(_result(step, memory, at, weight, scale, None, 0), *lies, 0)
    target = _as_strided(y, *wanted, y_at)
    if bias is None:
        target.copy_(source)
    else:  # three quarters of the time of a copy and a pass for the bias
        torch.add(source, bias.reshape(wanted.sizes[1:]), out=target)


def _result(
    step: StepProgram, memory: Tensor, at: int, weight: Tensor, scale: float, into: Tensor | None, into_at: int
) -> Tensor:
    """The activation after a step; `at` and `into_at` are where the chunk begins in the storage of its tensor."""
    if step.rows.copy is not None:
        memory, at = _as_strided(memory, *step.rows.copy, at).contiguous(), 0
    rows = _as_strided(memory, *step.rows.by_factor, at)
    out = None if into is None else _as_strided(into, *step.result, into_at)
    if step.is_feature_major:
        return _product(weight.mT, rows, scale, out)
    return _product(rows, weight, scale, out)


def _full(program: Program, weights: Sequence[Tensor]) -> list[Tensor]:
    return [repeated(weight, item.step, program.tokens) for item, weight in zip(program.steps, weights, strict=True)]


def rows_contiguous(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _product(left: Tensor, right: Tensor, scale: float, into: Tensor | None = None, adds: bool = False) -> Tensor:
    """scale · left @ right, contiguous, for matrices or batches of them; written to `into`, or added there."""
    is_matrix = left.ndim == 2
    if scale == 1 and not adds:
        multiply: Any = _mm if is_matrix else _bmm
        result: Tensor = multiply(left, right) if into is None else multiply(left, right, out=into)
        return result
    into = left.new_empty((*left.shape[:-1], right.shape[-1])) if into is None else into
    add: Any = _addmm if is_matrix else _baddbmm
    add(into, left, right, beta=float(adds), alpha=scale, out=into)
    return into


def memory_for_x_grad(plan: Plan, x: Tensor, kept: Kept) -> Tensor:
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
        weights: Sequence[Tensor],
        wanted: Sequence[bool],
        kept: Kept,
        x_grad: Tensor | None = None,
    ) -> None:
        self.kept = kept
        self.plan, self.x, self.scale, self.weights = plan, rows_contiguous(x), scale, weights
        self.wants_x, self.wants_scale, self.wants_bias, *self.wants_weights = wanted
        self.wants_weights[-1] |= self.wants_scale
        self.x_grad = x_grad
        if self.wants_x and x_grad is None:
            self.x_grad = memory_for_x_grad(plan, self.x, kept)
        self.bias_grad: Tensor | None = None
        self.sums: list[Tensor | None] = [None] * len(plan.steps)

    def gradients(self, grad: Tensor) -> list[Tensor | None]:
        """Of x, scale, bias and the factors."""
        grad = rows_contiguous(grad)
        plan = self.plan
        full: list[Tensor] = []
        for begin, end in chunks(plan, grad.shape[0]):
            program = program_for(plan, end - begin)
            if not full or program.is_along_tokens:
                full = _full(program, self.weights)
            if self.wants_bias:
                self._add_bias_grad(grad, begin, end)
            self._chunk(program, full, grad, begin)
        weight_grads = [self._weight_grad(number) for number in range(len(self.weights))]
        scale_grad = self._scale_grad(weight_grads)
        return [self.x_grad, scale_grad, self.bias_grad, *weight_grads]

    def _add_bias_grad(self, grad: Tensor, begin: int, end: int) -> None:
        """While the chunk is on its way into the cache."""
        if end - begin == grad.shape[0]:
            self.bias_grad = grad.sum(0)
            return
        if self.bias_grad is None:
            self.bias_grad = grad.new_zeros(self.plan.padded_out)
        self.bias_grad.view(1, -1).addmm_(grad.new_ones(1, end - begin), grad[begin:end])

    def _chunk(self, program: Program, full: Sequence[Tensor], grad: Tensor, begin: int) -> None:
        plan, steps, last = self.plan, program.steps, len(full) - 1
        activations = [(self.x, int(self.x.storage_offset()) + begin * plan.padded_in)]
        for number in range(last):
            kept = self.kept[number] if self.kept else None
            if kept is None:
                memory, at = activations[-1]
                activations.append((_result(steps[number], memory, at, full[number], 1.0, None, 0), 0))
            else:
                activations.append((kept, int(kept.storage_offset()) + begin * plan.widths[number + 1]))
        at, scale = int(grad.storage_offset()) + begin * plan.padded_out, self.scale
        for number in reversed(range(last + 1)):
            step = steps[number]
            if step.grad.copy is not None:
                grad, at = _as_strided(grad, *step.grad.copy, at).contiguous(), 0
            if self.wants_weights[number]:
                self._add_weight_grad(number, step, *activations[number], grad, at)
            if number:
                grad, at, scale = _rows_grad(step, grad, at, full[number], scale, None, 0), 0, 1.0
        if self.x_grad is not None:
            self._write_x_grad(program, grad, at, full[0], scale, begin)

    def _write_x_grad(self, program: Program, grad: Tensor, at: int, weight: Tensor, scale: float, begin: int) -> None:
        assert self.x_grad is not None
        x_at = int(self.x_grad.storage_offset()) + begin * self.plan.padded_in
        if program.write_grad is None:
            _rows_grad(program.steps[0], grad, at, weight, scale, self.x_grad, x_at)
            return
        lies, wanted = program.write_grad
        result = _rows_grad(program.steps[0], grad, at, weight, scale, None, 0)
        _as_strided(self.x_grad, *wanted, x_at).copy_(_as_strided(result, *lies, 0))

    def _add_weight_grad(
        self, number: int, step: StepProgram, memory: Tensor, begin: int, grad: Tensor, at: int
    ) -> None:
        """Sums over chunks in place; the first chunk starts the sum."""
        if step.rows.copy is not None:
            memory, begin = _as_strided(memory, *step.rows.copy, begin).contiguous(), 0
        rows, grads = _as_strided(memory, *step.rows.by_rows, begin), _as_strided(grad, *step.grad.by_rows, at)
        left, right = (grads, rows) if step.step.weight_grad_is_swapped else (rows, grads)
        # The scale's gradient needs what multiplies it, which is lost where the scale is zero.
        scale = self.scale if number + 1 == len(self.weights) and self.scale else 1.0
        total = self.sums[number]
        if total is None:
            self.sums[number] = _product(left, right, scale)
        else:  # the last chunk may be shorter, and with it the repetitions along the tokens
            _product(left, right, scale, total[: left.shape[0]] if step.is_along_tokens else total, adds=True)

    def _weight_grad(self, number: int) -> Tensor | None:
        if not self.wants_weights[number]:
            return None
        step, total, weight = self.plan.steps[number], self.sums[number], self.weights[number]
        if total is None:
            return torch.zeros_like(weight)
        grad = total.mT if step.weight_grad_is_swapped else total
        return sum_repeats(grad, step, tokens=grad.shape[0]).contiguous()

    def _scale_grad(self, weight_grads: list[Tensor | None]) -> Tensor | None:
        """The product is linear in the last factor and in x: scale · ∂L/∂scale = ⟨W, ∂L/∂W⟩ = ⟨x, ∂L/∂x⟩."""
        last = weight_grads[-1]
        if last is None:
            return None
        scale_grad = self._product_with_grad(last) if self.wants_scale else None
        if self.scale == 0:
            weight_grads[-1] = torch.zeros_like(last)
            return scale_grad
        return None if scale_grad is None else scale_grad.div_(self.scale)

    def _product_with_grad(self, last: Tensor) -> Tensor:
        """⟨W, ∂L/∂W⟩, or ⟨x, ∂L/∂x⟩ where that is smaller; without the scale where this is zero."""
        pair = last, self.weights[-1]
        if self.scale and self.x_grad is not None and self.x.numel() < last.numel():
            pair = self.x_grad, self.x
        first, second = (tensor.reshape(-1) for tensor in pair)
        dtype = norm_dtype(first.dtype)
        return torch.dot(first, second) if dtype is first.dtype else torch.dot(first.to(dtype), second.to(dtype))


def _rows_grad(
    step: StepProgram, grad: Tensor, at: int, weight: Tensor, scale: float, into: Tensor | None, into_at: int
) -> Tensor:
    grads = _as_strided(grad, *step.grad.by_factor, at)
    out = None if into is None else _as_strided(into, *step.rows_grad, into_at)
    if step.step.grad_is_feature_major:
        return _product(weight, grads, scale, out)
    return _product(grads, weight.mT, scale, out)
