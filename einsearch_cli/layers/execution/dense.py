"""The executor of a layer as one matrix, which is formed from the factors at each call on a CPU.

This brings a narrow layer close to `nn.Linear`: the gradient of the matrix is one product, from which the gradients of
the factors follow. The scale is folded into the products. Every operation counts, even a view: each takes 1 to 6 µs of
a training step that takes 95 µs in `nn.Linear` (width 32, 512 tokens).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from einsearch_cli.layers.autocast import without_autocast
from einsearch_cli.layers.execution.executor import Executor, Inputs, Keeps, MaybeTensor, Output, Saved, Tensors
from einsearch_cli.layers.execution.forming import Forming
from einsearch_cli.layers.execution.products import nothing_like
from einsearch_cli.layers.execution.scaling import per_scale, scale_gradients, scale_of
from einsearch_cli.layers.plans.plan import Plan

_addmm = torch.addmm


class DenseExecutor(Executor):
    """Forms one matrix from the factors of the layer's own plan; `plan` is the plan of this matrix."""

    name = "dense"
    takes_stored = True

    def __init__(self, stored: Plan, dense: Plan) -> None:
        super().__init__(dense, stored)
        self._forming = Forming(stored, dense)
        self.keeps = ()  # its one step is the last; the matrix itself is always saved

    def forward(self, x: Tensor, gain: MaybeTensor, bias: MaybeTensor, factors: Tensors, keeps: Keeps = None) -> Output:
        """Compute the output; under autocast, factors may have a wider dtype than the rest, and form the matrix in it."""
        scale = scale_of(gain, factors, self.limits)
        matrix, values = self._formed(factors, x.dtype)
        saved = None if keeps is None else Saved(scale, (matrix, values))
        del values
        if scale.value != scale.value:  # MKL's products on Intel processors treat a NaN here as 1
            x = x * scale.value
        if bias is not None and x.ndim == 2:
            return _addmm(bias, x, matrix, alpha=scale.value), saved
        # Not a view of rows, which would cost torch bookkeeping.
        y = x.new_empty(*x.shape[:-1], matrix.shape[1])
        rows = y.view(-1, matrix.shape[1])
        _addmm(rows if bias is None else bias, _rows(x), matrix, beta=bias is not None, alpha=scale.value, out=rows)
        return y, saved

    def backward(self, inputs: Inputs, saved: Saved | None, grad: Tensor, wanted: Sequence[bool]) -> list[MaybeTensor]:
        x, gain, _, *factors = inputs
        saved = saved or Saved(scale_of(gain, factors, self.limits), self._formed(factors, x.dtype))
        scale, (matrix, values) = saved.scale, saved.results
        wants_x, wants_gain, wants_bias, *wants_factors = wanted
        rows, value = x, scale.value
        if x.ndim != 2:
            rows, grad = _rows(x), _rows(grad)
        if value != value:  # MKL's products on Intel processors treat a NaN here as 1
            grad = grad * value
        nothing, is_small = nothing_like(x), x.numel() < matrix.numel()
        x_grad = _addmm(nothing, grad, matrix.t(), beta=0, alpha=value) if wants_x and is_small else None
        gain_grad = None
        found: list[Any] = [None] * len(factors)
        if wants_gain or True in wants_factors:
            # This is for the matrix that multiplies rows: the scale's gradient is lost if the scale is zero.
            matrix_grad = _addmm(nothing, rows.t(), grad, beta=0, alpha=value or 1.0)
            slope = per_scale(value, rows, x_grad, matrix, matrix_grad)
            found = self._taken_apart(matrix_grad if value else matrix_grad.zero_(), values, factors[0].dtype)
            gain_grad = scale_gradients(scale, slope, gain, factors, found)
            if False in wants_factors:
                found = [part if wants else None for part, wants in zip(found, wants_factors, strict=True)]
            del matrix_grad
        if wants_x and not is_small:  # at this point, the matrices above are freed
            x_grad = _addmm(nothing, grad, matrix.t(), beta=0, alpha=value)
        bias_grad = grad.sum(0) if wants_bias else None
        if x_grad is not None and x.ndim != 2:
            x_grad = x_grad.view(x.shape)
        return [x_grad, gain_grad if wants_gain else None, bias_grad, *found]

    def _formed(self, factors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, list[Any]]:
        """The matrix in this dtype and the values for its gradient; it is formed in the dtype of the factors."""
        if factors[0].dtype is dtype:
            return self._forming.forward(factors)
        with without_autocast(factors[0].device.type):
            matrix, values = self._forming.forward(factors)
            return matrix.to(dtype), values

    def _taken_apart(self, matrix_grad: Tensor, values: list[Any], dtype: torch.dtype) -> list[Tensor]:
        """The gradients of the factors from that of the matrix."""
        if matrix_grad.dtype is dtype:
            return self._forming.backward(matrix_grad, values)
        with without_autocast(matrix_grad.device.type):
            return self._forming.backward(matrix_grad.to(dtype), values)


def _rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim == 2 else tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])
