"""A plan as straight-line Python: functions, made once, that run its products for any number of tokens.

A small layer spends much of its time on the Python between its products, which the products drive out of the
cache: straight lines take a tenth off a training step of width 256, against loops over the steps of the plan.
Only numbers and the names of factors, which are letters of our own, get into the text.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from einsearch_cli.layers.execution.kernels import add_bias_
from einsearch_cli.layers.execution.reference import sum_repeats
from einsearch_cli.layers.plans.direct_writing import plan_operands
from einsearch_cli.layers.plans.operands import TOKENS_NAME, StepOperands, View, contiguous
from einsearch_cli.layers.plans.plan import Plan


def nothing_like(x: Tensor) -> Tensor:
    """What a product is added to zero times."""
    return _nothing(x.dtype, x.device)


@lru_cache(maxsize=64)
def _nothing(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.zeros((), dtype=dtype, device=device)


_NAMESPACE: dict[str, Any] = {
    **{name: getattr(torch, name) for name in ("add", "addmm", "as_strided", "baddbmm", "bmm", "mm")},
    "add_bias_": add_bias_,
    "nothing_like": nothing_like,
    "sum_repeats": sum_repeats,
}


@dataclass(frozen=True, slots=True, eq=False)
class Generated:
    """Both passes over a chunk of tokens, and the text that they were made from."""

    text: str
    forward: Callable[..., tuple[Tensor, ...]]
    """(x, y, scale, bias, weights, kept) to the results of all steps but the last; y is written.

    `kept` has memory for each of these results, or None.
    """
    backward: Callable[..., tuple[Tensor | None, ...]]
    """(grad, x, x_grad, scale, weight_scale, weights, kept, wanted, sums) to the sums with this chunk's added.

    `sums` has one entry for each factor, None before the first chunk; factors
    not `wanted` stay at None. x_grad is written unless it is None. Of `kept`, what is None is computed anew.
    `weight_scale` is the scale of the last factor's gradient, `scale` that of all others.
    """
    factor_gradients: Callable[..., list[Tensor | None]]
    """(sums) of all chunks to the gradients of the stored factors."""
    repeats_factors: bool
    """Whether some factor is to be repeated before, as `Step.is_repeated` says."""


@lru_cache(maxsize=1024)
def generated(plan: Plan, is_cpu: bool = True) -> Generated:
    """For the CPU, or for a GPU, where products write where the next one reads.

    >>> from einsearch_cli.layers import EinsumLinear
    >>> print(generated(EinsumLinear(64, 64, "monarch", device="meta").plan).text.partition("def backward")[0].rstrip())
    def forward(x, y, scale, bias, weights, kept):
        tokens = x.shape[0]
        if scale != scale:
            x = x * scale
        A, B = weights
        kept_A, = kept
        rows = as_strided(x, (8, 8, tokens), (8, 1, 64))
        if kept_A is None:
            result_A = bmm(A.mT, rows)
        else:
            result_A = kept_A
            bmm(A.mT, rows, out=as_strided(kept_A, (8, 8, tokens), (8 * tokens, tokens, 1)))
        rows = as_strided(result_A, (8, tokens, 8), (tokens, 1, 8 * tokens))
        result_B = baddbmm(nothing_like(x), rows, B, beta=0, alpha=scale)
        lies = as_strided(result_B, (tokens, 8, 8), (8, 8 * tokens, 1))
        wanted = as_strided(y, (tokens, 8, 8), (64, 8, 1))
        if bias is None:
            wanted.copy_(lies)
        else:
            add(lies, bias.view(8, 8), out=wanted)
        return result_A,
    """
    writer = _Writer(plan, is_cpu)
    text = "\n".join((*writer.forward(), "", *writer.backward(), "", *writer.factor_gradients(), ""))
    namespace: dict[str, Any] = {**_NAMESPACE, "steps": plan.steps}
    exec(compile(text, f"<plan of {' '.join(writer.names)}>", "exec"), namespace)  # noqa: S102
    repeats = any(step.is_repeated for step in plan.steps)
    return Generated(
        text, namespace["forward"], namespace["backward"], namespace["factor_gradients"], repeats_factors=repeats
    )


class _Writer:
    """The lines of the functions of a plan."""

    def __init__(self, plan: Plan, is_cpu: bool) -> None:
        self.plan, self.is_cpu = plan, is_cpu
        self.names = [step.factor for step in plan.steps]
        operands = plan_operands(plan, is_cpu)
        self.operands, self.write, self.write_grad = operands.steps, operands.write, operands.write_grad

    def forward(self) -> Iterator[str]:
        yield "def forward(x, y, scale, bias, weights, kept):"
        yield from _indented(self._begin("x"))
        memory = "x"
        for number, name in enumerate(self.names[:-1]):
            yield from _indented(self._kept_result(number, memory))
            memory = f"result_{name}"
        yield from _indented(self._output(memory))
        yield f"    return {_items(f'result_{name}' for name in self.names[:-1])}"

    def factor_gradients(self) -> Iterator[str]:
        yield "def factor_gradients(sums):"
        yield f"    {_items(f'sum_{name}' for name in self.names)} = sums"
        found = (f"None if sum_{name} is None else {self._stored(number)}" for number, name in enumerate(self.names))
        yield f"    return [{', '.join(found)}]"

    def _stored(self, number: int) -> str:
        """The sum over all chunks as the factor is stored."""
        step = self.plan.steps[number]
        text = f"sum_{self.names[number]}" + (".mT" if step.weight_grad_is_swapped else "")
        if not step.is_batched:
            text += "[None]"
        elif step.repeat_from is not None:
            text = f"sum_repeats({text}, steps[{number}], sum_{self.names[number]}.shape[0])"
        return text if text == f"sum_{self.names[number]}" else f"{text}.contiguous()"

    def _begin(self, given: str) -> Iterator[str]:
        """Operands by name, factors repeated along the tokens where they are."""
        yield f"{TOKENS_NAME} = x.shape[0]"
        # MKL's products on processors of Intel take an alpha that is NaN for 1; it is to spread.
        yield "if scale != scale:"
        yield f"    {given} = {given} * scale"
        yield f"{_items(self.names)} = weights"
        if len(self.names) > 1:
            yield f"{_items(f'kept_{name}' for name in self.names[:-1])} = kept"
        for name, step in zip(self.names, self.plan.steps, strict=True):
            if not step.is_batched:
                yield f"{name} = {name}[0]"
            elif step.is_along_tokens:
                _, k, n = step.weight_shape
                yield f"{name} = {name}.expand({TOKENS_NAME}, {k}, {n})"

    def _result(self, number: int, memory: str) -> Iterator[str]:
        """The result of a step but the last, in memory of its own."""
        factors = yield from self._rows(number, memory)
        yield from self._into_new(f"result_{self.names[number]}", number, self.operands[number].result, factors, "1")

    def _kept_result(self, number: int, memory: str) -> Iterator[str]:
        """The same, in the memory that is given, if any is."""
        name, result = self.names[number], self.operands[number].result
        factors = yield from self._rows(number, memory)
        yield f"if kept_{name} is None:"
        yield from _indented(self._into_new(f"result_{name}", number, result, factors, "1"))
        yield "else:"
        yield f"    result_{name} = kept_{name}"
        yield f"    {self._multiply(number)}({factors}, out=as_strided(kept_{name}, {result}))"

    def _rows(self, number: int, memory: str) -> Generator[str, None, str]:
        """The activation before a step as `rows`; gives the factors of the product."""
        name, step, operands = self.names[number], self.plan.steps[number], self.operands[number]
        memory = yield from _copied(memory, operands.rows.copy)
        yield f"rows = as_strided({memory}, {operands.rows.by_factor})"
        return f"{name}.mT, rows" if step.is_feature_major else f"rows, {name}"

    def _output(self, memory: str) -> Iterator[str]:
        """The last step, written to y with the bias."""
        last, name = len(self.names) - 1, self.names[-1]
        factors = yield from self._rows(last, memory)
        result = self.operands[last].result
        if self.write is None:
            yield f"result_{name} = as_strided(y, {result})"
            yield self._into(last, f"result_{name}", factors, "scale")
            yield "if bias is not None:"  # a third of the time that a product which starts from the bias takes for it
            yield "    y.add_(bias)" if self.is_cpu else "    add_bias_(y, bias)"
            return
        lies, wanted = self.write
        yield from self._into_new(f"result_{name}", last, result, factors, "scale")
        yield f"lies = as_strided(result_{name}, {lies})"
        yield f"wanted = as_strided(y, {wanted})"
        yield "if bias is None:"
        yield "    wanted.copy_(lies)"
        yield "else:"  # three quarters of the time of a copy and a pass for the bias
        yield f"    add(lies, bias.view({', '.join(map(str, wanted.sizes[1:]))}), out=wanted)"

    def backward(self) -> Iterator[str]:
        yield "def backward(grad, x, x_grad, scale, weight_scale, weights, kept, wanted, sums):"
        yield from _indented(self._begin("grad"))
        yield f"    {_items(f'wants_{name}' for name in self.names)} = wanted"
        yield f"    {_items(f'sum_{name}' for name in self.names)} = sums"
        yield from _indented(self._results_anew())
        for number in reversed(range(len(self.names))):
            yield from _indented(self._gradients(number))
        yield f"    return {_items(f'sum_{name}' for name in self.names)}"

    def _results_anew(self) -> Iterator[str]:
        memory = "x"
        for number, name in enumerate(self.names[:-1]):
            yield f"result_{name} = kept_{name}"
            yield f"if kept_{name} is None:"
            yield from _indented(self._result(number, memory))
            memory = f"result_{name}"

    def _gradients(self, number: int) -> Iterator[str]:
        """Of one factor, and of the rows that it meets."""
        name, step, operands = self.names[number], self.plan.steps[number], self.operands[number]
        if operands.grad.copy is not None:
            yield f"grad = as_strided(grad, {operands.grad.copy}).contiguous()"
        yield f"if wants_{name}:"
        yield from _indented(self._weight_gradient(number))
        yield f"grads = as_strided(grad, {operands.grad.by_factor})"
        factors = f"{name}, grads" if step.grad_is_feature_major else f"grads, {name}.mT"
        if number:
            yield from self._into_new("grad", number, operands.rows_grad, factors, self._scale_of_rows_grad(number))
            return
        yield "if x_grad is not None:"
        yield from _indented(self._input_gradient(operands, factors))

    def _weight_gradient(self, number: int) -> Iterator[str]:
        """Sums over chunks in place; the first chunk starts the sum."""
        name, step, operands = self.names[number], self.plan.steps[number], self.operands[number]
        before = f"result_{self.names[number - 1]}" if number else "x"
        memory = yield from _copied(before, operands.rows.copy)
        yield f"rows, grads = as_strided({memory}, {operands.rows.by_rows}), as_strided(grad, {operands.grad.by_rows})"
        left, right = operands.rows.by_rows, operands.grad.by_rows
        factors = "rows, grads"
        if step.weight_grad_is_swapped:
            left, right, factors = right, left, "grads, rows"
        scale = "weight_scale" if number + 1 == len(self.names) else "1"
        yield f"if sum_{name} is None:"
        summed = contiguous((*left.sizes[:-1], right.sizes[-1]))
        yield from _indented(self._into_new(f"sum_{name}", number, summed, factors, scale))
        yield "else:"
        # The last chunk may be shorter, and with it the repetitions along the tokens.
        yield f"    total = sum_{name}{f'[:{TOKENS_NAME}]' if step.is_along_tokens else ''}"
        yield f"    {self._add_product(number)}(total, {factors}, beta=1, alpha={scale}, out=total)"

    def _input_gradient(self, operands: StepOperands, factors: str) -> Iterator[str]:
        if self.write_grad is None:
            yield f"rows_grad = as_strided(x_grad, {operands.rows_grad})"
            yield self._into(0, "rows_grad", factors, self._scale_of_rows_grad(0))
            return
        lies, wanted = self.write_grad
        yield from self._into_new("rows_grad", 0, operands.rows_grad, factors, self._scale_of_rows_grad(0))
        yield f"as_strided(x_grad, {wanted}).copy_(as_strided(rows_grad, {lies}))"

    def _scale_of_rows_grad(self, number: int) -> str:
        """It comes in with the last factor."""
        return "scale" if number + 1 == len(self.names) else "1"

    def _multiply(self, number: int) -> str:
        return "bmm" if self.plan.steps[number].is_batched else "mm"

    def _into_new(self, memory: str, number: int, view: View, factors: str, scale: str) -> Iterator[str]:
        """A product in memory of its own, where it lies as `view`."""
        if not self.is_cpu and view == contiguous(view.sizes):
            yield f"{memory} = x.new_empty(({_items(map(str, view.sizes))}))"
            yield self._into(number, memory, factors, scale)
        elif not self.is_cpu:
            yield f"{memory} = x.new_empty({view.elements})"
            yield f"into = as_strided({memory}, {view})"
            yield self._into(number, "into", factors, scale)
        elif scale == "1":
            yield f"{memory} = {self._multiply(number)}({factors})"
        else:  # an allocation of its own and `out` would cost a small layer 8 to 14 µs each time
            yield f"{memory} = {self._add_product(number)}(nothing_like(x), {factors}, beta=0, alpha={scale})"

    def _into(self, number: int, into: str, factors: str, scale: str) -> str:
        if scale == "1":
            return f"{self._multiply(number)}({factors}, out={into})"
        return f"{self._add_product(number)}({into}, {factors}, beta=0, alpha={scale}, out={into})"

    def _add_product(self, number: int) -> str:
        return "baddbmm" if self.plan.steps[number].is_batched else "addmm"


def _copied(memory: str, view: View | None) -> Generator[str, None, str]:
    """A copy of the activation, where no view of it serves a product; gives the name of what is read."""
    if view is None:
        return memory
    yield f"rows = as_strided({memory}, {view}).contiguous()"
    return "rows"


def _items(names: Iterable[str]) -> str:
    """A tuple of names, with a comma behind a single one.

    >>> _items(["A"]), _items(["A", "B"]), _items([])
    ('A,', 'A, B', '()')
    """
    names = list(names)
    return f"{names[0]}," if len(names) == 1 else ", ".join(names) or "()"


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"    {line}" for line in lines)
