"""Forming a layer's matrix from its factors, and their gradients from that of the matrix, in few calls of torch.

A narrow layer forms its matrix in every training step. With few calls, this takes less time than the work between the
products of its factors. The calls are chosen once for a layer's sizes. `merged.merged_weights` is the reference.

Axes: B batch (in both operands and the result), M and N in one operand and the result, K summed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from einsearch_cli.layers.plans.merge_steps import joint_axes, merging_pairs, without
from einsearch_cli.layers.plans.plan import Axes, Groups, Plan
from einsearch_cli.sizing import SizedStructure

_CALL, _MATRIX, _SUMMED = 2_000, 100, 3
"""Costs, in copied elements: a call of torch, a matrix of a batched product, an element multiplied and summed."""
_as_strided = torch.as_strided
Function = Callable[..., Tensor]
Instruction = tuple[Function, int, int | None]
"""A function and the places of its operands; None if it has only one."""


class _Memory(NamedTuple):
    """A contiguous tensor of a program."""

    place: int
    shape: tuple[int, ...]
    axes: Axes
    """The axes in the order in which they lie in memory."""


class _Way(NamedTuple):
    """One way to multiply two tensors."""

    cost: float
    function: Function
    operands: tuple[tuple[_Memory, Groups], ...]
    result: Groups


class Forming:
    """Maps the factors of the plan `stored` to the matrix of the plan `dense`, and its gradient back to theirs.

    >>> from einsearch_cli.layers.plans.planner import dense_route, stored_plan
    >>> from einsearch_cli.structures import parse_structure
    >>> sized = parse_structure("monarch").at(64, 64)
    >>> forming = Forming(stored_plan(sized), dense_route(sized).plan)
    >>> matrix, values = forming.forward([torch.ones(8, 8, 8), torch.ones(8, 8, 8)])
    >>> matrix.shape, len(values)  # two factors, two views, their product, and that as a matrix
    (torch.Size([64, 64]), 6)
    """

    def __init__(self, stored: Plan, dense: Plan) -> None:
        program, (step,) = _Program(dense.sized, len(stored.steps)), dense.steps
        stored_as = {place: part.weight_axes for place, part in enumerate(stored.steps)}
        factors = [_Memory(place, part.weight_shape, part.axes) for place, part in enumerate(stored.steps)]
        matrix: Groups = step.weight_axes[1:]
        tensors, products = list(factors), []
        for first, second, axes in merging_pairs(dense.sized, [factor.axes for factor in factors], step.axes):
            left, right = tensors[first], tensors[second]
            made = program.multiply(left, right, axes, matrix if len(tensors) == 2 else None)
            products.append((left, right, made))
            tensors = [*without(tensors, first, second), made]
        self._matrix = program.read(tensors[0], matrix)
        self._forward = program.take()
        grad = program.next_place()
        gradients = {tensors[0].place: _Memory(grad, program.shape(matrix), step.axes)}
        for left, right, made in reversed(products):
            for own, other in ((left, right), (right, left)):
                found = program.multiply(gradients[made.place], other, own.axes, stored_as.get(own.place))
                gradients[own.place] = found
        self._found = [program.read(gradients[factor.place], stored_as[factor.place]) for factor in factors]
        self._backward = program.take()
        self._unread = set(range(grad)) - {place for _, *places in self._backward for place in places}
        """The tensors that the backward pass does not need."""

    def forward(self, factors: Sequence[Tensor]) -> tuple[Tensor, list[Any]]:
        """The matrix (padded_in, padded_out) of the stored factors, and the values that `backward` needs."""
        values: list[Any] = [factor if factor.is_contiguous() else factor.contiguous() for factor in factors]
        _run(self._forward, values)
        matrix = values[self._matrix]
        for place in self._unread:
            values[place] = None
        return matrix, values

    def backward(self, grad: Tensor, values: Sequence[Any]) -> list[Tensor]:
        """The gradients of all factors from the contiguous gradient of the matrix and the values from `forward`."""
        values = [*values, grad]
        _run(self._backward, values)
        return [values[place] for place in self._found]


class _Program:
    """Instructions over a list of tensors; a view that is made once serves all later instructions."""

    def __init__(self, sized: SizedStructure, given: int) -> None:
        self._sized, self._places = sized, given
        self._instructions: list[Instruction] = []
        self._views: dict[tuple[int, Groups], int] = {}

    def take(self) -> list[Instruction]:
        """The instructions since the last call; places count all tensors of the program."""
        taken, self._instructions = self._instructions, []
        return taken

    def next_place(self) -> int:
        """The place of the next tensor that is given or made."""
        self._places += 1
        return self._places - 1

    def shape(self, groups: Groups) -> tuple[int, ...]:
        return tuple(math.prod(map(self._sized.size, group)) for group in groups)

    def read(self, memory: _Memory, groups: Groups) -> int:
        """The place of a tensor with these axes along its dimensions; it is made if necessary."""
        place, view, _ = self._reading(memory, groups)
        if view is None:
            return place
        self._instructions.append((view, place, None))
        self._views[memory.place, groups] = self.next_place()
        return self._views[memory.place, groups]

    def multiply(self, first: _Memory, second: _Memory, target: Axes, groups: Groups | None) -> _Memory:
        """Multiply in the cheapest way; the product has the axes `target`, and is read as `groups` later, if given."""

        def cost(way: _Way) -> float:
            made = _Memory(-1, self.shape(way.result), _axes(way.result))
            reads = [self._reading(*operand)[2] for operand in way.operands]
            return way.cost + sum(reads) + (self._reading(made, groups)[2] if groups else 0)

        best = min(self._ways(first, second, _axes(groups) if groups else target), key=cost)
        left, right = (self.read(*operand) for operand in best.operands)
        self._instructions.append((best.function, left, right))
        return _Memory(self.next_place(), self.shape(best.result), _axes(best.result))

    def _reading(self, memory: _Memory, groups: Groups) -> tuple[int, Function | None, float]:
        """How to read a memory as these groups: the place, the function to apply (if any), and its cost."""
        shape, swapped = self.shape(groups), (*groups[:-2], *reversed(groups[-2:]))
        if (memory.axes, memory.shape) == (_axes(groups), shape):
            return memory.place, None, 0
        if (memory.place, groups) in self._views:
            return self._views[memory.place, groups], None, 0
        if (memory.place, swapped) in self._views:
            return self._views[memory.place, swapped], _swapped, _CALL
        if (memory.axes, memory.shape) == (_axes(swapped), self.shape(swapped)):
            return memory.place, _swapped, _CALL
        sizes = self.shape(tuple((axis,) for axis in memory.axes))
        strides = {axis: math.prod(sizes[at + 1 :]) for at, axis in enumerate(memory.axes)}
        is_view = all(strides[a] == strides[b] * self._sized.size(b) for group in groups for a, b in pairwise(group))
        # A batched product whose batch is innermost would process one matrix at a time.
        if is_view and not (len(groups) == 3 and memory.axes[-1:] and memory.axes[-1] in groups[0]):
            stride = tuple(strides[group[-1]] if group else 1 for group in groups)
            return memory.place, _viewed(shape, stride), _CALL
        lying = self.shape(tuple((axis,) for axis in _axes(groups))), tuple(strides[axis] for axis in _axes(groups))
        return memory.place, partial(_copied, *lying, shape), 2 * _CALL + math.prod(shape)

    def _ways(self, first: _Memory, second: _Memory, target: Axes) -> Iterator[_Way]:
        """Ways to multiply: element by element, or as a matrix product whose axes are ordered as one of the tensors is."""
        one, two = set(first.axes), set(second.axes)
        summed = one & two - set(target)
        if not summed or two <= one:
            lying = tuple((axis,) for axis in (first.axes if summed else target))
            read = (
                (memory, tuple(axes if axes[0] in memory.axes else () for axes in lying)) for memory in (first, second)
            )
            at = tuple(place for place, group in enumerate(lying) if group[0] in summed)
            elements = math.prod(self.shape(lying))
            result = tuple(group for group in lying if group[0] not in summed)
            function: Function = partial(_summed_product, at) if summed else _outer_product
            yield _Way(2 * _CALL + _SUMMED * elements, function, tuple(read), result)

        def orders(group: set[str]) -> dict[Axes, None]:
            lying = (tuple(axis for axis in axes if axis in group) for axes in (target, first.axes, second.axes))
            return dict.fromkeys(axes for axes in lying if len(axes) == len(group))

        if not summed:
            return
        cost = _CALL + math.prod(self.shape((joint_axes(first.axes, second.axes),)))
        for b, m, n, k in product(*map(orders, (one & two - summed, one - two, two - one, summed))):
            matrices = _MATRIX * self.shape((b,))[0] if b else 0
            batch: Groups = (b,) if b else ()
            for left, right, rows, columns in ((first, second, m, n), (second, first, n, m)):
                operands = (left, (*batch, rows, k)), (right, (*batch, k, columns))
                function = torch.bmm if b else torch.mm
                yield _Way(cost + matrices, function, operands, (*batch, rows, columns))


def _axes(groups: Groups) -> Axes:
    return tuple(axis for group in groups for axis in group)


def _run(instructions: Sequence[Instruction], values: list[Any]) -> None:
    """Add the result of every instruction to the values."""
    append = values.append
    for function, first, second in instructions:
        append(function(values[first]) if second is None else function(values[first], values[second]))


def _viewed(shape: tuple[int, ...], stride: tuple[int, ...]) -> Function:
    """A function that makes a view; `partial` with named arguments takes twice as long, 2.2 µs."""

    def viewed(tensor: Tensor) -> Tensor:
        return _as_strided(tensor, shape, stride)

    return viewed


def _swapped(tensor: Tensor) -> Tensor:
    return tensor.mT


def _copied(sizes: tuple[int, ...], strides: tuple[int, ...], shape: tuple[int, ...], tensor: Tensor) -> Tensor:
    return _as_strided(tensor, sizes, strides).contiguous().view(shape)


def _outer_product(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).contiguous()


def _summed_product(axes: tuple[int, ...], first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(axes)
