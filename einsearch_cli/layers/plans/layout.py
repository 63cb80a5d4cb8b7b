"""Choice of memory orders: the plan with the cheapest passes over memory.

A batched matrix product is fast under three conditions (axis groups: batch, rows, contracted; see `plan`). Each group
of an operand's axes is one run of memory, the innermost axis is not a batch axis, and the result is written with its
batch outermost. The free choices are the order of the features, the order of the indices inside each factor, and
whether a result has its features or its tokens innermost; a shortest path over memory orders finds the cheapest plan.
Rows other than the tokens may also be read as batch, with the factor repeated along them (stride 0), and so may the
tokens themselves if the factor shares no index with what stays.

Costs choose between layouts of the same arithmetic, so only their ratios matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, permutations, product
from typing import Final

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU
from einsearch_cli.layers.plans.plan import TOKENS, Axes, Draft, FactorRole, Plan, factor_roles, is_view, product_of
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.structures import FeatureOrder

_MAX_ORDERS = 24
"""The most orders of a group that are tried; more arise only with three factors and many indices."""
_BEAM = 128
"""Number of memory orders that are kept after each step."""
_FINALISTS = 24
"""Number of forward plans whose backward pass is costed too."""
_COSTS: Final = DEFAULT_CPU.layout
"""Costs for every machine, since they determine the order in which factors and features are stored."""


@dataclass(frozen=True, slots=True)
class _Path:
    cost_ns: float
    drafts: tuple[Draft, ...]
    end: Axes


@lru_cache(maxsize=1024)
def plan_for(sized: SizedStructure, order: tuple[str, ...], features: FeatureOrder | None = None) -> Plan:
    """The plan for factors, or products of factors, that meet the activation in this order.

    `features` fixes the orders of the input and output axes, and optionally those of stored factors, which are
    otherwise free.

    Raises:
        LayerError: if no plan stores its factors in this way.

    >>> from einsearch_cli.structures import parse_structure
    >>> plan = plan_for(parse_structure("btt:r=1").at(64, 64), ("A", "B"))
    >>> plan.input_order, plan.output_order
    (('XAB', 'XA'), ('YAB', 'YB'))
    >>> plan.steps[0].is_feature_major, plan.steps[1].is_feature_major
    (True, False)
    >>> plan.flops_per_token
    2048
    """
    roles = factor_roles(sized, order)
    sizes = {carriers: size for carriers, size in sized.sizes if size > 1}
    sizes[TOKENS] = _COSTS.tokens
    starts = _input_orders(roles[0], sizes) if features is None else [(TOKENS, *features.inputs)]
    end = None if features is None else (TOKENS, *features.outputs)
    stored = dict(zip(sized.factors, features.factors, strict=True)) if features and features.factors else {}
    paths = sorted(_forward_paths(roles, sizes, starts, end, stored), key=lambda path: path.cost_ns)
    if not paths:
        raise LayerError(
            f"order {str(features)[:200]!r}: factors that meet the input as {', '.join(order)} are not stored so",
            remedy="leave the axes of the factors out, which leaves them to the layer",
        )
    best = min((_with_gradients(path, sizes) for path in paths[:_FINALISTS]), key=lambda path: path.cost_ns)
    drafts = _plain_gradients(best.drafts, sizes)
    of_few = _token_major(drafts)
    few_tokens = None if of_few == drafts else Plan(sized, roles, of_few, best.end, sizes, None)
    return Plan(sized, roles, drafts, best.end, sizes, few_tokens)


def _forward_paths(
    roles: Sequence[FactorRole],
    sizes: Mapping[str, int],
    starts: Iterable[Axes],
    end: Axes | None,
    stored: Mapping[str, Axes],
) -> Iterator[_Path]:
    # A shortest path: a node is a memory order of the activation after a step, an edge a layout of the step's product. Only
    # the cheapest path to each memory order can be part of the best plan. Of the memory orders after a step, the 128
    # cheapest are followed, so that layers with many indices are planned in bounded time.
    paths = {start: _Path(0.0, (), ()) for start in starts}
    for role in roles:
        found: dict[Axes, _Path] = {}
        for memory, path in paths.items():
            for draft in _drafts(memory, role, sizes):
                axes = (*draft.own, *draft.contracted, *draft.new)
                total_ns = path.cost_ns + _forward_ns(draft, sizes)
                is_stored_so = stored.get(role.factor, axes) == axes
                if is_stored_so and (draft.after not in found or total_ns < found[draft.after].cost_ns):
                    found[draft.after] = _Path(total_ns, (*path.drafts, draft), ())
        paths = dict(sorted(found.items(), key=lambda item: item[1].cost_ns)[:_BEAM])
    for last, path in paths.items():
        wanted = end or (TOKENS, *(axis for axis in last if axis != TOKENS))
        yield _Path(path.cost_ns + _copy_ns(last, wanted, sizes), path.drafts, wanted)


def _with_gradients(path: _Path, sizes: Mapping[str, int]) -> _Path:
    """The path with the cheapest memory orders of the gradients, with their cost added."""
    choices = (
        tuple(replace(draft, grad_is_feature_major=major) for draft, major in zip(path.drafts, majors, strict=True))
        for majors in product((False, True), repeat=len(path.drafts))
    )
    costs = [(_backward_ns(drafts, path.end, sizes), drafts) for drafts in choices]
    backward_ns, drafts = min(costs, key=lambda item: item[0])
    return _Path(path.cost_ns + backward_ns, drafts, path.end)


def _plain_gradients(drafts: Sequence[Draft], sizes: Mapping[str, int]) -> list[Draft]:
    """Between two plain matrices, store the gradient like the tokens if its rows are aligned; both ways are views.

    For 4,096 tokens, the products backward from the result of low-rank's first factor take these parts of the time:

    width 1024   width 2048
    AVX-512      0.76         0.88
    AVX2         0.92         1.02

    On a GPU, unaligned rows of 90 half-precision elements make a step of width 8192 a third slower.
    """
    found, is_after_plain = [], True
    for draft in drafts:
        is_plain = draft.rows == (TOKENS,) and not draft.batch and product_of(draft.contracted, sizes) % 8 == 0
        is_feature_major = draft.grad_is_feature_major and not (is_plain and is_after_plain)
        found.append(replace(draft, grad_is_feature_major=is_feature_major))
        is_after_plain = is_plain
    return found


def _token_major(drafts: Sequence[Draft]) -> list[Draft]:
    """The steps with all results and gradients token-major and no factor repeated; the stored layout stays the same."""
    memory, found = drafts[0].before, []
    for draft in drafts:
        batch = tuple(axis for axis in draft.batch if axis in (*draft.role.batch, TOKENS))
        rows = tuple(axis for axis in memory if axis not in (*batch, *draft.contracted))
        found.append(Draft(draft.role, memory, batch, rows, draft.contracted, draft.new, is_feature_major=False))
        memory = found[-1].after
    return found


def _input_orders(role: FactorRole, sizes: Mapping[str, int]) -> Iterator[Axes]:
    """Orders of the input features that the first step can read as a view."""
    kept, batch, contracted = (_live(axes, sizes) for axes in (role.kept, role.batch, role.contracted))
    for outer, inner in product(_orders(kept), _orders(batch)):
        yield (TOKENS, *outer, *inner, *contracted)
    for mixed in _orders((*kept, *batch)):
        yield (TOKENS, *mixed, *contracted)


def _drafts(memory: Axes, role: FactorRole, sizes: Mapping[str, int]) -> Iterator[Draft]:
    # A draft decides which axes are batch, in which order the factor's new indices lie, and how the result is written. Shared
    # indices must be batch. Rows other than the tokens may be batch too, with the factor repeated along them (stride 0);
    # without shared indices, even the tokens may be.
    kept, shared = _live(role.kept, sizes), _live(role.batch, sizes)
    contracted = tuple(axis for axis in memory if axis in role.contracted)
    choices = [shared, (*shared, *kept)] if kept else [shared]
    if not shared:
        choices.append((TOKENS,))
    for labels in choices:
        batch = tuple(axis for axis in memory if axis in labels)
        rows = tuple(axis for axis in memory if axis not in labels and axis not in contracted)
        for new, is_feature_major in product(_orders(_live(role.new, sizes)), (False, True)):
            yield Draft(role, memory, batch, rows, contracted, new, is_feature_major)


def _forward_ns(draft: Draft, sizes: Mapping[str, int]) -> float:
    b, r, k, n = draft.extents(sizes)
    total_ns = _read_ns(draft.before, draft.batch, draft.rows, draft.contracted, sizes)
    total_ns += _product_ns(b, r, k, n, draft.before[-1] in draft.rows, draft.is_feature_major)
    if not set(draft.batch) <= set(draft.role.batch):
        # The factor is copied for its repetitions, once forward and twice backward; along the tokens it is not, but its
        # gradient is summed over them.
        total_ns += (1.0 if TOKENS in draft.batch else 3.0) * b * k * n * _COSTS.copy_ns
    return total_ns


def _backward_ns(drafts: Sequence[Draft], end: Axes, sizes: Mapping[str, int]) -> float:
    total_ns, memory = 0.0, end
    for draft in reversed(drafts):
        b, r, k, n = draft.extents(sizes)
        rows_inside, grad_rows_inside = draft.before[-1] in draft.rows, memory[-1] in draft.rows
        total_ns += _read_ns(memory, draft.batch, draft.rows, draft.new, sizes)
        total_ns += _product_ns(b, r, n, k, grad_rows_inside, draft.grad_is_feature_major)
        # The gradient of a factor is contracted over R, which is fastest if exactly one operand has R innermost.
        factor = {2: 1.45, 1: 1.0, 0: 1.2}[rows_inside + grad_rows_inside]
        total_ns += b * r * k * n * _COSTS.mac_ns * factor * _narrowness(k, n)
        memory = draft.grad_before
    return total_ns + _copy_ns(memory, drafts[0].before, sizes)


def _copy_ns(source: Axes, target: Axes, sizes: Mapping[str, int]) -> float:
    """The cost of rearranging an activation from `source` into `target`; zero if nothing moves."""
    if source == target:
        return 0.0
    run = 1
    for a, b in zip(reversed(source), reversed(target), strict=True):
        if a != b:
            break
        run *= sizes[a]
    return product_of(source, sizes) * min(_COSTS.transpose_ns, _COSTS.copy_ns + _COSTS.run_ns / run)


def _read_ns(memory: Axes, batch: Axes, rows: Axes, contracted: Axes, sizes: Mapping[str, int]) -> float:
    """The cost of reading batch, rows and contracted axes for a product: free as a view, else a copy."""
    if is_view(memory, (batch, rows, contracted)):
        return 0.0
    inner = (*contracted, *rows) if memory[-1] in rows else (*rows, *contracted)
    return _copy_ns(memory, (*batch, *inner), sizes)


def _product_ns(b: int, r: int, k: int, n: int, rows_inside: bool, feature_major: bool) -> float:
    """The cost of one batched product of (B, R, K) and (B, K, N).

    Compared with contiguous operands, for 32 × 32 matrices and 120 to 256 tokens: strided rows cost 10–30%, and results
    with features innermost from rows with tokens innermost 12%.
    """
    factor = 1.0
    if rows_inside:
        factor += 0.05 if feature_major else 0.12
    elif b > 1:
        factor += 0.15 if feature_major else 0.3
    return b * r * k * n * _COSTS.mac_ns * factor * _narrowness(k, n)


def _narrowness(k: int, n: int) -> float:
    return math.sqrt(max(1.0, _COSTS.small / min(k, n)))


def _live(axes: Sequence[str], sizes: Mapping[str, int]) -> Axes:
    return tuple(axis for axis in axes if axis in sizes)


def _orders(axes: Sequence[str]) -> list[Axes]:
    return list(islice(permutations(axes), _MAX_ORDERS))
