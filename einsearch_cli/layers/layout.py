"""Choice of memory orders: the plan that moves the fewest bytes.

A matrix product reads an operand as a view if each of its three axis groups
(batch, rows, contracted; see `plan`) lies in memory as one run and a rows or
contracted index is innermost. What is free is the order of the features, of
the indices inside each factor and of the blocks of every result, so a shortest
path over memory orders finds the plan with the fewest and longest-run copies.
Rows other than the tokens may also be read as batch: the factor is then
repeated along them (stride 0) instead of the activation being moved.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, permutations

from einsearch_cli.layers.plan import TOKENS, FactorRole, Plan, Rearrangement, Shape, Step, factor_roles
from einsearch_cli.structures import SizedStructure

_NOMINAL_TOKENS = 1024
"""Tokens per call for which the layout is chosen; the result is right for any number."""
_SHORT_RUN = 16
"""Elements below which a strided access costs more than the element itself (a cache line of float32)."""
_MAX_ORDERS = 24
"""Orders of a group that are tried; more arise only with three factors and many indices."""
_BEAM = 256
"""Memory orders that are kept after each step."""

Memory = tuple[str, ...]
"""Axes of a contiguous intermediate, slowest first; indices of size 1 are left out."""
_B, _R, _K, _N = "B", "R", "K", "N"


@dataclass(frozen=True, slots=True)
class _Reading:
    """The activation as three blocks, and whether it has to be copied to be so."""

    blocks: tuple[tuple[str, Memory], ...]
    is_copy: bool
    repeated: tuple[str, ...]

    def axes(self, label: str) -> Memory:
        return dict(self.blocks)[label]


@dataclass(frozen=True, slots=True)
class _Draft:
    """One step in terms of axes, before it is turned into shapes."""

    role: FactorRole
    before: Memory
    reading: _Reading
    new: Memory
    result: tuple[str, ...]

    @property
    def after(self) -> Memory:
        axes = {_B: self.reading.axes(_B), _R: self.reading.axes(_R), _N: self.new}
        return tuple(axis for label in self.result for axis in axes[label])


@dataclass(frozen=True, slots=True)
class _Path:
    cost: float
    start: Memory
    drafts: tuple[_Draft, ...]


@lru_cache(maxsize=1024)
def plan_for(sized: SizedStructure, order: tuple[str, ...]) -> Plan:
    """The plan for factors that meet the activation in this order.

    >>> from einsearch_cli.structures import parse_structure
    >>> plan = plan_for(parse_structure("btt:r=2").at(64, 64), ("A", "B"))
    >>> plan.input_order, plan.output_order, plan.scatter
    (('XAB', 'XA'), ('YAB', 'YB'), None)
    >>> plan.flops_per_token
    4096
    """
    roles = factor_roles(sized, order)
    sizes = {carriers: size for carriers, size in sized.sizes if size > 1}
    sizes[TOKENS] = _NOMINAL_TOKENS
    path = _cheapest_path(roles, sizes)
    last = path.drafts[-1].after
    output_order = tuple(axis for axis in last if axis != TOKENS)
    return Plan(
        padded_in=sized.padded_in,
        padded_out=sized.padded_out,
        input_order=path.start[1:],
        output_order=output_order,
        roles=roles,
        steps=tuple(_lower(draft, sizes) for draft in path.drafts),
        scatter=_rearrangement(last, (TOKENS, *output_order), sizes),
    )


def _cheapest_path(roles: Sequence[FactorRole], sizes: Mapping[str, int]) -> _Path:
    paths = {start: _Path(0.0, start, ()) for start in _input_orders(roles[0], sizes)}
    for role in roles:
        found: dict[Memory, _Path] = {}
        for memory, path in paths.items():
            for draft in _drafts(memory, role, sizes):
                cost = path.cost + _cost(draft, sizes)
                if draft.after not in found or cost < found[draft.after].cost:
                    found[draft.after] = _Path(cost, path.start, (*path.drafts, draft))
        paths = dict(sorted(found.items(), key=lambda item: item[1].cost)[:_BEAM])
    return min(paths.values(), key=lambda path: path.cost + _scatter_cost(path.drafts[-1].after, sizes))


def _input_orders(role: FactorRole, sizes: Mapping[str, int]) -> Iterator[Memory]:
    """Orders of the input features that the first step reads as a view."""
    kept, batch, contracted = (_live(axes, sizes) for axes in (role.kept, role.batch, role.contracted))
    for outer in _orders(kept):
        for inner in _orders(batch):
            yield (TOKENS, *outer, *inner, *contracted)
    for mixed in _orders((*kept, *batch)):
        yield (TOKENS, *mixed, *contracted)


def _drafts(memory: Memory, role: FactorRole, sizes: Mapping[str, int]) -> Iterator[_Draft]:
    for reading in _readings(memory, role, sizes):
        for new in _orders(_live(role.new, sizes)):
            for result in permutations((_B, _R, _N)):
                if result[-1] != _B or not reading.axes(_B):
                    yield _Draft(role, memory, reading, new, result)


def _readings(memory: Memory, role: FactorRole, sizes: Mapping[str, int]) -> Iterator[_Reading]:
    """The ways to read the activation: as views, or as copies where that cannot be."""
    kept = _live(role.kept, sizes)
    for repeated in ((), kept) if kept else ((),):
        label_of = dict.fromkeys(role.batch, _B) | dict.fromkeys(role.contracted, _K)
        label_of |= dict.fromkeys(kept, _R) | dict.fromkeys(repeated, _B) | {TOKENS: _R}
        groups = {label: tuple(a for a in memory if label_of[a] == label) for label in (_B, _R, _K)}
        runs = _runs([label_of[axis] for axis in memory])
        if runs is not None and (runs[-1] != _B or not groups[_K]):
            missing = tuple(label for label in (_B, _R, _K) if label not in runs)
            ordered = (*missing, *runs) if runs[-1] != _B else (*runs, *missing)
            yield _Reading(tuple((label, groups[label]) for label in ordered), False, repeated)
            continue
        for ordered in ((_B, _R, _K), (_R, _B, _K), (_K, _B, _R), (_B, _K, _R)):
            yield _Reading(tuple((label, groups[label]) for label in ordered), True, repeated)


def _runs(labels: Sequence[str]) -> list[str] | None:
    """The labels in the order of their runs, None if one of them has two runs."""
    runs = [label for at, label in enumerate(labels) if at == 0 or labels[at - 1] != label]
    return runs if len(runs) == len(set(runs)) else None


def _cost(draft: _Draft, sizes: Mapping[str, int]) -> float:
    """Elements moved beyond what the bare matrix product moves."""
    reading, numel = draft.reading, _product(draft.before, sizes)
    batch, rows, new = (_product(axes, sizes) for axes in (reading.axes(_B), reading.axes(_R), draft.new))
    contracted = _product(reading.axes(_K), sizes)
    cost = 0.0
    if reading.is_copy:
        target = tuple(axis for _, axes in reading.blocks for axis in axes)
        cost += 2 * numel * (1 + _SHORT_RUN / _common_run(draft.before, target, sizes))
    if reading.repeated:
        cost += 2.0 * batch * new * contracted
    read = [label for label, _ in reading.blocks]
    if batch > 1 and read.index(_B) == 1:
        cost += 0.1 * numel * _SHORT_RUN / (rows if read[-1] == _R else contracted)
    if batch > 1 and draft.result[1] == _B:
        cost += batch * rows * new * _SHORT_RUN / (rows if draft.result[-1] == _R else new)
    return cost


def _scatter_cost(last: Memory, sizes: Mapping[str, int]) -> float:
    if last[0] == TOKENS:
        return 0.0
    target = (TOKENS, *(axis for axis in last if axis != TOKENS))
    return 2 * _product(last, sizes) * (1 + _SHORT_RUN / _common_run(last, target, sizes))


def _common_run(source: Memory, target: Memory, sizes: Mapping[str, int]) -> int:
    """Length of the contiguous runs that a copy from one order to the other moves."""
    run = 1
    for a, b in zip(reversed(source), reversed(target), strict=True):
        if a != b:
            break
        run *= sizes[a]
    return run


def _lower(draft: _Draft, sizes: Mapping[str, int]) -> Step:
    reading, role = draft.reading, draft.role
    labels = [label for label, _ in reading.blocks]
    target = tuple(axis for _, axes in reading.blocks for axis in axes)
    full_batch = reading.axes(_B)
    own_batch = tuple(axis for axis in full_batch if axis in role.batch)
    contracted = reading.axes(_K)
    # Where the token axis is left at 1, a product of sizes is that of the features.
    static = {**sizes, TOKENS: 1}
    repeats = bool(reading.repeated)
    weight_shape = (_product(own_batch, static), _product(draft.new, static), _product(contracted, static))
    return Step(
        factor=role.factor,
        weight_axes=(own_batch, draft.new, contracted),
        weight_shape=weight_shape,
        repeat_from=tuple(static[a] if a in own_batch else 1 for a in full_batch) if repeats else (),
        repeat_to=tuple(static[a] for a in full_batch) if repeats else (),
        gather=_rearrangement(draft.before, target, sizes) if reading.is_copy else None,
        blocks=Shape(tuple(_product(axes, static) for _, axes in reading.blocks), labels.index(_R)),
        to_rows=(labels.index(_B), labels.index(_R), labels.index(_K)),
        result_order=_positions(draft.result, (_B, _R, _N)),
        macs_per_token=_product((*full_batch, *reading.axes(_R), *contracted, *draft.new), static),
    )


def _rearrangement(source: Memory, target: Memory, sizes: Mapping[str, int]) -> Rearrangement | None:
    if source == target:
        return None
    shape = Shape(tuple(1 if axis == TOKENS else sizes[axis] for axis in source), source.index(TOKENS))
    return Rearrangement(shape, tuple(source.index(axis) for axis in target))


def _positions(wanted: Sequence[str], among: Sequence[str]) -> tuple[int, int, int]:
    first, second, third = (among.index(label) for label in wanted)
    return first, second, third


def _live(axes: Sequence[str], sizes: Mapping[str, int]) -> Memory:
    return tuple(axis for axis in axes if axis in sizes)


def _orders(axes: Sequence[str]) -> list[Memory]:
    return list(islice(permutations(axes), _MAX_ORDERS))


def _product(axes: Sequence[str], sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[axis] for axis in axes)
