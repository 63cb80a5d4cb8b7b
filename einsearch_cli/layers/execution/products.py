"""The products of a plan over one chunk of tokens, forward and backward: the inner loop of all executors.

Every view is prepared once per number of tokens (`plans.operands`), because the Python code between the products of a
small layer takes as long as the products.

Axes: B batch, R rows (tokens among them), K contracted, N new; see `plan`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from einsearch_cli.layers.execution.executor import MaybeTensor, Saved, Tensors
from einsearch_cli.layers.execution.kernels import add_bias_
from einsearch_cli.layers.execution.reference import repeated, sum_repeats
from einsearch_cli.layers.plans.operands import StepOperands, View, plan_operands
from einsearch_cli.layers.plans.plan import Plan, Step

_as_strided, _add = torch.as_strided, torch.add
_mm, _bmm, _addmm, _baddbmm = torch.mm, torch.bmm, torch.addmm, torch.baddbmm

Results = Sequence[Tensor | None]
"""Results of all steps but the last; None for a result that has no memory, or is computed again."""


def nothing_like(x: Tensor) -> Tensor:
    """A scalar zero as the operand that a product is added to, with factor zero."""
    return _nothing(x.dtype, x.device)


@lru_cache(maxsize=64)
def _nothing(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.zeros((), dtype=dtype, device=device)


class _Step:
    """One step of a plan, ready to run."""

    def __init__(self, step: Step, operands: StepOperands, tokens: int) -> None:
        self.step, self.is_batched = step, step.is_batched
        self.multiply: Callable[..., Tensor] = _bmm if step.is_batched else _mm
        self.add_product: Callable[..., Tensor] = _baddbmm if step.is_batched else _addmm
        self.expanded = (tokens, *step.weight_shape[1:]) if step.is_along_tokens else None
        self.rows_copy, self.rows, self.rows_rows = operands.rows
        self.grad_copy, self.grad, self.grad_rows = operands.grad
        self.is_feature_major, self.grad_feature_major = step.is_feature_major, step.grad_is_feature_major
        self.factor_grad_by_grad = step.weight_grad_is_swapped
        self.result, self.rows_grad = operands.result, operands.rows_grad
        gaps = (None if view.is_contiguous else view for view in (self.result, self.rows_grad))
        self.result_gaps, self.rows_grad_gaps = gaps
        """How to make a product contiguous that leaves gaps or has another order; None if it is contiguous."""

    def read(self, factor: Tensor) -> Tensor:
        """The stored factor as an operand."""
        if not self.is_batched:
            return factor.squeeze(0)  # half the time of factor[0], 0.9 µs
        return factor if self.expanded is None else factor.expand(self.expanded)

    def operands(self, activation: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """The operands of the step's own product."""
        if self.rows_copy is not None:
            activation = _as_strided(activation, *self.rows_copy.source).contiguous()
        rows = _as_strided(activation, *self.rows)
        return (factor.mT, rows) if self.is_feature_major else (rows, factor)

    def result_of(self, activation: Tensor, factor: Tensor, into: MaybeTensor) -> Tensor:
        """The result of a step other than the last, in the given memory, if any."""
        left, right = self.operands(activation, factor)
        if into is None:
            gaps = self.result_gaps
            return self.multiply(left, right) if gaps is None else self.new(left, right, 1.0, gaps)
        self.multiply(left, right, out=_as_strided(into, *self.result))
        return into

    def grad_operands(self, grad: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """The operands of the product for the gradient of the rows."""
        grads = _as_strided(grad, *self.grad)
        return (factor, grads) if self.grad_feature_major else (grads, factor.mT)

    def rows_gradient(self, grad: Tensor, factor: Tensor, scale: float) -> Tensor:
        """The gradient of the rows, in new memory."""
        return self.new(*self.grad_operands(grad, factor), scale, self.rows_grad_gaps)

    def factor_gradient(
        self, activation: Tensor, grad: Tensor, scale: float, total: MaybeTensor, tokens: int
    ) -> Tensor:
        """The gradient of the factor as an operand, added to the total of the earlier chunks."""
        if self.rows_copy is not None:
            activation = _as_strided(activation, *self.rows_copy.source).contiguous()
        left, right = _as_strided(activation, *self.rows_rows), _as_strided(grad, *self.grad_rows)
        if self.factor_grad_by_grad:
            left, right = right, left
        if total is None:
            return self.scaled(left, right, scale)
        # The last chunk may be shorter, and has fewer repetitions along the tokens.
        part = total if self.expanded is None else total[:tokens]
        self.add_product(part, left, right, beta=1, alpha=scale, out=part)
        return total

    def new(self, left: Tensor, right: Tensor, scale: float, gaps: View | None) -> Tensor:
        """A product in new memory."""
        if gaps is None:  # an allocation and `out` would cost a small layer 8 to 14 µs
            return self.scaled(left, right, scale)
        memory = left.new_empty(math.prod(gaps.sizes))
        self.scaled(left, right, scale, _as_strided(memory, *gaps))
        return memory

    def scaled(self, left: Tensor, right: Tensor, scale: float, out: MaybeTensor = None) -> Tensor:
        """The product of two operands and a number."""
        if scale == 1.0:
            return self.multiply(left, right) if out is None else self.multiply(left, right, out=out)
        return self.add_product(nothing_like(left) if out is None else out, left, right, beta=0, alpha=scale, out=out)

    def stored(self, total: MaybeTensor) -> MaybeTensor:
        """The gradient in the layout of the stored factor."""
        if total is None:
            return None
        swapped = total.mT if self.factor_grad_by_grad else total
        if not self.is_batched:
            swapped = swapped.unsqueeze(0)
        elif self.step.is_repeated or self.expanded is not None:
            swapped = sum_repeats(swapped, self.step, total.shape[0])
        return swapped if swapped is total else swapped.contiguous()


class Products:
    """Both passes over a chunk of this many tokens, without autograd."""

    def __init__(self, plan: Plan, tokens: int, is_cpu: bool) -> None:
        operands = plan_operands(plan, is_cpu, tokens)
        self.tokens, self.is_cpu = tokens, is_cpu
        self.steps = [_Step(step, own, tokens) for step, own in zip(plan.steps, operands.steps, strict=True)]
        *self._before, self._last = self.steps
        self._write, self._write_grad = operands.write, operands.write_grad

    def forward(
        self, x: Tensor, y: Tensor, scale: float, bias: MaybeTensor, factors: Tensors, results: Results
    ) -> list[Tensor]:
        """Write the output to `y`, and step results to the memory in `results`, if any; returns these results."""
        if scale != scale:  # MKL's products on Intel processors treat an alpha that is NaN as 1, but it should spread
            x = x * scale
        activation, found = x, []
        for step, factor, into in zip(self._before, factors, results):  # noqa: B905  (there is one factor more)
            activation = step.result_of(activation, step.read(factor), into)
            found.append(activation)
        last, write = self._last, self._write
        left, right = last.operands(activation, last.read(factors[-1]))
        if write is None:
            last.scaled(left, right, scale, _as_strided(y, *last.result))
            if bias is not None:  # takes a third of the time that a product which starts from the bias takes for it
                if self.is_cpu:
                    y.add_(bias)
                else:
                    add_bias_(y, bias)
            return found
        result = last.new(left, right, scale, last.result_gaps)
        lies, wanted = _as_strided(result, *write.source), _as_strided(y, *write.target)
        if bias is None:
            wanted.copy_(lies)
        else:  # takes three quarters of the time of a copy and a pass for the bias
            _add(lies, bias.view(write.target.sizes[1:]), out=wanted)
        return found

    def backward(
        self, grad: Tensor, x: Tensor, x_grad: MaybeTensor, scale: float, factors: Tensors, results: Results,
        wanted: Sequence[bool], sums: list[MaybeTensor],
    ) -> None:  # fmt: skip
        """Add the wanted gradients of factors to `sums`, and write that of x to `x_grad`, if given.

        Results that are None are computed again. Before the first chunk all sums are None. The gradient of the last
        factor is scaled by `scale`, or not at all if that is zero.
        """
        if scale != scale:
            grad = grad * scale
        operands = [step.read(factor) for step, factor in zip(self.steps, factors, strict=True)]
        activations = [x]
        for step, factor, result in zip(self._before, operands, results):  # noqa: B905
            activations.append(step.result_of(activations[-1], factor, None) if result is None else result)
        alpha, of_factor = scale, scale or 1.0
        for number in range(len(operands) - 1, -1, -1):
            step, factor, activation = self.steps[number], operands[number], activations.pop()
            if step.grad_copy is not None:
                grad = _as_strided(grad, *step.grad_copy.source).contiguous()
            if wanted[number]:
                sums[number] = step.factor_gradient(activation, grad, of_factor, sums[number], self.tokens)
            del activation  # its memory serves the next gradient
            if number:
                grad = step.rows_gradient(grad, factor, alpha)
            elif x_grad is not None:
                self._write_x_grad(grad, factor, alpha, x_grad)
            alpha = of_factor = 1.0  # the scale comes in with the last factor

    def _write_x_grad(self, grad: Tensor, factor: Tensor, scale: float, x_grad: Tensor) -> None:
        first, write = self.steps[0], self._write_grad
        if write is None:
            left, right = first.grad_operands(grad, factor)
            first.scaled(left, right, scale, _as_strided(x_grad, *first.rows_grad))
        else:
            lies = _as_strided(first.rows_gradient(grad, factor, scale), *write.source)
            _as_strided(x_grad, *write.target).copy_(lies)

    def factor_gradients(self, sums: Sequence[MaybeTensor]) -> list[MaybeTensor]:
        """The sums over all chunks in the layout of the stored factors."""
        return [step.stored(total) for step, total in zip(self.steps, sums, strict=True)]


def repeated_factors(plan: Plan, factors: Tensors) -> Tensors:
    """Factors repeated along the axes that only the activation has, unless they are repeated already.

    Along the tokens, this is done chunk by chunk.
    """
    if not plan.repeats_factors:
        return factors
    return [
        repeated(factor, step, 1) if step.is_repeated and factor.shape[0] == step.weight_shape[0] else factor
        for step, factor in zip(plan.steps, factors, strict=True)
    ]


def as_rows(tensor: Tensor) -> Tensor:
    """The tensor as contiguous rows (tokens, features)."""
    rows = tensor if tensor.ndim == 2 else tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])
    return rows if rows.is_contiguous() else rows.contiguous()


def memory_for_results(plan: Plan, rows: Tensor, keeps: Sequence[bool]) -> Results:
    """Memory (tokens, width) for the results that will be saved."""
    widths = zip(plan.widths[1:-1], keeps, strict=True)
    return [rows.new_empty(rows.shape[0], width) if kept else None for width, kept in widths]


def memory_for_x_grad(x: Tensor, saved: Saved) -> Tensor:
    """The memory of the first saved result if the sizes agree; each of its chunks is read before it is written."""
    first: MaybeTensor = saved.results[0] if saved.results and saved.may_overwrite else None
    return first.view(x.shape) if first is not None and first.numel() == x.numel() else torch.empty_like(x)
