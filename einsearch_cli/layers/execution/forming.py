"""A layer's matrix formed from its factors, and their gradients from the matrix's, by few calls of torch.

A narrow layer forms its matrix in every training step: that takes less time than what lies between the products of its
factors, if it takes few calls. They are chosen once for a layer's sizes. `merged.merged_weights` is the reference.

Axes: B batch (in both operands and the result), M and N in one operand and the result, K summed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
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
Instruction = tuple[Callable[..., Tensor], tuple[int, ...]]
"""A function, and the places of its operands among the tensors before it."""


class _Memory(NamedTuple):
    """A contiguous tensor of a program."""

    place: int
    shape: tuple[int, ...]
    axes: Axes
    """As they lie in memory."""


class _Way(NamedTuple):
    """One way to multiply two tensors."""

    cost: float
    function: Callable[..., Tensor]
    operands: tuple[tuple[_Memory, Groups], ...]
    result: Groups


class Forming:
    """From the factors of the plan `stored` to the matrix of the plan `dense`, and back to the gradients of the factors.

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
        gradients = {tensors[0].place: _Memory(program.next_place(), program.shape(matrix), step.axes)}
        for left, right, made in reversed(products):
            for own, other in ((left, right), (right, left)):
                gradients[own.place] = program.multiply(
                    gradients[made.place], other, own.axes, stored_as.get(own.place)
                )
        self._found = [program.read(gradients[factor.place], stored_as[factor.place]) for factor in factors]
        self._backward = program.take()
        read = {place for _, places in self._backward for place in places}
        self._unread = [place for place in range(gradients[tensors[0].place].place) if place not in read]
        """What the backward pass does not need."""

    def forward(self, factors: Sequence[Tensor]) -> tuple[Tensor, list[Any]]:
        """The matrix (padded_in, padded_out) of the stored factors, and what `backward` needs of them."""
        values: list[Any] = [factor if factor.is_contiguous() else factor.contiguous() for factor in factors]
        for function, places in self._forward:
            values.append(function(*[values[place] for place in places]))
        matrix = values[self._matrix]
        for place in self._unread:
            values[place] = None
        return matrix, values

    def backward(self, grad: Tensor, values: Sequence[Any]) -> list[Tensor]:
        """The gradients of all factors from the contiguous one of the matrix, and what `forward` gave."""
        values = [*values, grad]
        for function, places in self._backward:
            values.append(function(*[values[place] for place in places]))
        return [values[place] for place in self._found]


class _Program:
    """Instructions over a list of tensors; a view that is made once serves all instructions that follow."""

    def __init__(self, sized: SizedStructure, given: int) -> None:
        self._sized, self._places = sized, given
        self._instructions: list[Instruction] = []
        self._views: dict[tuple[int, Groups], int] = {}

    def take(self) -> list[Instruction]:
        """The instructions since the last time."""
        taken, self._instructions = self._instructions, []
        return taken

    def next_place(self) -> int:
        """The place of a tensor that is given or made next."""
        self._places += 1
        return self._places - 1

    def shape(self, groups: Groups) -> tuple[int, ...]:
        return tuple(math.prod(self._sized.size(axis) for axis in group) for group in groups)

    def read(self, memory: _Memory, groups: Groups) -> int:
        """The place of the tensor with these axes along its dimensions."""
        place, view, _ = self._reading(memory, groups)
        if view is None:
            return place
        self._instructions.append((view, (place,)))
        self._views[memory.place, groups] = self.next_place()
        return self._views[memory.place, groups]

    def multiply(self, first: _Memory, second: _Memory, target: Axes, groups: Groups | None) -> _Memory:
        """The cheapest way to the product, whose axes are `target`; it is read as `groups` afterwards, if there are any."""

        def cost(way: _Way) -> float:
            made = _Memory(-1, self.shape(way.result), _axes(way.result))
            reads = [self._reading(*operand)[2] for operand in way.operands]
            return way.cost + sum(reads) + (self._reading(made, groups)[2] if groups else 0)

        aims = groups or tuple((axis,) for axis in target)
        best = min((*self._sums(first, second, aims), *self._matrix_products(first, second, target)), key=cost)
        places = tuple(self.read(*operand) for operand in best.operands)
        self._instructions.append((best.function, places))
        return _Memory(self.next_place(), self.shape(best.result), _axes(best.result))

    def _reading(self, memory: _Memory, groups: Groups) -> tuple[int, Callable[[Tensor], Tensor] | None, float]:
        """What is read, what is done to it, and what that costs."""
        axes, shape, swapped = _axes(groups), self.shape(groups), (*groups[:-2], *reversed(groups[-2:]))
        if (memory.axes, memory.shape) == (axes, shape):
            return memory.place, None, 0
        if (memory.place, groups) in self._views:
            return self._views[memory.place, groups], None, 0
        if (memory.place, swapped) in self._views:
            return self._views[memory.place, swapped], _swapped, _CALL
        if (memory.axes, memory.shape) == (_axes(swapped), self.shape(swapped)):
            return memory.place, _swapped, _CALL
        sizes = [self._sized.size(axis) for axis in memory.axes]
        strides = {axis: math.prod(sizes[at + 1 :]) for at, axis in enumerate(memory.axes)}
        copied_cost = 2 * _CALL + math.prod(shape)
        if not all(strides[a] == strides[b] * self._sized.size(b) for group in groups for a, b in pairwise(group)):
            view = tuple(self._sized.size(axis) for axis in axes), tuple(strides[axis] for axis in axes)
            return memory.place, partial(_copied, *view, shape), copied_cost
        view = shape, tuple(strides[group[-1]] if group else 1 for group in groups)
        # A batched product whose batch lies innermost would go one matrix at a time.
        if len(groups) == 3 and memory.axes[-1:] != () and memory.axes[-1] in groups[0]:
            return memory.place, partial(_copied, *view, shape), copied_cost
        return memory.place, partial(torch.as_strided, size=view[0], stride=view[1]), _CALL

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
            function = partial(_summed_product, at) if summed else _outer_product
            result = tuple(group for group in (*before, *order) if group not in summed)
            cost = 2 * _CALL + _SUMMED * math.prod(self.shape((joint,)))
            yield _Way(cost, function, ((first, (*before, *full)), (second, own)), result)

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
                    yield _Way(cost + _MATRIX * self.shape((b,))[0], torch.bmm, operands, result)
                else:
                    matrices = tuple((memory, groups[1:]) for memory, groups in operands)
                    yield _Way(cost, torch.mm, matrices, result[1:])


def _axes(groups: Groups) -> Axes:
    return tuple(axis for group in groups for axis in group)


def _swapped(tensor: Tensor) -> Tensor:
    return tensor.mT


def _copied(sizes: tuple[int, ...], strides: tuple[int, ...], shape: tuple[int, ...], tensor: Tensor) -> Tensor:
    return torch.as_strided(tensor, sizes, strides).contiguous().view(shape)


def _outer_product(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).contiguous()


def _summed_product(axes: tuple[int, ...], first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(axes)
