"""The forward and the backward pass of a plan over a number of tokens, chunk by chunk.

Axes: B batch, R rows (tokens among them), K contracted, N new; see `plan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from einsearch_cli.layers.contractions.contraction import repeated
from einsearch_cli.layers.contractions.generated import generated
from einsearch_cli.layers.contractions.kernels import two_core_kernels
from einsearch_cli.layers.contractions.rms_scale import scale_product
from einsearch_cli.layers.plans.chunking import chunks, kept_steps
from einsearch_cli.layers.plans.plan import Plan
from einsearch_cli.layers.plans.two_cores import TwoCores, is_fused, two_cores
from einsearch_cli.layers.torch_private import saving_hooks

Kept = Sequence[Tensor | None]
"""Results of all steps but the last, for all tokens; None for those to be computed anew."""


class Passes:
    """Both passes over contiguous rows, without anything that autograd sees."""

    __slots__ = ("_code", "_sizes", "forward", "is_whole", "plan", "tokens", "unkept")

    def __init__(self, plan: Plan, tokens: int, is_cpu: bool = True) -> None:
        self.plan, self.tokens = plan, tokens
        self._code, self._sizes = generated(plan, is_cpu), chunks(plan, tokens, is_cpu)
        self.is_whole = len(self._sizes) == 1
        """Whether there is a single chunk."""
        self.unkept: Kept = (None,) * (len(plan.steps) - 1)
        """What `forward` and `backward` take where nothing is kept."""
        is_plain = self.is_whole and not self._code.repeats_factors
        self.forward = self._code.forward if is_plain else self._forward
        """(x, y, scale, bias, weights, kept): writes the output (tokens, padded_out) to `y`.

        The results of all steps but the last are written to the memory in `kept`, where there is any.
        Gives these results, for a call of a single chunk also those in memory of their own.
        """

    def _forward(
        self, x: Tensor, y: Tensor, scale: float, bias: Tensor | None, weights: Sequence[Tensor], kept: Kept
    ) -> Kept:
        weights, sizes = self.repeated(weights), self._sizes
        if self.is_whole:
            return self._code.forward(x, y, scale, bias, weights, kept)
        for x_part, y_part, *parts in zip(x.split(sizes), y.split(sizes), *_split(kept, sizes), strict=True):
            self._code.forward(x_part, y_part, scale, bias, weights, parts)
        return kept

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        x_grad: Tensor | None,
        scale: float,
        weights: Sequence[Tensor],
        kept: Kept,
        wanted: Sequence[bool],
    ) -> tuple[float | None, Tensor | None, list[Tensor | None]]:
        """Gradients of scale, bias and factors, where wanted; that of x is written to `x_grad` if given.

        What was kept may be overwritten.
        """
        wants_scale, wants_bias, *wants_weights = wanted
        wants_weights[-1] |= wants_scale
        code, sizes, bias_grad = self._code, self._sizes, None
        sums: Kept = (None,) * len(weights)
        # The scale's gradient needs what multiplies it, which is lost where the scale is zero.
        settings = scale, scale or 1.0, self.repeated(weights)
        if self.is_whole:
            bias_grad = grad.sum(0) if wants_bias else None
            sums = code.backward(grad, x, x_grad, *settings, kept, wants_weights, sums)
        else:
            bias_grad = grad.new_zeros(grad.shape[1]) if wants_bias else None
            x_grads = _split((x_grad,), sizes)[0]
            parts = zip(grad.split(sizes), x.split(sizes), x_grads, *_split(kept, sizes), strict=True)
            for grad_part, x_part, x_grad_part, *kept_part in parts:
                if bias_grad is not None:  # while the chunk is on its way into the cache
                    bias_grad.view(1, -1).addmm_(grad.new_ones(1, grad_part.shape[0]), grad_part)
                sums = code.backward(grad_part, x_part, x_grad_part, *settings, kept_part, wants_weights, sums)
        weight_grads = code.factor_gradients(sums)
        scale_grad = None
        if wants_scale:
            scale_grad = scale_product(scale, x, x_grad, weights[-1], weight_grads[-1]) / (scale or 1.0)
        if scale == 0 and weight_grads[-1] is not None:
            weight_grads[-1] = torch.zeros_like(weight_grads[-1])
        return scale_grad, bias_grad, weight_grads

    def repeated(self, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """Factors repeated along the axes that only the activation has; along the tokens it is done chunk by chunk.

        Both passes do it themselves, but take those that are repeated already.
        """
        if not self._code.repeats_factors:
            return weights
        return [
            repeated(weight, step, 1) if step.is_repeated and weight.shape[0] == step.weight_shape[0] else weight
            for step, weight in zip(self.plan.steps, weights, strict=True)
        ]


class _TwoCorePasses(Passes):
    """Of a Tensor-Train of two cores on a GPU: one kernel each for output, factors and the input's gradient.

    Nothing is kept for the backward pass. Where the kernels do not run, these are the passes of any plan.
    """

    __slots__ = ("_cores", "_plain_forward")

    def __init__(self, plan: Plan, tokens: int, cores: TwoCores) -> None:
        super().__init__(plan, tokens, is_cpu=False)
        self._cores, self._plain_forward = cores, self.forward
        self.forward = self._fused_forward

    def _fused_forward(
        self, x: Tensor, y: Tensor, scale: float, bias: Tensor | None, weights: Sequence[Tensor], kept: Kept
    ) -> Kept:
        kernels = two_core_kernels(self._cores, x, weights, bias)
        if kernels is None:
            return self._plain_forward(x, y, scale, bias, weights, kept)
        kernels.multiply(self._cores, x, y, scale, bias, weights)
        return self.unkept

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        x_grad: Tensor | None,
        scale: float,
        weights: Sequence[Tensor],
        kept: Kept,
        wanted: Sequence[bool],
    ) -> tuple[float | None, Tensor | None, list[Tensor | None]]:
        """As of `Passes`; by kernels where the scale is in a factor, as layers on a GPU have it."""
        is_scaled = scale == 1.0 and not wanted[0]
        kernels = two_core_kernels(self._cores, x, weights, None) if is_scaled else None
        if kernels is None:
            return super().backward(grad, x, x_grad, scale, weights, kept, wanted)
        if x_grad is not None:
            kernels.multiply(self._cores.transposed, grad, x_grad, 1.0, None, weights)
        _, wants_bias, *wants_weights = wanted
        if not any(wants_weights):
            return None, grad.sum(0) if wants_bias else None, [None, None]
        return None, *kernels.gradients(self._cores, grad, x, weights, wants_bias)


@lru_cache(maxsize=4096)
def passes_for(plan: Plan, tokens: int, is_cpu: bool, itemsize: int) -> Passes:
    """By the plan for this many tokens of so many bytes an element."""
    plan = plan.at(tokens, is_cpu, itemsize)
    cores = None if is_cpu else two_cores(plan)
    return Passes(plan, tokens, is_cpu) if cores is None else _TwoCorePasses(plan, tokens, cores)


def may_keep() -> bool:
    """Not under hooks, such as those of activation checkpointing: there what is saved is not to stay in memory."""
    return saving_hooks(True) is None


def kept_buffers(plan: Plan, x: Tensor) -> list[Tensor | None]:
    """Memory (tokens, width) for the results of all steps but the last, None for those to be computed anew."""
    tokens, widths = x.shape[0], plan.widths[1:-1]
    if not may_keep() or is_fused(plan, x.is_cpu, x.dtype.itemsize):
        return [None] * len(widths)
    keeps = kept_steps(plan, tokens, x.is_cpu)
    return [x.new_empty(tokens, width) if kept else None for width, kept in zip(widths, keeps, strict=True)]


def memory_for_x_grad(x: Tensor, kept: Kept) -> Tensor:
    """That of the first kept result where the sizes agree: chunk by chunk the one is read before the other is written."""
    first = kept[0] if kept else None
    if first is not None and first.numel() == x.numel():
        return first.view(x.shape)
    return torch.empty_like(x)


def _split(kept: Kept, sizes: tuple[int, ...]) -> list[Sequence[Tensor | None]]:
    """The chunks of every tensor."""
    return [(None,) * len(sizes) if memory is None else memory.split(sizes) for memory in kept]
