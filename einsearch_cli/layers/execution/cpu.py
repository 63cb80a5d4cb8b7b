"""The executor for CPUs: products over chunks of tokens that stay in the cache.

Four things make it fast (figures in `docs/design/log`). Intermediates of a chunk stay in the second-level cache and
never reach main memory. Every batched product writes a contiguous result, which keeps MKL's batched path. The scale is
folded into a product. The bias is added by the pass that writes the output. Intermediates are saved for the backward
pass only while the layer needs no more memory than the dense layer that it replaces, and are recomputed otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from einsearch_cli.layers.execution.executor import Executor, Inputs, Keeps, MaybeTensor, Output, Saved, Tensors
from einsearch_cli.layers.execution.products import (
    Products,
    Results,
    as_rows,
    memory_for_results,
    memory_for_x_grad,
    repeated_factors,
)
from einsearch_cli.layers.execution.scaling import per_scale, scale_gradients, scale_of
from einsearch_cli.layers.plans.chunking import chunks, kept_steps
from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU, ChunkLengths
from einsearch_cli.layers.plans.plan import Plan


class CpuExecutor(Executor):
    """Lets factors meet the activation one after another, chunk by chunk."""

    name = "cpu"
    is_cpu = True

    def __init__(self, plan: Plan, tokens: int, lengths: ChunkLengths | None = DEFAULT_CPU.chunks) -> None:
        super().__init__(plan)
        self.tokens, self._sizes = tokens, chunks(plan, tokens, lengths)
        of_length = {length: Products(plan, length, self.is_cpu) for length in set(self._sizes)}
        self._parts = [of_length[length] for length in self._sizes]
        self.is_whole = len(self._sizes) == 1
        self.keeps = kept_steps(plan, tokens, lengths)
        self._nothing: Results = (None,) * len(self.keeps)

    def forward(self, x: Tensor, gain: MaybeTensor, bias: MaybeTensor, factors: Tensors, keeps: Keeps = None) -> Output:
        scale, rows, results = scale_of(gain, factors, self.limits), as_rows(x), self._nothing
        if keeps and not self.is_whole:
            results = memory_for_results(self.plan, rows, keeps)
        # The output is not a view, which would cost torch bookkeeping.
        y = x.new_empty(*x.shape[:-1], self.plan.padded_out)
        y_rows = y if y.ndim == 2 else y.view(self.tokens, self.plan.padded_out)
        found = self.multiply(rows, y_rows, scale.value, bias, factors, results)
        return y, None if keeps is None else Saved(scale, found)

    def backward(self, inputs: Inputs, saved: Saved | None, grad: Tensor, wanted: Sequence[bool]) -> list[MaybeTensor]:
        x, gain, _, *factors = inputs
        saved = saved or Saved(None, self._nothing)
        scale, results = saved.scale, saved.results
        if scale is None:
            scale = scale_of(gain, factors, self.limits)
        wants_x, wants_gain, *others = wanted
        rows = as_rows(x)
        x_grad = memory_for_x_grad(rows, saved) if wants_x else None
        wants_scale = wants_gain or any(scale.norms)  # caps pass the scale's gradient on to the factors
        slope, bias_grad, grads = self.gradients(
            as_rows(grad), rows, x_grad, scale.value, factors, results, (wants_scale, *others)
        )
        gain_grad = None
        if gain is not None and slope is not None:
            gain_grad = scale_gradients(scale, slope, gain, factors, grads)
        if not wanted[-1]:
            grads[-1] = None
        if x_grad is not None and x.ndim != 2:
            x_grad = x_grad.view(x.shape)
        return [x_grad, gain_grad if wants_gain else None, bias_grad, *grads]

    def multiply(
        self, x: Tensor, y: Tensor, scale: float, bias: MaybeTensor, factors: Tensors, results: Results
    ) -> Results:
        """Write the output (tokens, padded_out) to `y`, and step results to the memory in `results`, if any.

        Returns these results; for a call with a single chunk, also those without given memory.
        """
        factors, sizes = self.prepared(factors), self._sizes
        if self.is_whole:
            return self._parts[0].forward(x, y, scale, bias, factors, results)
        chunked = zip(self._parts, x.split(sizes), y.split(sizes), *_split(results, sizes), strict=True)
        for products, x_part, y_part, *kept in chunked:
            products.forward(x_part, y_part, scale, bias, factors, kept)
        return results

    def gradients(
        self, grad: Tensor, x: Tensor, x_grad: MaybeTensor, scale: float, factors: Tensors, results: Results,
        wanted: Sequence[bool],
    ) -> tuple[float | None, MaybeTensor, list[MaybeTensor]]:  # fmt: skip
        """The wanted gradients of scale, bias and factors; that of x is written to `x_grad` if given."""
        wants_scale, wants_bias, *wants_factors = wanted
        wants_factors[-1] |= wants_scale
        sizes, bias_grad, prepared = self._sizes, None, self.prepared(factors)
        sums: list[MaybeTensor] = [None] * len(factors)
        if self.is_whole:
            bias_grad = grad.sum(0) if wants_bias else None
            self._parts[0].backward(grad, x, x_grad, scale, prepared, results, wants_factors, sums)
        else:
            bias_grad = grad.new_zeros(grad.shape[1]) if wants_bias else None
            x_grads = _split((x_grad,), sizes)[0]
            chunked = zip(self._parts, grad.split(sizes), x.split(sizes), x_grads, *_split(results, sizes), strict=True)
            for products, grad_part, x_part, x_grad_part, *kept in chunked:
                if bias_grad is not None:  # while the chunk is loaded into the cache
                    bias_grad.view(1, -1).addmm_(grad.new_ones(1, grad_part.shape[0]), grad_part)
                products.backward(grad_part, x_part, x_grad_part, scale, prepared, kept, wants_factors, sums)
        grads, slope = self._parts[0].factor_gradients(sums), None
        if wants_scale:
            slope = per_scale(scale, x, x_grad, factors[-1], grads[-1])
        if scale == 0 and grads[-1] is not None:
            grads[-1] = torch.zeros_like(grads[-1])
        return slope, bias_grad, grads

    def chunks(self, tokens: int) -> tuple[int, ...]:  # noqa: ARG002
        return self._sizes

    def prepared(self, factors: Tensors) -> Tensors:
        """Factors repeated along the axes that only the activation has; along the tokens this is done chunk by chunk."""
        return repeated_factors(self.plan, factors)


def _split(memories: Results, sizes: tuple[int, ...]) -> list[Sequence[Tensor | None]]:
    """The chunks of every tensor."""
    return [(None,) * len(sizes) if memory is None else memory.split(sizes) for memory in memories]
