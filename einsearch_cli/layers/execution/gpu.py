"""The executor for GPUs: all tokens in one chunk, and a scale that never becomes a Python number.

A Python number would make the host wait for the GPU, where a call takes long. All results are saved, except those that
a fused kernel keeps on the chip (Tensor-Trains of two cores in half precision).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from einsearch_cli.layers.execution.cpu import CpuExecutor
from einsearch_cli.layers.execution.executor import Inputs, Keeps, MaybeTensor, Output, Saved, Tensors
from einsearch_cli.layers.execution.kernels import two_core_kernels
from einsearch_cli.layers.execution.products import Results
from einsearch_cli.layers.execution.scaling import gradients_on_device, scaled_on_device
from einsearch_cli.layers.plans.plan import Call, Plan
from einsearch_cli.layers.plans.two_cores import is_fused, two_cores


class GpuExecutor(CpuExecutor):
    """Lets factors meet the activation one after another, with the last one scaled beforehand."""

    name = "gpu"
    is_cpu = False

    def __init__(self, plan: Plan, tokens: int) -> None:
        super().__init__(plan, tokens, lengths=None)
        self._cores = two_cores(plan)

    def forward(self, x: Tensor, gain: MaybeTensor, bias: MaybeTensor, factors: Tensors, keeps: Keeps = None) -> Output:
        if gain is None:
            return super().forward(x, None, bias, factors, keeps)
        scale = scaled, _ = scaled_on_device(gain, factors, self.limits)
        y, saved = super().forward(x, None, bias, (*factors[:-1], scaled), keeps)
        return y, None if saved is None else Saved(scale, saved.results)

    def backward(self, inputs: Inputs, saved: Saved | None, grad: Tensor, wanted: Sequence[bool]) -> list[MaybeTensor]:
        x, gain, bias, *factors = inputs
        if gain is None:
            return super().backward(inputs, saved, grad, wanted)
        scaled, norms = saved.scale if saved and saved.scale else scaled_on_device(gain, factors, self.limits)
        saved = None if saved is None else saved._replace(scale=None)
        wants_x, wants_gain, wants_bias, *wants_factors = wanted
        # The scale's gradient needs that of the last factor; the gradients of all factors above their caps need the
        # scale's.
        wants_scale = wants_gain or True in wants_factors
        without_gain = wants_x, False, wants_bias, *wants_factors[:-1], wants_scale
        x_grad, gain_grad, bias_grad, *grads = super().backward(
            (x, None, bias, *factors[:-1], scaled), saved, grad, without_gain
        )
        if wants_scale:
            gain_grad, found = gradients_on_device(grads, gain, factors, self.limits, norms)
            grads = [part if wants else None for part, wants in zip(found, wants_factors, strict=True)]
        return [x_grad, gain_grad if wants_gain else None, bias_grad, *grads]

    def is_fused(self, call: Call) -> bool:
        return call.device == "cuda" and is_fused(self.plan, call)

    def multiply(
        self, x: Tensor, y: Tensor, scale: float, bias: MaybeTensor, factors: Tensors, results: Results
    ) -> Results:
        kernels = self._fused(x, factors, bias)
        if kernels is not None:
            kernels.multiply(self._cores, x, y, scale, bias, factors)
        elif self.plan.is_dense and bias is not None:  # a product of one matrix adds the bias itself
            torch.addmm(bias, x, factors[0][0], out=y)
        else:
            return super().multiply(x, y, scale, bias, factors, results)
        return results

    def gradients(
        self, grad: Tensor, x: Tensor, x_grad: MaybeTensor, scale: float, factors: Tensors, results: Results,
        wanted: Sequence[bool],
    ) -> tuple[float | None, MaybeTensor, list[MaybeTensor]]:  # fmt: skip
        _, wants_bias, *wants_factors = wanted
        kernels = self._fused(x, factors, None)
        if kernels is None or self._cores is None:
            return super().gradients(grad, x, x_grad, scale, factors, results, wanted)
        if x_grad is not None:
            kernels.multiply(self._cores.transposed, grad, x_grad, scale, None, factors)
        if not any(wants_factors):
            return None, grad.sum(0) if wants_bias else None, [None, None]
        return None, *kernels.gradients(self._cores, grad, x, factors, wants_bias)

    def _fused(self, x: Tensor, factors: Tensors, bias: MaybeTensor) -> ModuleType | None:
        """Fused kernels for output, factors and the input's gradient, if there are any for these tensors."""
        return None if self._cores is None else two_core_kernels(self._cores, x, factors, bias)
