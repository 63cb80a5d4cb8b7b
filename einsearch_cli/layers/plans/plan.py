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
from collections.abc import Sequence
from dataclasses import dataclass

from einsearch_cli.layers.plans.machine_profile import TokenMajor
from einsearch_cli.sizing import SizedStructure

TOKENS = "tokens"
"""Name of the token axis among the carrier sets of an intermediate."""


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


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A shape of which one entry is a multiple of the number of tokens."""

    sizes: tuple[int, ...]
    token_axis: int | None

    def at(self, tokens: int) -> tuple[int, ...]:
        """The shape for this many tokens.

        >>> Shape((4, 2, 8), token_axis=1).at(10)
        (4, 20, 8)
        """
        sizes, axis = self.sizes, self.token_axis
        return sizes if axis is None else (*sizes[:axis], sizes[axis] * tokens, *sizes[axis + 1 :])


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """How blocks are read from contiguous memory: view as `shape`, permute by `order`, reshape to `blocks`."""

    shape: Shape
    order: tuple[int, ...] | None
    """None if the axes are in order already."""
    blocks: Shape | None
    """None if the permuted axes are the blocks."""
    is_copy: bool
    """Whether no view serves a matrix product."""
    is_swapped: bool
    """Whether the last two blocks are to be exchanged after that, so that a copy moves longer runs."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One meeting: rows[B, R, K] times weight[B, K, N], over K, gives result[B, R, N].

    A batched product is written with B outermost, as (B, R, N) or, feature-major, as (B, N, R).
    Where no index is shared and kept there is no B: rows[R, K] times weight[K, N].
    """

    factor: str
    weight_axes: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    """Carrier sets along B, K and N of the stored factor; indices of size 1 are left out."""
    weight_shape: tuple[int, int, int]
    """Shape of the stored factor: B (its own part), K, N."""
    repeat_from: Shape | None
    """The batch of the factor with 1 where only the activation has the index; None if there is none."""
    repeat_to: Shape
    """The same axes in full."""
    rows: Reading
    """The activation as (B, R, K)."""
    result: Shape
    """B, R and N; R and N where there is no B."""
    is_feature_major: bool
    """Whether the result lies in memory as (B, N, R)."""
    grad: Reading
    """The gradient of the result as (B, R, N)."""
    grad_is_feature_major: bool
    """Whether the gradient of the activation is written as (B, K, R)."""
    weight_grad_is_swapped: bool
    """Whether the gradient of the factor is summed as (B, N, K), which suits the operands' memory better."""
    macs_per_token: int

    @property
    def axes(self) -> tuple[str, ...]:
        """Carrier sets of the stored factor, one after another."""
        return tuple(carriers for group in self.weight_axes for carriers in group)

    @property
    def is_batched(self) -> bool:
        """Whether there is a B."""
        return bool(self.repeat_to.sizes)

    @property
    def is_along_tokens(self) -> bool:
        """Whether B is the tokens, along which the factor is repeated."""
        return self.repeat_to.token_axis is not None

    @property
    def is_repeated(self) -> bool:
        """Whether the factor is repeated along other indices that only the activation has."""
        return self.repeat_from is not None and not self.is_along_tokens

    @property
    def matrix_elements(self) -> int:
        """Of one matrix of the factor."""
        return self.weight_shape[1] * self.weight_shape[2]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How a layer computes, fixed when it is made.

    The input features are read as the axes `input_order`, the output features
    written as `output_order` (carrier sets, slowest first, indices of size 1
    left out). Any fixed order is as expressive as another; this one spares copies.
    """

    sized: SizedStructure
    padded_in: int
    padded_out: int
    input_order: tuple[str, ...]
    output_order: tuple[str, ...]
    roles: tuple[FactorRole, ...]
    steps: tuple[Step, ...]
    write: Reading | None
    """From the last result to (tokens, output axes); None if it lies so already."""
    write_grad: Reading | None
    """From the gradient of the first rows to (tokens, input axes); None if it lies so already."""
    widths: tuple[int, ...]
    """Elements per token of the input, of every result, and of the output last."""
    few_tokens: Plan | None
    """The same with every product token-major and no factor repeated; None if this is it."""
    repeats_factors: bool
    """Whether some step's factor `is_repeated`."""

    def at(self, tokens: int, limits: TokenMajor | None) -> Plan:
        """The plan for this many tokens, which has the same factors in the same layout."""
        if self.few_tokens is None or limits is None or tokens > self._most_token_major(limits):
            return self
        return self.few_tokens

    def _most_token_major(self, limits: TokenMajor) -> int:
        widest = max(step.matrix_elements for step in self.steps)
        if widest >= limits.wide_elements:
            return limits.huge if widest >= limits.huge_elements else limits.wide
        repeated = (math.prod(step.repeat_to.sizes) * step.matrix_elements for step in self.steps if step.is_repeated)
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
