"""Rows sorted by expert are multiplied by the factors of their experts: three routes to one result.

`contract_each` is the reference. `EachExpert` is the executor for CPUs. `contract_in_groups` makes one grouped matrix
product per step, for GPUs.

Axes: R rows (slots), E experts; B batch, K contracted, N new of a factor, see `plan`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from einsearch_cli.layers.execution.choose import executor_for
from einsearch_cli.layers.execution.cpu import CpuExecutor
from einsearch_cli.layers.execution.executor import Executor, Inputs, Keeps, MaybeTensor, Output, Saved, Tensors
from einsearch_cli.layers.execution.products import Results, memory_for_results, memory_for_x_grad
from einsearch_cli.layers.execution.reference import arranged, contract
from einsearch_cli.layers.execution.scaling import reference_scale, scale_gradients, scale_of
from einsearch_cli.layers.plans.chunking import kept_steps
from einsearch_cli.layers.plans.plan import TOKENS, Call, Plan, product_of


def contract_each(plan: Plan, rows: Tensor, sizes: Sequence[int], scales_E: Tensor, weights: Tensors) -> Tensor:
    """Map the rows (R, padded_in), `sizes` of them for each expert, to (R, padded_out).

    torch itself can differentiate the operations any number of times. Rows are sorted by expert, the plan is that of
    one expert, and weights are factors (E, B, K, N) in the order of its steps.
    """
    parts = rows.split(list(sizes))
    # Without rows, the first expert's product of nothing keeps the graph connected.
    busy = [expert for expert, size in enumerate(sizes) if size] or [0]
    return torch.cat(contract_experts(plan, [parts[expert] for expert in busy], busy, scales_E, weights))


def contract_experts(
    plan: Plan, parts: Tensors, experts: Iterable[int], scales_E: Tensor, weights: Tensors
) -> list[Tensor]:
    """Map the rows (R, padded_in) of each of these experts to (R, padded_out); otherwise like `contract_each`."""
    found = []
    for part, expert in zip(parts, experts, strict=True):
        *first, last = (weight[expert] for weight in weights)
        scaled = (last * scales_E[expert]).to(last.dtype)
        found.append(contract(plan, part, [*first, scaled]))
    return found


class EachExpert(Executor):
    """The executor of a CPU for every expert on its slice of the sorted rows.

    Gains (E,) and factors (E, B, K, N) belong to all experts, whose saved results share memory.
    """

    name = "each expert"

    def __init__(self, plan: Plan, sizes: Sequence[int]) -> None:
        super().__init__(plan)
        self.sizes, self.keeps = tuple(sizes), kept_steps(plan, sum(sizes))

    def forward(self, x: Tensor, gain: MaybeTensor, bias: MaybeTensor, factors: Tensors, keeps: Keeps = None) -> Output:
        assert gain is not None
        assert bias is None
        rows, scales = x.contiguous(), []
        results = memory_for_results(self.plan, rows, keeps or [False] * len(self.keeps))
        y = rows.new_empty(rows.shape[0], self.plan.padded_out)
        for expert, begin, end in self._busy():
            own = [factor[expert] for factor in factors]
            scales.append(scale_of(gain[expert], own, self.limits))
            parts = _part(results, begin, end)
            self._executor(rows, end - begin).multiply(
                rows[begin:end], y[begin:end], scales[-1].value, None, own, parts
            )
        return y, None if keeps is None else Saved(scales, results)

    def backward(self, inputs: Inputs, saved: Saved | None, grad: Tensor, wanted: Sequence[bool]) -> list[MaybeTensor]:
        x, gain, _, *factors = inputs
        wants_x, wants_gain, _, *wants_factors = wanted
        rows, grad = x.contiguous(), grad.contiguous()
        saved = saved or Saved(None, [None] * len(self.keeps))
        x_grad = memory_for_x_grad(rows, saved) if wants_x else None
        gain_grad = torch.zeros_like(gain)
        factor_grads = [torch.zeros_like(f) if wants else None for f, wants in zip(factors, wants_factors, strict=True)]
        for number, (expert, begin, end) in enumerate(self._busy()):
            own = [factor[expert] for factor in factors]
            scale = saved.scale[number] if saved.scale else scale_of(gain[expert], own, self.limits)
            into, parts = None if x_grad is None else x_grad[begin:end], _part(saved.results, begin, end)
            slope, _, found = self._executor(rows, end - begin).gradients(
                grad[begin:end], rows[begin:end], into, scale.value, own, parts,
                (wants_gain or any(scale.norms), False, *wants_factors),
            )  # fmt: skip
            if slope is not None:
                gain_grad[expert] = scale_gradients(scale, slope, gain[expert], own, found)
            for target, source in zip(factor_grads, found, strict=True):
                if target is not None and source is not None:
                    target[expert] = source
        return [x_grad, gain_grad if wants_gain else None, None, *factor_grads]

    def reference(self, x: Tensor, gain: MaybeTensor, bias: MaybeTensor, *factors: Tensor) -> Tensor:
        assert gain is not None
        assert bias is None
        return contract_each(self.plan, x, self.sizes, reference_scale(gain, factors, self.plan.limits), factors)

    def _executor(self, rows: Tensor, tokens: int) -> CpuExecutor:
        executor = executor_for(self.plan, Call(rows.device.type, rows.dtype, tokens))
        assert isinstance(executor, CpuExecutor)
        return executor

    def _busy(self) -> Iterator[tuple[int, int, int]]:
        """Number, first row and end of every expert that has rows."""
        begin = 0
        for expert, size in enumerate(self.sizes):
            if size:
                yield expert, begin, begin + size
            begin += size


def _part(results: Results, begin: int, end: int) -> Results:
    """The parts of saved results that belong to some of the rows."""
    return [memory if memory is None else memory[begin:end] for memory in results]


def contract_in_groups(plan: Plan, rows: Tensor, ends_E: Tensor, scales_E: Tensor, weights: Tensors) -> Tensor:
    """The product of `contract_each` with one `grouped_mm` per step; nothing is read back from the device.

    A step whose factor has batch indices is a product of B·E groups. Arguments are those of `contract_each`, with
    `ends_E`, one past the last row of every expert, instead of numbers of rows.
    """
    *first, last = weights
    scaled = (last * scales_E[:, None, None, None]).to(last.dtype)
    activation, axes, count = rows, plan.start, rows.shape[0]
    for step, weight_EBKN in zip(plan.steps, [*first, scaled], strict=True):
        (batch, contracted, new), sizes = step.weight_axes, step.sizes(count)
        kept = tuple(axis for axis in axes if axis not in (TOKENS, *batch, *contracted))
        experts, b, k, n = weight_EBKN.shape
        per_row = product_of(kept, sizes)
        begins_B = torch.arange(b, device=rows.device) * (count * per_row)
        ends_BE = (begins_B[:, None] + ends_E * per_row).to(torch.int32).reshape(-1)
        operand = arranged(activation, axes, ((*batch, TOKENS, *kept), contracted), sizes)
        groups = weight_EBKN.transpose(0, 1).reshape(b * experts, k, n)
        activation = functional.grouped_mm(operand, groups, offs=ends_BE)
        axes = (*batch, TOKENS, *kept, *new)
    return arranged(activation, axes, (plan.end[:1], plan.end[1:]), plan.steps[-1].sizes(count))


def can_be_grouped(plan: Plan, rows: Tensor) -> bool:
    """Whether `grouped_mm` can compute this plan: rows of every operand must begin at multiples of 16 bytes."""
    if not hasattr(functional, "grouped_mm") or rows.shape[0] == 0:
        return False
    return all(size * rows.itemsize % 16 == 0 for step in plan.steps for size in step.weight_shape[1:])
