"""Choice of memory orders: the plan whose passes over memory cost the least.

A batched matrix product is fast when each operand's three axis groups (batch,
rows, contracted; see `plan`) lie in memory as one run each, the innermost axis
is not a batch one, and the result is written with its batch outermost. What is
free is the order of the features, of the indices inside each factor, and
whether a result has its features or its tokens innermost; a shortest path over
memory orders finds the cheapest plan. Rows other than the tokens may also be
read as batch, the factor repeated along them (stride 0); so may the tokens
themselves where the factor shares no index with what stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, permutations, product

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.plans import layout_cost as cost
from einsearch_cli.layers.plans.plan import TOKENS, Axes, Draft, FactorRole, Plan, factor_roles, innermost
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.structures import FeatureOrder

_MAX_ORDERS = 24
"""Orders of a group that are tried; more arise only with three factors and many indices."""
_BEAM = 128
"""Memory orders that are kept after each step."""
_FINALISTS = 24
"""Forward plans whose backward pass is costed too."""


@dataclass(frozen=True, slots=True)
class _Path:
    cost_ns: float
    start: Axes
    drafts: tuple[Draft, ...]
    end: Axes


@lru_cache(maxsize=1024)
def plan_for(
    sized: SizedStructure,
    order: tuple[str, ...],
    features: FeatureOrder | None = None,
) -> Plan:
    """The plan for factors, or groups of factors multiplied before, that meet the activation in this order.

    `features` fixes the orders of the input and output axes, and perhaps of those of stored factors, which are
    chosen freely else.

    Raises:
        LayerError: if no plan stores its factors so.

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
    sizes[TOKENS] = cost.COSTS.tokens
    starts = _input_orders(roles[0], sizes) if features is None else [(TOKENS, *features.inputs)]
    end = None if features is None else (TOKENS, *features.outputs)
    stored = dict(zip(sized.factors, features.factors, strict=True)) if features and features.factors else {}
    paths = sorted(_forward_paths(roles, sizes, starts, end, stored), key=lambda path: path.cost_ns)
    if not paths:
        raise LayerError(
            f"order {str(features)[:200]!r}: factors that meet the input as {', '.join(order)} are not stored so",
            remedy="leave the axes of the factors out, which leaves them to the layer",
        )
    both = (_with_gradients(path, sizes) for path in paths[:_FINALISTS])
    best = min(both, key=lambda path: path.cost_ns)
    drafts = _plain_gradients(best.drafts, sizes)
    of_few = _token_major(drafts)
    few_tokens = None if of_few == drafts else Plan(sized, roles, of_few, best.start, best.end, sizes, None)
    return Plan(sized, roles, drafts, best.start, best.end, sizes, few_tokens)


def _forward_paths(
    roles: Sequence[FactorRole],
    sizes: Mapping[str, int],
    starts: Iterable[Axes],
    end: Axes | None,
    stored: Mapping[str, Axes],
) -> Iterator[_Path]:
    paths = {start: _Path(0.0, start, (), ()) for start in starts}
    for role in roles:
        found: dict[Axes, _Path] = {}
        for memory, path in paths.items():
            for draft in _drafts(memory, role, sizes):
                if stored.get(role.factor, draft.stored) != draft.stored:
                    continue
                total_ns = path.cost_ns + _forward_ns(draft, sizes)
                if draft.after not in found or total_ns < found[draft.after].cost_ns:
                    found[draft.after] = _Path(total_ns, path.start, (*path.drafts, draft), ())
        paths = dict(sorted(found.items(), key=lambda item: item[1].cost_ns)[:_BEAM])
    for last, path in paths.items():
        wanted = end or (TOKENS, *(axis for axis in last if axis != TOKENS))
        yield _Path(path.cost_ns + cost.copy_ns(last, wanted, sizes), path.start, path.drafts, wanted)


def _with_gradients(path: _Path, sizes: Mapping[str, int]) -> _Path:
    """The path with the cheapest memory orders of the gradients, their cost added."""
    best: tuple[float, tuple[Draft, ...]] | None = None
    for choice in product((False, True), repeat=len(path.drafts)):
        drafts = tuple(
            Draft(d.role, d.before, d.batch, d.rows, d.contracted, d.new, d.is_feature_major, major)
            for d, major in zip(path.drafts, choice, strict=True)
        )
        total_ns = _backward_ns(path, drafts, sizes)
        if best is None or total_ns < best[0]:
            best = total_ns, drafts
    assert best is not None
    return _Path(path.cost_ns + best[0], path.start, best[1], path.end)


def _plain_gradients(drafts: Sequence[Draft], sizes: Mapping[str, int]) -> list[Draft]:
    """Between two plain matrices the gradient lies as the tokens do, if its rows are aligned; both ways are views.

    For 4,096 tokens, the products backward from the result of low-rank's first factor take 0.76 of the time at width 1024
    and 0.88 at 2048 (Xeon, AVX-512); with AVX2 0.92 and 1.02. On a GPU rows of 90 elements of half precision, which begin
    anywhere, make a step of width 8192 a third slower.
    """
    are_plain = [
        draft.rows == (TOKENS,) and not draft.batch and math.prod(sizes[axis] for axis in draft.contracted) % 8 == 0
        for draft in drafts
    ]
    after_plain = [True, *are_plain]
    return [
        replace(draft, grad_is_feature_major=draft.grad_is_feature_major and not (plain and before))
        for draft, plain, before in zip(drafts, are_plain, after_plain, strict=False)
    ]


def _token_major(drafts: Sequence[Draft]) -> list[Draft]:
    """The same steps with all results and gradients token-major and no factor repeated; they are stored as they were."""
    memory, found = drafts[0].before, []
    for draft in drafts:
        batch = tuple(axis for axis in draft.batch if axis in (*draft.role.batch, TOKENS))
        rows = tuple(axis for axis in memory if axis not in (*batch, *draft.contracted))
        found.append(Draft(draft.role, memory, batch, rows, draft.contracted, draft.new, is_feature_major=False))
        memory = found[-1].after
    return found


def _input_orders(role: FactorRole, sizes: Mapping[str, int]) -> Iterator[Axes]:
    """Orders of the input features that the first step reads as a view."""
    kept, batch, contracted = (_live(axes, sizes) for axes in (role.kept, role.batch, role.contracted))
    for outer in _orders(kept):
        for inner in _orders(batch):
            yield (TOKENS, *outer, *inner, *contracted)
    for mixed in _orders((*kept, *batch)):
        yield (TOKENS, *mixed, *contracted)


def _drafts(memory: Axes, role: FactorRole, sizes: Mapping[str, int]) -> Iterator[Draft]:
    kept, shared = _live(role.kept, sizes), _live(role.batch, sizes)
    contracted = tuple(axis for axis in memory if axis in role.contracted)
    choices = [shared, (*shared, *kept)] if kept else [shared]
    if not shared:
        choices.append((TOKENS,))
    for labels in choices:
        batch = tuple(axis for axis in memory if axis in labels)
        rows = tuple(axis for axis in memory if axis not in labels and axis not in contracted)
        for new in _orders(_live(role.new, sizes)):
            for is_feature_major in (False, True):
                yield Draft(role, memory, batch, rows, contracted, new, is_feature_major)


def _forward_ns(draft: Draft, sizes: Mapping[str, int]) -> float:
    b, r, k, n = _extents(draft, sizes)
    rows_inside = innermost(draft.before, draft.rows)
    return (
        cost.read_ns(draft.before, (draft.batch, draft.rows, draft.contracted), sizes)
        + cost.product_ns(b, r, k, n, rows_inside, draft.is_feature_major)
        + cost.repeat_ns(draft.role, draft.batch, b * k * n)
    )


def _backward_ns(path: _Path, drafts: Sequence[Draft], sizes: Mapping[str, int]) -> float:
    total_ns = 0.0
    memory = path.end
    for draft in reversed(drafts):
        total_ns += cost.read_ns(memory, (draft.batch, draft.rows, draft.new), sizes)
        b, r, k, n = _extents(draft, sizes)
        grad_rows_inside = innermost(memory, draft.rows)
        total_ns += cost.product_ns(b, r, n, k, grad_rows_inside, draft.grad_is_feature_major)
        total_ns += cost.weight_grad_ns(b, r, k, n, innermost(draft.before, draft.rows), grad_rows_inside)
        memory = draft.grad_before
    return total_ns + cost.copy_ns(memory, path.start, sizes)


def _extents(draft: Draft, sizes: Mapping[str, int]) -> tuple[int, int, int, int]:
    groups = (draft.batch, draft.rows, draft.contracted, draft.new)
    b, r, k, n = (math.prod(sizes[axis] for axis in group) for group in groups)
    return b, r, k, n


def _live(axes: Sequence[str], sizes: Mapping[str, int]) -> Axes:
    return tuple(axis for axis in axes if axis in sizes)


def _orders(axes: Sequence[str]) -> list[Axes]:
    return list(islice(permutations(axes), _MAX_ORDERS))
