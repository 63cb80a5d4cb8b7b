"""A layer's matrix formed from its factors, and their gradients from the matrix's, as straight-line Python.

A narrow layer forms its matrix in every training step: that takes less time than what lies between the products of its
factors, if it takes few calls. They are chosen when the text is written, once for a layer's sizes. `merged_weights` is
the obvious way to the same matrix.

Axes: B batch (in both operands and the result), M and N in one operand and the result, K summed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from einsearch_cli.layers.plans.merge_steps import Axes, joint_axes, merging_pairs, without
from einsearch_cli.layers.plans.plan import Plan
from einsearch_cli.sizing import SizedStructure

_CALL, _MATRIX, _SUMMED = 2_000, 100, 4
"""What a call of torch, a matrix of a batched product, an element multiplied and summed take, in elements that are copied."""
Groups = tuple[Axes, ...]
"""The axes along each dimension of a tensor."""


class Forming(NamedTuple):
    """Both directions, and the text that they were made from."""

    text: str
    forward: Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
    """The stored factors to the matrix (padded_in, padded_out), and what `backward` needs of them."""
    backward: Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, ...]]
    """The contiguous gradient of the matrix, and what `forward` gave, to the gradients of all factors."""


class _Memory(NamedTuple):
    """A contiguous tensor of the text."""

    name: str
    shape: tuple[int, ...]
    axes: Axes
    """As they lie in memory."""


class _Way(NamedTuple):
    """One way to multiply two tensors."""

    cost: float
    call: str
    """With a gap for each operand."""
    operands: tuple[tuple[_Memory, Groups], ...]
    result: Groups


@lru_cache(maxsize=1024)
def forming(sized: SizedStructure, stored: Plan, dense: Plan) -> Forming:
    """From the factors of the plan `stored` to the one of the plan `dense`.

    >>> from einsearch_cli.layers.plans.planner import dense_route, stored_plan
    >>> from einsearch_cli.structures import parse_structure
    >>> sized = parse_structure("monarch").at(64, 64)
    >>> print(forming(sized, stored_plan(sized), dense_route(sized).plan).text)
    def forward(factors):
        A, B = factors
        if not A.is_contiguous(): A = A.contiguous()
        if not B.is_contiguous(): B = B.contiguous()
        view_0 = as_strided(A, (8, 8, 8, 1), (64, 8, 1, 1))
        view_1 = as_strided(B, (8, 1, 8, 8), (8, 1, 64, 1))
        AB = (view_0 * view_1).contiguous()
        view_2 = as_strided(AB, (64, 64), (64, 1))
        return view_2, view_0, view_1
    def backward(grad_AB, kept):
        view_0, view_1 = kept
        view_3 = as_strided(grad_AB, (8, 8, 8, 8), (512, 64, 8, 1))
        grad_A = (view_3 * view_1).sum((3,))
        grad_B = (view_3 * view_0).sum((1,))
        view_4 = as_strided(grad_B, (8, 8, 8), (8, 64, 1))
        return grad_A, view_4
    """
    writer, (step,) = _Writer(sized), dense.steps
    stored_as = {part.factor: part.weight_axes for part in stored.steps}
    factors = [_Memory(part.factor, part.weight_shape, part.axes) for part in stored.steps]
    matrix: Groups = step.weight_axes[1:]
    tensors, products = list(factors), []
    for first, second, axes in merging_pairs(sized, [factor.axes for factor in factors], step.axes):
        left, right = tensors[first], tensors[second]
        made = writer.multiply(left.name + right.name, left, right, axes, matrix if len(tensors) == 2 else None)
        products.append((left, right, made))
        tensors = [*without(tensors, first, second), made]
    result, known = writer.read(tensors[0], matrix), [*writer.names, *(made.name for *_, made in products)]
    forward = writer.take()
    given = f"grad_{tensors[0].name}"
    gradients = {tensors[0].name: _Memory(given, writer.shape(matrix), step.axes)}
    for left, right, made in reversed(products):
        for own, other in ((left, right), (right, left)):
            grad, name = gradients[made.name], f"grad_{own.name}"
            gradients[own.name] = writer.multiply(name, grad, other, own.axes, stored_as.get(own.name))
    found = [writer.read(gradients[factor.name], stored_as[factor.name]) for factor in factors]
    names = [factor.name for factor in factors]
    kept = [name for name in (*names, *known) if name in writer.used]
    lines = [
        "def forward(factors):",
        f"    {_items(names)} = factors",
        *(f"    if not {name}.is_contiguous(): {name} = {name}.contiguous()" for name in names),
        *forward,
        f"    return {_items([result, *kept])}",
        f"def backward({given}, kept):",
        *([f"    {_items(kept)} = kept"] if kept else []),
        *writer.take(),
        f"    return {_items(found)}",
    ]
    namespace: dict[str, Any] = {name: getattr(torch, name) for name in ("as_strided", "bmm", "mm")}
    exec(compile("\n".join(lines), f"<matrix of {' '.join(names)}>", "exec"), namespace)  # noqa: S102
    return Forming("\n".join(lines), namespace["forward"], namespace["backward"])


class _Writer:
    """Lines of text; a view that is made once serves all lines that follow."""

    def __init__(self, sized: SizedStructure) -> None:
        self._sized = sized
        self._lines: list[str] = []
        self._views: dict[tuple[str, Groups], str] = {}
        self.used: set[str] = set()
        """Names that were read since lines were taken last."""

    @property
    def names(self) -> list[str]:
        """The names of all views."""
        return list(self._views.values())

    def take(self) -> list[str]:
        """The lines since the last time."""
        lines, self._lines, self.used = self._lines, [], set()
        return lines

    def shape(self, groups: Groups) -> tuple[int, ...]:
        return tuple(math.prod(self._sized.size(axis) for axis in group) for group in groups)

    def read(self, memory: _Memory, groups: Groups) -> str:
        """An expression for the tensor with these axes along its dimensions."""
        name, change, _ = self._reading(memory, groups)
        self.used.add(name)
        if not change.startswith("as_strided"):
            return name + change
        view = self._views[memory.name, groups] = f"view_{len(self._views)}"
        self._lines.append(f"    {view} = {change}")
        return view

    def multiply(self, name: str, first: _Memory, second: _Memory, target: Axes, groups: Groups | None) -> _Memory:
        """The cheapest way to the product, whose axes are `target`; it is read as `groups` afterwards, if there are any."""

        def made(way: _Way) -> _Memory:
            return _Memory(name, self.shape(way.result), _axes(way.result))

        def cost(way: _Way) -> float:
            reads = [self._reading(*operand)[2] for operand in way.operands]
            return way.cost + sum(reads) + (self._reading(made(way), groups)[2] if groups else 0)

        aims = groups or tuple((axis,) for axis in target)
        best = min((*self._sums(first, second, aims), *self._matrix_products(first, second, target)), key=cost)
        call = best.call.format(*[self.read(*operand) for operand in best.operands])
        self._lines.append(f"    {name} = {call}")
        return made(best)

    def _reading(self, memory: _Memory, groups: Groups) -> tuple[str, str, float]:
        """What is read, what is done to it, and what that costs."""
        axes, shape, swapped = _axes(groups), self.shape(groups), (*groups[:-2], *reversed(groups[-2:]))
        if (memory.axes, memory.shape) == (axes, shape):
            return memory.name, "", 0
        if (memory.name, groups) in self._views:
            return self._views[memory.name, groups], "", 0
        if (memory.name, swapped) in self._views:
            return self._views[memory.name, swapped], ".mT", _CALL
        if (memory.axes, memory.shape) == (_axes(swapped), self.shape(swapped)):
            return memory.name, ".mT", _CALL
        sizes = [self._sized.size(axis) for axis in memory.axes]
        strides = {axis: math.prod(sizes[at + 1 :]) for at, axis in enumerate(memory.axes)}
        copied_cost = 2 * _CALL + math.prod(shape)
        if not all(strides[a] == strides[b] * self._sized.size(b) for group in groups for a, b in pairwise(group)):
            view = tuple(self._sized.size(axis) for axis in axes), tuple(strides[axis] for axis in axes)
            return memory.name, f"as_strided({memory.name}, {view[0]}, {view[1]}).reshape({shape})", copied_cost
        text = f"as_strided({memory.name}, {shape}, {tuple(strides[group[-1]] if group else 1 for group in groups)})"
        # A batched product whose batch lies innermost would go one matrix at a time.
        is_inside = len(groups) == 3 and memory.axes[-1:] != () and memory.axes[-1] in groups[0]
        return memory.name, f"{text}.contiguous()" if is_inside else text, copied_cost if is_inside else _CALL

    def _sums(self, first: _Memory, second: _Memory, aims: Groups) -> Iterator[_Way]:
        """Element by element: the outer product, or the sum over a product that has the axes of `first`."""
        joint = joint_axes(first.axes, second.axes)
        wanted = _axes(aims)
        summed = tuple((axis,) for axis in joint if axis not in wanted)
        if summed and joint != first.axes:
            return
        lone: Groups = aims if all(len(group) < 2 for group in aims) else tuple((axis,) for axis in wanted)
        outer: Groups = tuple((axis,) for axis in wanted)
        inner: Groups = tuple((axis,) for axis in joint)
        leading = tuple(group for group in lone if not group)  # axes of one element, which only the first operand needs
        for before, order in ((leading, inner), ((), (*lone, *summed))) if summed else (((), outer),):
            full, own = (
                tuple(group if set(group) <= set(memory.axes) else () for group in order) for memory in (first, second)
            )
            at = tuple(number for number, group in enumerate((*before, *order)) if group in summed)
            call = f"({{}} * {{}}).sum({at})" if summed else "({} * {}).contiguous()"
            result = tuple(group for group in (*before, *order) if group not in summed)
            cost = 2 * _CALL + _SUMMED * math.prod(self.shape((joint,)))
            yield _Way(cost, call, ((first, (*before, *full)), (second, own)), result)

    def _matrix_products(self, first: _Memory, second: _Memory, target: Axes) -> Iterator[_Way]:
        """In every order of the axes of B, M, N and K in which they lie somewhere."""
        one, two = set(first.axes), set(second.axes)
        summed = one & two - set(target)
        if not summed:
            return

        def orders(group: set[str]) -> Iterable[Axes]:
            lying = (tuple(axis for axis in axes if axis in group) for axes in (target, first.axes, second.axes))
            return dict.fromkeys(axes for axes in lying if len(axes) == len(group))

        cost = _CALL + math.prod(self.shape((joint_axes(first.axes, second.axes),)))
        for b, m, n, k in product(*map(orders, (one & two - summed, one - two, two - one, summed))):
            for operands, result in (
                (((first, (b, m, k)), (second, (b, k, n))), (b, m, n)),
                (((second, (b, n, k)), (first, (b, k, m))), (b, n, m)),
            ):
                if b:
                    yield _Way(cost + _MATRIX * self.shape((b,))[0], "bmm({}, {})", operands, result)
                else:
                    matrices = tuple((memory, groups[1:]) for memory, groups in operands)
                    yield _Way(cost, "mm({}, {})", matrices, result[1:])


def _axes(groups: Groups) -> Axes:
    return tuple(axis for group in groups for axis in group)


def _items(names: Iterable[str]) -> str:
    """A tuple as text."""
    names = list(names)
    return f"{names[0]}," if len(names) == 1 else ", ".join(names)
