"""The contraction plan of a layer: which index plays which role, in which layout.

A structured layer lets its factors meet the activation one after another, and
every meeting is one batched matrix product. This module says what each index
does at each meeting and what the finished plan consists of; which memory order
every intermediate has is chosen in `layout`. No tensor is touched here.

Legend: T tokens, B batch (shared, needed later), R rows (activation only),
K contracted (shared, not needed later), N new (factor only).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from einsearch_cli.layers.plans.machine_profile import TokenMajor
from einsearch_cli.sizing import SizedStructure

TOKENS = "tokens"
"""Name of the token axis among the carrier sets of an intermediate."""
Axes = tuple[str, ...]
"""Carrier sets of axes, slowest first; indices of size 1 are left out."""


@dataclass(frozen=True, slots=True)
class FactorRole:
    """What every index does where one factor meets the activation (carrier sets).

    Fan-in and fan-out are those of the factor seen as a batched matrix, as in
    Qiu et al. 2024 (arXiv 2406.06248).
    """

    factor: str
    """One factor, or the letters of several that were multiplied before."""
    batch: tuple[str, ...]
    """Shared by activation and factor, and needed by a later factor or the output."""
    contracted: tuple[str, ...]
    """Shared, and summed here because nothing later needs it."""
    kept: tuple[str, ...]
    """In the activation only; the tokens are not listed."""
    new: tuple[str, ...]
    """In the factor only."""
    fan_in: int
    """Product of the contracted sizes."""
    fan_out: int
    """Product of the new sizes."""

    @property
    def init_std(self) -> float:
        """Standard deviation of the spectral muP initialisation.

        sqrt(min(fan_in, fan_out) / fan_in²), from Qiu et al. 2024
        (arXiv 2406.06248).
        """
        return math.sqrt(min(self.fan_in, self.fan_out)) / self.fan_in


def factor_roles(sized: SizedStructure, order: Sequence[str]) -> tuple[FactorRole, ...]:
    """The role of every index at every meeting, for factors that meet in this order.

    Several letters in one, such as `("A", "BC")`, stand for the product of these factors.

    >>> from einsearch_cli.structures import parse_structure
    >>> first, second = factor_roles(parse_structure("btt:r=2").at(64, 64), "AB")
    >>> first.batch, first.contracted, first.new, first.fan_in, first.fan_out
    (('XAB',), ('XA',), ('YAB', 'AB'), 8, 16)
    >>> second.batch, second.contracted, second.new, second.fan_in, second.fan_out
    (('YAB',), ('XAB', 'AB'), ('YB',), 16, 8)
    """
    activation = sized.carriers_of("X")
    roles = []
    for position, factor in enumerate(order):
        later = {*"".join(order[position + 1 :]), "Y"}
        own = set(factor)
        shared = [c for c in activation if own & set(c)]
        batch = tuple(c for c in shared if later & set(c))
        contracted = tuple(c for c in shared if c not in batch)
        kept = tuple(c for c in activation if not own & set(c))
        new = tuple(c for c, _ in sized.sizes if own & set(c) and later & set(c) and c not in activation)
        fan_in = math.prod(sized.size(c) for c in contracted)
        fan_out = math.prod(sized.size(c) for c in new)
        roles.append(FactorRole(factor, batch, contracted, kept, new, fan_in, fan_out))
        activation = (*batch, *kept, *new)
    return tuple(roles)


class Reading(NamedTuple):
    """How the operand of a product is read from contiguous memory."""

    memory: Axes
    """Axes as they lie, slowest first."""
    groups: tuple[Axes, ...]
    """The axes of each block: batch, rows and a last one, no batch where there is none."""
    is_copy: bool
    """Whether no view serves a matrix product."""
    is_swapped: bool
    """Whether the last two blocks are exchanged in the copy, so that it moves longer runs."""
    sizes: Mapping[str, int]
    """The sizes of the axes for one token."""

    @property
    def blocks(self) -> tuple[Axes, ...]:
        """The groups as they lie in the copy."""
        *outer, rows, inner = self.groups
        return (*outer, inner, rows) if self.is_swapped else self.groups

    @property
    def order(self) -> Axes:
        """The axes as they are read, or as they lie in the copy."""
        return tuple(axis for group in self.blocks for axis in group)

    @property
    def elements(self) -> int:
        """Per token."""
        return product_of(self.memory, self.sizes)

    @property
    def run(self) -> int:
        """Elements that a copy moves as they lie, within its innermost block."""
        last = self.blocks[-1]
        run: Axes = ()
        while len(run) < len(last) and last[-len(run) - 1] == self.memory[-len(run) - 1]:
            run = last[-len(run) - 1 :]
        return 1 if TOKENS in run else product_of(run, self.sizes)


@dataclass(frozen=True, slots=True)
class Draft:
    """One meeting in terms of axes: rows[B, R, K] times weight[B, K, N], over K, gives result[B, R, N].

    The result is written with B outermost, as (B, R, N) or, feature-major, as (B, N, R).
    """

    role: FactorRole
    before: Axes
    """The activation as it lies before the step."""
    batch: Axes
    rows: Axes
    contracted: Axes
    new: Axes
    is_feature_major: bool
    """Whether the result lies in memory as (B, N, R)."""
    grad_is_feature_major: bool = False
    """Whether the gradient of the activation is written as (B, K, R)."""

    @property
    def after(self) -> Axes:
        """The result as it lies in memory."""
        return (*self.batch, *((*self.new, *self.rows) if self.is_feature_major else (*self.rows, *self.new)))

    @property
    def stored(self) -> Axes:
        """The axes of the stored factor."""
        return (*(axis for axis in self.batch if axis in self.role.batch), *self.contracted, *self.new)

    @property
    def grad_before(self) -> Axes:
        """The gradient of the activation as it lies in memory."""
        inner = (*self.contracted, *self.rows) if self.grad_is_feature_major else (*self.rows, *self.contracted)
        return (*self.batch, *inner)


class Step:
    """A draft with the sizes of its axes and what follows from them. Where no index is shared and kept there is no B."""

    def __init__(self, draft: Draft, grad_after: Axes, sizes: Mapping[str, int]) -> None:
        """`grad_after` is the gradient of the result as it lies in memory, `sizes` are those for one token."""
        batch, rows, contracted, new = draft.batch, draft.rows, draft.contracted, draft.new
        self.draft, self.factor, self._sizes = draft, draft.role.factor, sizes
        own = tuple(axis for axis in batch if axis in draft.role.batch)
        self.weight_axes = own, contracted, new
        """Carrier sets along B, K and N of the stored factor; indices of size 1 are left out."""
        self.weight_shape = product_of(own, sizes), product_of(contracted, sizes), product_of(new, sizes)
        """Shape of the stored factor: B (its own part), K, N."""
        self.matrix_elements = self.weight_shape[1] * self.weight_shape[2]
        """Elements of one matrix of the factor."""
        self.axes = draft.stored
        """Carrier sets of the stored factor, one after another."""
        self.batch, self.is_batched = batch, bool(batch)
        self.is_along_tokens = TOKENS in batch
        """Whether B is the tokens, along which the factor is repeated."""
        self.is_repeated = own != batch and not self.is_along_tokens
        """Whether the factor is repeated along other indices that only the activation has."""
        self.is_feature_major, self.grad_is_feature_major = draft.is_feature_major, draft.grad_is_feature_major
        self.rows = _reading(draft.before, (batch, rows, contracted), sizes)
        """The activation as (B, R, K)."""
        self.grad = _reading(grad_after, (batch, rows, new), sizes)
        """The gradient of the result as (B, R, N)."""
        # One matrix is written with its longer side innermost: 0.8 to 1 of the time (Xeon, AVX-512).
        is_wide = not batch and not innermost(draft.before, rows) and self.weight_shape[1] > self.weight_shape[2]
        self.weight_grad_is_swapped = innermost(grad_after, rows) or is_wide
        """Whether the gradient of the factor is summed as (B, N, K), which suits the operands' memory better."""
        self.macs_per_token = product_of((*batch, *rows, *contracted, *new), sizes)

    def sizes(self, tokens: int) -> dict[str, int]:
        """The sizes of all axes."""
        return {**self._sizes, TOKENS: tokens}

    def extents(self, tokens: int) -> tuple[int, int, int, int]:
        """B, R, K and N of the product; B is 1 where there is none."""
        sizes, draft = self.sizes(tokens), self.draft
        b, r, k, n = (product_of(axes, sizes) for axes in (draft.batch, draft.rows, draft.contracted, draft.new))
        return b, r, k, n


def _reading(memory: Axes, groups: tuple[Axes, Axes, Axes], sizes: Mapping[str, int]) -> Reading:
    is_copy = not is_view(memory, groups)
    is_swapped = is_copy and innermost(memory, groups[1])
    return Reading(memory, groups if groups[0] else groups[1:], is_copy, is_swapped, sizes)


def _rearrangement(memory: Axes, target: Axes, sizes: Mapping[str, int]) -> Reading | None:
    return None if memory == target else Reading(memory, (target[:1], target[1:]), True, False, sizes)


def is_view(memory: Axes, groups: tuple[Axes, Axes, Axes]) -> bool:
    """Whether every group is one run of the memory, in its order, and a matrix axis is innermost."""
    if groups[0] and memory[-1] in groups[0]:
        return False
    for group in groups:
        at = [memory.index(axis) for axis in group]
        if at and at != list(range(at[0], at[0] + len(at))):
            return False
    return True


def innermost(memory: Axes, axes: Axes) -> bool:
    """Whether the innermost axis of the memory is one of these."""
    return bool(memory) and memory[-1] in axes


def product_of(axes: Axes, sizes: Mapping[str, int]) -> int:
    """The product of the sizes of some axes."""
    return math.prod([sizes[axis] for axis in axes])


class Plan:
    """How a layer computes, fixed when it is made.

    The input features are read as the axes `input_order`, the output features
    written as `output_order` (carrier sets, slowest first, indices of size 1
    left out). Any fixed order is as expressive as another; this one spares copies.
    """

    def __init__(
        self,
        sized: SizedStructure,
        roles: tuple[FactorRole, ...],
        drafts: Sequence[Draft],
        start: Axes,
        end: Axes,
        sizes: Mapping[str, int],
        few_tokens: Plan | None,
    ) -> None:
        """Drafts lead from the input, lying as `start`, to the output, lying as `end`."""
        sizes = {**sizes, TOKENS: 1}  # so that products of sizes are numbers of features
        self.sized, self.roles = sized, roles
        self.padded_in, self.padded_out = sized.padded_in, sized.padded_out
        self.input_order, self.output_order = (tuple(axis for axis in axes if axis != TOKENS) for axes in (start, end))
        grads_after = (*(later.grad_before for later in drafts[1:]), end)
        self.steps = tuple(Step(draft, grad, sizes) for draft, grad in zip(drafts, grads_after, strict=True))
        self.write = _rearrangement(drafts[-1].after, end, sizes)
        """From the last result to (tokens, output axes); None if it lies so already."""
        self.write_grad = _rearrangement(drafts[0].grad_before, start, sizes)
        """From the gradient of the first rows to (tokens, input axes); None if it lies so already."""
        self.widths = tuple(product_of(axes, sizes) for axes in (start, *(draft.after for draft in drafts)))
        """Elements per token of the input, of every result, and of the output last."""
        self.few_tokens = few_tokens
        """A plan over the same factors, with every product token-major and no factor repeated; None if this is it."""
        self.repeats_factors = any(step.is_repeated for step in self.steps)

    def at(self, tokens: int, limits: TokenMajor | None) -> Plan:
        """The plan for this many tokens, which has the same factors in the same layout."""
        if self.few_tokens is None or limits is None or tokens > self._most_token_major(limits):
            return self
        return self.few_tokens

    def _most_token_major(self, limits: TokenMajor) -> int:
        widest = max(step.matrix_elements for step in self.steps)
        if widest >= limits.wide_elements:
            return limits.huge if widest >= limits.huge_elements else limits.wide
        repeated = (step.extents(1)[0] * step.matrix_elements for step in self.steps if step.is_repeated)
        return limits.repeated if max(repeated, default=0) > limits.repeated_elements else limits.usual

    @property
    def params(self) -> int:
        """Elements of all weights."""
        return sum(math.prod(step.weight_shape) for step in self.steps)

    @property
    def is_dense(self) -> bool:
        """Whether the plan is the product with one matrix."""
        return len(self.steps) == 1 and self.steps[0].weight_shape == (1, self.padded_in, self.padded_out)

    @property
    def flops_per_token(self) -> int:
        """2 × multiply-adds of one forward pass per token; scaling, rms and bias are not counted."""
        return 2 * sum(step.macs_per_token for step in self.steps)
