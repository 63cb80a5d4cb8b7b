"""From memory orders in terms of axes to shapes and permutations that torch can carry out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from einsearch_cli.layers.plans.draft import Draft
from einsearch_cli.layers.plans.layout_cost import innermost, is_view
from einsearch_cli.layers.plans.plan import TOKENS, FactorRole, Plan, Reading, Shape, Step
from einsearch_cli.sizing import SizedStructure

Axes = Sequence[str]


def lower(
    sized: SizedStructure,
    roles: tuple[FactorRole, ...],
    start: Axes,
    drafts: Sequence[Draft],
    end: Axes,
    sizes: Mapping[str, int],
    few_tokens: Plan | None,
) -> Plan:
    """The plan of a chain of drafts from the input, lying as `start`, to the output, lying as `end`."""
    # Where the token axis is left at 1, a product of sizes is that of the features.
    static = {**sizes, TOKENS: 1}
    grads_after = [*(later.grad_before for later in drafts[1:]), tuple(end)]
    last, first_grad = drafts[-1].after, drafts[0].grad_before
    steps = tuple(_step(draft, grad, static) for draft, grad in zip(drafts, grads_after, strict=True))
    return Plan(
        sized=sized,
        padded_in=sized.padded_in,
        padded_out=sized.padded_out,
        input_order=tuple(axis for axis in start if axis != TOKENS),
        output_order=tuple(axis for axis in end if axis != TOKENS),
        roles=roles,
        steps=steps,
        write=_rearrangement(last, end, static),
        write_grad=_rearrangement(first_grad, start, static),
        widths=(_product(start, static), *(_product(draft.after, static) for draft in drafts)),
        few_tokens=few_tokens,
        repeats_factors=any(step.is_repeated for step in steps),
    )


def _step(draft: Draft, grad_memory: Axes, static: Mapping[str, int]) -> Step:
    batch, rows, contracted, new = draft.batch, draft.rows, draft.contracted, draft.new
    own = tuple(axis for axis in batch if axis in draft.role.batch)
    return Step(
        factor=draft.role.factor,
        weight_axes=(own, contracted, new),
        weight_shape=(_product(own, static), _product(contracted, static), _product(new, static)),
        repeat_from=None if own == batch else _shape([(axis,) if axis in own else () for axis in batch], static),
        repeat_to=_shape([(axis,) for axis in batch], static),
        rows=_blocks(draft.before, (batch, rows, contracted), static),
        result=_shape((batch, rows, new) if batch else (rows, new), static),
        is_feature_major=draft.is_feature_major,
        grad=_blocks(grad_memory, (batch, rows, new), static),
        grad_is_feature_major=draft.grad_is_feature_major,
        # One matrix is written with its longer side innermost: 0.8 to 1 of the time (Xeon, AVX-512).
        weight_grad_is_swapped=innermost(grad_memory, rows)
        or (not batch and not innermost(draft.before, rows) and _product(contracted, static) > _product(new, static)),
        macs_per_token=_product((*batch, *rows, *contracted, *new), static),
    )


def _blocks(memory: Axes, groups: tuple[Axes, Axes, Axes], static: Mapping[str, int]) -> Reading:
    """Three groups of axes as a three-dimensional operand, two as a matrix if there is no batch."""
    view = is_view(memory, groups)
    batch, rows, inner = groups
    is_swapped = not view and innermost(memory, rows)
    matrix = (inner, rows) if is_swapped else (rows, inner)
    return _reading(memory, (batch, *matrix) if batch else matrix, static, not view, is_swapped)


def _rearrangement(memory: Axes, target: Axes, static: Mapping[str, int]) -> Reading | None:
    if tuple(memory) == tuple(target):
        return None
    return _reading(memory, [tuple(target[:1]), tuple(target[1:])], static, False, False)


def _reading(
    memory: Axes, groups: Sequence[Axes], static: Mapping[str, int], is_copy: bool, is_swapped: bool
) -> Reading:
    """Neighbours in memory that stay neighbours within a group become one axis."""
    runs: list[list[str]] = []
    for group in groups:
        for position, axis in enumerate(group):
            at = memory.index(axis)
            if position and at > 0 and memory[at - 1] == group[position - 1]:
                runs[-1].append(axis)
            else:
                runs.append([axis])
        if not group:
            runs.append([])
    in_memory = sorted((run for run in runs if run), key=lambda run: memory.index(run[0]))
    ordered = [*in_memory, *(run for run in runs if not run)]
    position_of = {id(run): position for position, run in enumerate(ordered)}
    order = tuple(position_of[id(run)] for run in runs)
    return Reading(
        shape=_shape(ordered, static),
        order=None if order == tuple(range(len(order))) else order,
        blocks=None if len(order) == len(groups) else _shape(groups, static),
        is_copy=is_copy,
        is_swapped=is_swapped,
    )


def _shape(groups: Sequence[Axes], static: Mapping[str, int]) -> Shape:
    with_tokens = [number for number, group in enumerate(groups) if TOKENS in group]
    return Shape(tuple(_product(group, static) for group in groups), with_tokens[0] if with_tokens else None)


def _product(axes: Axes, sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[axis] for axis in axes)
