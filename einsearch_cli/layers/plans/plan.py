"""The contraction plan of a layer: which role each index plays, in which layout.

A structured layer lets its factors meet the activation one after another, and every meeting is one batched matrix
product. This module defines what each index does at each meeting and the contents of a finished plan. `layout` chooses
the memory order of every intermediate; `operands` makes strided views of them. No tensor is used here.

Legend: T tokens, B batch (shared, needed later), R rows (activation only), K contracted (shared, not needed later), N new
(factor only).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from einsearch_cli.layers.plans.machine_profile import TokenMajor
from einsearch_cli.sizing import SizedStructure

if TYPE_CHECKING:  # costs are known without torch
    import torch

TOKENS = "tokens"
"""Name of the token axis among the carrier sets of an intermediate."""
Axes = tuple[str, ...]
"""Carrier sets of axes, slowest first; indices of size 1 are left out."""
Groups = tuple[Axes, ...]
"""The axes along each dimension of a tensor."""


class Call(NamedTuple):
    """The facts that decide how a plan is executed, determined once for inputs of one shape."""

    device: str
    """The type of the device; everything except a CPU is treated as a GPU, even the meta device."""
    dtype: torch.dtype
    """The dtype of the products: that of autocast if it is on."""
    tokens: int

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class FactorRole:
    """The roles of all indices (as carrier sets) when one factor meets the activation.

    Fan-in and fan-out are those of the factor seen as a batched matrix, as in Qiu et al. 2024 (arXiv 2406.06248).
    """

    factor: str
    """A factor, or the letters of several factors that were multiplied before."""
    batch: tuple[str, ...]
    """Indices that activation and factor share and a later factor or the output needs."""
    contracted: tuple[str, ...]
    """Shared indices that are summed here, because nothing later needs them."""
    kept: tuple[str, ...]
    """Indices of the activation only; the tokens are not listed."""
    new: tuple[str, ...]
    """Indices of the factor only."""
    fan_in: int
    """Product of the contracted sizes."""
    fan_out: int
    """Product of the new sizes."""

    @property
    def init_std(self) -> float:
        """Standard deviation of the spectral muP initialisation.

        sqrt(min(fan_in, fan_out) / fan_in²), from Qiu et al. 2024 (arXiv 2406.06248).
        """
        return math.sqrt(min(self.fan_in, self.fan_out)) / self.fan_in


def factor_roles(sized: SizedStructure, order: Sequence[str]) -> tuple[FactorRole, ...]:
    """The role of every index at every meeting, for factors that meet in this order.

    Several letters in one item, such as `("A", "BC")`, stand for the product of these factors.

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
        own, later = set(factor), {*"".join(order[position + 1 :]), "Y"}
        batch = tuple(c for c in activation if own & set(c) and later & set(c))
        contracted = tuple(c for c in activation if own & set(c) and not later & set(c))
        kept = tuple(c for c in activation if not own & set(c))
        new = tuple(c for c, _ in sized.sizes if own & set(c) and later & set(c) and c not in activation)
        fan_in, fan_out = (math.prod(map(sized.size, axes)) for axes in (contracted, new))
        roles.append(FactorRole(factor, batch, contracted, kept, new, fan_in, fan_out))
        activation = (*batch, *kept, *new)
    return tuple(roles)


@dataclass(frozen=True, slots=True)
class Draft:
    """One meeting in terms of axes: rows[B, R, K] times weight[B, K, N], summed over K, gives result[B, R, N].

    The result is written with B outermost, as (B, R, N) or, feature-major, as (B, N, R).
    """

    role: FactorRole
    before: Axes
    """The activation's layout before the step."""
    batch: Axes
    rows: Axes
    contracted: Axes
    new: Axes
    is_feature_major: bool
    """Whether the result is stored as (B, N, R)."""
    grad_is_feature_major: bool = False
    """Whether the gradient of the activation is stored as (B, K, R)."""

    @property
    def after(self) -> Axes:
        """The layout of the result."""
        return (*self.batch, *((*self.new, *self.rows) if self.is_feature_major else (*self.rows, *self.new)))

    @property
    def own(self) -> Axes:
        """The batch axes that the factor has too; it is repeated along the others."""
        return tuple(axis for axis in self.batch if axis in self.role.batch)

    @property
    def grad_before(self) -> Axes:
        """The layout of the activation's gradient."""
        inner = (*self.contracted, *self.rows) if self.grad_is_feature_major else (*self.rows, *self.contracted)
        return (*self.batch, *inner)

    def extents(self, sizes: Mapping[str, int]) -> tuple[int, int, int, int]:
        """Sizes B, R, K and N of the product; B is 1 without a batch."""
        b, r, k, n = (product_of(axes, sizes) for axes in (self.batch, self.rows, self.contracted, self.new))
        return b, r, k, n


class Step:
    """A draft with the sizes of its axes, and what follows from them. Without batch indices, there is no B."""

    def __init__(self, draft: Draft, grad_after: Axes, sizes: Mapping[str, int]) -> None:
        """`grad_after` is the layout of the result's gradient; `sizes` are those for one token."""
        self.draft, self.grad_after, self._sizes = draft, grad_after, sizes
        self.factor, self.batch, self.is_batched = draft.role.factor, draft.batch, bool(draft.batch)
        self.weight_axes: Groups = (draft.own, draft.contracted, draft.new)
        """Carrier sets along B, K and N of the stored factor, without indices of size 1."""
        self.axes: Axes = (*draft.own, *draft.contracted, *draft.new)
        """Carrier sets of the stored factor, one after another."""
        b, k, n = (product_of(axes, sizes) for axes in self.weight_axes)
        self.weight_shape = b, k, n
        """Shape of the stored factor: B (its own part), K, N."""
        self.matrix_elements = k * n
        """Number of elements of one matrix of the factor."""
        self.is_along_tokens = TOKENS in draft.batch
        """Whether B is the tokens, along which the factor is repeated."""
        self.is_repeated = draft.own != draft.batch and not self.is_along_tokens
        """Whether the factor is repeated along other indices that only the activation has."""
        self.is_feature_major, self.grad_is_feature_major = draft.is_feature_major, draft.grad_is_feature_major
        # A single matrix is written with its longer side innermost: 0.8 to 1 of the time (Xeon, AVX-512).
        is_wide = not draft.batch and draft.before[-1] not in draft.rows and k > n
        self.weight_grad_is_swapped = grad_after[-1] in draft.rows or is_wide
        """Whether the gradient of the factor is summed as (B, N, K), which suits the operands' memory better."""
        self.macs_per_token = math.prod(self.extents(1))

    def sizes(self, tokens: int) -> dict[str, int]:
        """The sizes of all axes."""
        return {**self._sizes, TOKENS: tokens}

    def extents(self, tokens: int) -> tuple[int, int, int, int]:
        """Sizes B, R, K and N of the product; B is 1 without a batch."""
        return self.draft.extents(self.sizes(tokens))


def is_view(memory: Axes, groups: Groups) -> bool:
    """Whether batch, rows and a last group are each one run of the memory in its order, with no batch axis innermost."""
    if groups[0] and memory[-1] in groups[0]:
        return False
    for group in groups:
        at = [memory.index(axis) for axis in group]
        if at and at != list(range(at[0], at[0] + len(at))):
            return False
    return True


def product_of(axes: Axes, sizes: Mapping[str, int]) -> int:
    """The product of the sizes of some axes."""
    return math.prod([sizes[axis] for axis in axes])


class Plan:
    """How a layer computes; fixed when the layer is made.

    The input features are read as the axes `input_order`, the output features written as `output_order` (carrier sets,
    slowest first, without indices of size 1). All fixed orders are equally expressive; this one avoids copies.
    """

    def __init__(
        self,
        sized: SizedStructure,
        roles: tuple[FactorRole, ...],
        drafts: Sequence[Draft],
        end: Axes,
        sizes: Mapping[str, int],
        few_tokens: Plan | None,
    ) -> None:
        """The drafts lead from the input to the output, whose layout is `end`."""
        sizes = {**sizes, TOKENS: 1}  # so that products of sizes count features
        start = drafts[0].before
        self.sized, self.roles, self.drafts, self.start, self.end = sized, roles, tuple(drafts), start, end
        self.padded_in, self.padded_out = sized.padded_in, sized.padded_out
        self.input_order, self.output_order = (tuple(axis for axis in axes if axis != TOKENS) for axes in (start, end))
        grads_after = (*(later.grad_before for later in drafts[1:]), end)
        self.steps = tuple(Step(draft, grad, sizes) for draft, grad in zip(drafts, grads_after, strict=True))
        self.widths = tuple(product_of(axes, sizes) for axes in (start, *(draft.after for draft in drafts)))
        """Elements per token of the input, of every result, and finally of the output."""
        self.few_tokens = few_tokens
        """The plan over the same factors with every product token-major and no factor repeated; None if this is it."""
        sides = (math.sqrt(math.prod(step.weight_shape)) for step in self.steps)
        self.limits = tuple(role.init_std * side for role, side in zip(roles, sides, strict=True))
        """Norms of the factors at their rms caps."""
        self.repeats_factors = any(step.is_repeated for step in self.steps)
        self.params = sum(math.prod(step.weight_shape) for step in self.steps)
        """Number of elements of all weights."""
        self.is_dense = len(drafts) == 1 and self.steps[0].weight_shape == (1, self.padded_in, self.padded_out)
        """Whether the plan is the product with one matrix."""
        self.flops_per_token = 2 * sum(step.macs_per_token for step in self.steps)
        """2 × multiply-adds of one forward pass per token; scaling, rms and bias are not counted."""

    def at(self, tokens: int, limits: TokenMajor | None) -> Plan:
        """The plan for this many tokens, with the same factors in the same layout."""
        if self.few_tokens is None or limits is None or tokens > self._most_token_major(limits):
            return self
        return self.few_tokens

    def _most_token_major(self, limits: TokenMajor) -> int:
        widest = max(step.matrix_elements for step in self.steps)
        if widest >= limits.wide_elements:
            return limits.huge if widest >= limits.huge_elements else limits.wide
        repeated = (step.extents(1)[0] * step.matrix_elements for step in self.steps if step.is_repeated)
        return limits.repeated if max(repeated, default=0) > limits.repeated_elements else limits.usual
