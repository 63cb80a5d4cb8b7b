"""The executor of a GPU: all tokens in one chunk, and a scale that never becomes a number of Python.

A call takes long there, and for a number the GPU would have to be waited for. All results are saved, except those that a
fused kernel keeps on the chip (Tensor-Trains of two cores in half precision).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from einsearch_cli.layers.execution.executor import Executor, Inputs, Keeps, MaybeTensor, Output, Saved, Tensors
from einsearch_cli.layers.execution.kernels import two_core_kernels
from einsearch_cli.layers.execution.products import Products, Results, as_rows, memory_for_x_grad, repeated_factors
from einsearch_cli.layers.execution.scaling import gradients_on_device, scaled_on_device
from einsearch_cli.layers.plans.plan import Plan
from einsearch_cli.layers.plans.two_cores import two_cores


class GpuExecutor(Executor):
    """Factors meet the activation one after another, the last one scaled before."""

    def __init__(self, plan: Plan, tokens: int) -> None:
        super().__init__(plan)
        self._products, self._cores = Products(plan, tokens, is_cpu=False), two_cores(plan)
        self.keeps = (True,) * (len(plan.steps) - 1)
        self._nothing: Results = (None,) * len(self.keeps)

    def forward(self, x: Tensor, gain: MaybeTensor, bias: MaybeTensor, factors: Tensors, keeps: Keeps = None) -> Output:
        scale, rows, results = None, as_rows(x), self._nothing
        if gain is not None:
            scale = scaled, _ = scaled_on_device(gain, factors, self.limits)
            factors = (*factors[:-1], scaled)
        y = x.new_empty(rows.shape[0], self.plan.padded_out)
        kernels = self._fused(rows, factors, bias)
        if kernels is not None:
            kernels.multiply(self._cores, rows, y, 1.0, bias, factors)
        elif self.plan.is_dense and bias is not None:  # a product of one matrix adds the bias on its way
            torch.addmm(bias, rows, factors[0][0], out=y)
        else:
            results = self._products.forward(rows, y, 1.0, bias, self.prepared(factors), results)
        y = y if x.ndim == 2 else y.view(*x.shape[:-1], y.shape[1])
        return y, None if keeps is None else Saved(scale, results)

    def backward(self, inputs: Inputs, saved: Saved | None, grad: Tensor, wanted: Sequence[bool]) -> list[MaybeTensor]:
        x, gain, _, *factors = inputs
        saved = saved or Saved(None, self._nothing)
        scale, results = saved.scale, saved.results
        wants_x, wants_gain, wants_bias, *wants_factors = wanted
        wants_scale = gain is not None and (wants_gain or True in wants_factors)
        unscaled = factors
        if gain is not None:
            scaled, norms = scale or scaled_on_device(gain, factors, self.limits)
            factors = [*factors[:-1], scaled]
        rows, grad_rows = as_rows(x), as_rows(grad)
        x_grad = memory_for_x_grad(rows, saved) if wants_x else None
        # The scale's gradient needs that of the last factor, and those of all factors above their caps need the scale's.
        also_last = (*wants_factors[:-1], wants_factors[-1] or wants_scale)
        bias_grad, grads = self._gradients(grad_rows, rows, x_grad, factors, results, (wants_bias, *also_last))
        gain_grad = None
        if wants_scale:
            gain_grad, found = gradients_on_device(grads, gain, unscaled, self.limits, norms)
            grads = [g if wants else None for g, wants in zip(found, wants_factors, strict=True)]
        if x_grad is not None and x.ndim != 2:
            x_grad = x_grad.view(x.shape)
        return [x_grad, gain_grad if wants_gain else None, bias_grad, *grads]

    def _gradients(
        self, grad: Tensor, x: Tensor, x_grad: MaybeTensor, factors: Tensors, results: Results, wanted: Sequence[bool]
    ) -> tuple[MaybeTensor, list[MaybeTensor]]:
        """Gradients of bias and scaled factors, where wanted; that of x is written to `x_grad` if given."""
        wants_bias, *wants_factors = wanted
        kernels = self._fused(x, factors, None)
        if kernels is None or self._cores is None:
            sums: list[MaybeTensor] = [None] * len(factors)
            self._products.backward(grad, x, x_grad, 1.0, self.prepared(factors), results, wants_factors, sums)
            return grad.sum(0) if wants_bias else None, self._products.factor_gradients(sums)
        if x_grad is not None:
            kernels.multiply(self._cores.transposed, grad, x_grad, 1.0, None, factors)
        if not any(wants_factors):
            return grad.sum(0) if wants_bias else None, [None, None]
        return kernels.gradients(self._cores, grad, x, factors, wants_bias)  # type: ignore[no-any-return]

    def _fused(self, x: Tensor, factors: Tensors, bias: MaybeTensor) -> ModuleType | None:
        """One kernel each for output, factors and the input's gradient, where there are any for these tensors."""
        return None if self._cores is None else two_core_kernels(self._cores, x, factors, bias)

    def prepared(self, factors: Tensors) -> Tensors:
        """Factors repeated along the axes that only the activation has."""
        return repeated_factors(self.plan, factors)
