"""The planner: all ways to multiply in a layer, and the fastest one for a number of tokens.

A plan lets groups of factors meet the activation one after another; the factors of a group are multiplied with each
other first. One group with all factors is the dense matrix (pre-merge, Wei et al. 2024, arXiv 2406.16450). A merged
layer keeps these products, so they are free; every other call pays for its own.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import permutations

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.plans.cost_model import (
    inference_bytes,
    inference_ns,
    merged_elements,
    merging_ns,
    training_bytes,
    training_ns,
)
from einsearch_cli.layers.plans.layout import plan_for
from einsearch_cli.layers.plans.machine_profile import MachineProfile
from einsearch_cli.layers.plans.merge_steps import merging_macs
from einsearch_cli.layers.plans.plan import Plan, factor_roles
from einsearch_cli.layers.plans.two_cores import is_fused
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.structures import FeatureOrder
from einsearch_cli.taxonomy import meeting_order

_MAX_GROUPED = 4
"""The most factors whose partitions are tried, 5 factors have 52; with more, only the sequence and the dense matrix."""
_TOKENS = tuple(sorted({round(2 ** (number / 2)) for number in range(41)}))
"""Numbers of tokens, up to a million, at which plans are compared."""


class Use(StrEnum):
    """The use of a call, which decides what it has to pay for."""

    inference = "inference"
    """A forward pass that multiplies the factors of a group itself."""
    merged = "merged"
    """A forward pass of a merged layer, which has these products already."""
    training = "training"
    """A forward and backward pass; both include the products of factors."""


@dataclass(frozen=True, slots=True)
class Route:
    """One plan of a layer, with its costs."""

    text: str
    """The route as text, such as `(xA)B`, or `x(AB)` if factors are multiplied first."""
    plan: Plan
    flops_per_token: int
    """FLOPs of the steps that hold the activation."""
    flops_per_merge: int
    """FLOPs of multiplying factors: in every call, or once for a merged layer."""

    @property
    def is_own(self) -> bool:
        """Whether the layer's factors meet the activation one after another, none multiplied with others first."""
        return all(len(step.factor) == 1 for step in self.plan.steps)

    @property
    def is_dense(self) -> bool:
        """Whether the route is a single matrix; with indices shared by X and Y, it is a batch of blocks instead."""
        return self.plan.is_dense


@dataclass(frozen=True, slots=True)
class Explanation:
    """The planner's figures for one route at a number of tokens."""

    text: str
    flops: int
    bytes: int
    intermediate_elements: int
    """Elements of the widest intermediate, for all tokens."""
    predicted_us: float
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class RouteTable:
    """The best route for every number of tokens."""

    starts: tuple[int, ...]
    routes: tuple[Route, ...]

    @property
    def dense_limit(self) -> float:
        """The number of tokens up to which the dense matrix is always best; 0 if it is not best for one token."""
        if not self.routes[0].is_dense:
            return 0
        return self.starts[1] - 1 if len(self.starts) > 1 else math.inf

    def at(self, tokens: int) -> Route:
        return self.routes[bisect_right(self.starts, tokens) - 1 if tokens else 0]


def stored_plan(sized: SizedStructure) -> Plan:
    """The plan that fixes the orders of features and in which layers store their factors.

    Raises:
        LayerError: if no layer can read the order of the sized structure.
    """
    if sized.order is not None and sized.order.is_split:
        raise LayerError(
            f"{sized.structure}: letters of one index of the equation, {sized.order}, do not stand side by side in the "
            "same order in input and output",
            remedy="write them next to each other, as one letter, and permute the features before or after the layer",
        )
    return plan_for(sized, meeting_order(sized), sized.order)


@lru_cache(maxsize=1024)
def routes(sized: SizedStructure) -> tuple[Route, ...]:
    """All plans of a layer that may be worth using, its own sequence of factors first.

    Plans that need more FLOPs per token than the dense matrix are left out.

    >>> from einsearch_cli.structures import parse_structure
    >>> [route.text for route in routes(parse_structure("tt:n=3,r=2").at(64, 64))]
    ['((xA)C)B', 'x(ABC)', '(xA)(BC)', '(xB)(AC)']
    """
    own = stored_plan(sized)
    features = FeatureOrder(own.input_order, own.output_order)
    found = [Route(_text(own), own, own.flops_per_token, 0)]
    dense_macs = sized.padded_in * sized.padded_out
    for groups in _partitions(sized.factors):
        if all(len(group) == 1 for group in groups):
            continue
        order = min(permutations(groups), key=lambda order: _macs_per_token(sized, order))
        if len(groups) > 1 and _macs_per_token(sized, order) >= dense_macs:
            continue
        plan = plan_for(sized, order, features)
        merge = 2 * sum(merging_macs(sized, step) for step in plan.steps)
        found.append(Route(_text(plan), plan, plan.flops_per_token, merge))
    return tuple(found)


def _macs_per_token(sized: SizedStructure, order: tuple[str, ...]) -> int:
    roles = factor_roles(sized, order)
    present = ((*role.batch, *role.contracted, *role.kept, *role.new) for role in roles)
    return sum(math.prod(sized.size(carriers) for carriers in axes) for axes in present)


def dense_route(sized: SizedStructure) -> Route | None:
    """The route that multiplies all factors into one matrix; None if X and Y share indices."""
    return next((route for route in routes(sized) if route.is_dense), None)


@lru_cache(maxsize=1024)
def route_table(sized: SizedStructure, profile: MachineProfile, use: Use) -> RouteTable:
    """The best route for every number of tokens, by the cost model."""
    found: list[tuple[int, Route]] = []
    for tokens in _TOKENS:
        best = best_route(sized, tokens, profile, use)
        if not found or best is not found[-1][1]:
            found.append((tokens, best))
    starts, chosen = zip(*found, strict=True)
    return RouteTable(starts, chosen)


def best_route(sized: SizedStructure, tokens: int, profile: MachineProfile, use: Use) -> Route:
    """The route predicted to be fastest, with a margin in favour of the dense matrix."""

    # Few tokens favour routes that read few weights, many tokens those with few FLOPs; routes that merge factors in the call
    # pay for that too. As predictions err, another route must be predicted to take less than `dense_margin`, 0.8 by
    # default, of the dense matrix's time.
    def weighed_ns(route: Route) -> float:
        return predicted_ns(sized, route, tokens, profile, use) * (profile.dense_margin if route.is_dense else 1.0)

    return min(routes(sized), key=weighed_ns)


def predicted_ns(sized: SizedStructure, route: Route, tokens: int, profile: MachineProfile, use: Use) -> float:
    """Nanoseconds of a forward pass, or in training of both passes, with the products of factors that a call must make."""
    if use is Use.merged:
        return inference_ns(route.plan, tokens, profile)
    passes_ns = training_ns if use is Use.training else inference_ns
    return passes_ns(route.plan, tokens, profile) + merging_ns(sized, route.plan, profile, use is Use.training)


def explain(sized: SizedStructure, tokens: int, profile: MachineProfile, use: Use) -> list[Explanation]:
    """Every route with its costs at this many tokens in the profile's dtype, fastest first."""
    passes, merges = {Use.inference: (1, 1), Use.merged: (1, 0), Use.training: (3, 3)}[use]
    chosen = best_route(sized, tokens, profile, use)

    def bytes_moved(plan: Plan) -> int:
        """Bytes moved by a call; without merging, it writes its products of factors first."""
        if use is Use.training:
            return training_bytes(plan, tokens, profile)
        return inference_bytes(plan, tokens, profile) + merges * profile.itemsize * merged_elements(plan)

    found = [
        Explanation(
            text=route.text,
            flops=tokens * route.flops_per_token * passes + route.flops_per_merge * merges,
            bytes=bytes_moved(route.plan),
            intermediate_elements=tokens
            * max(route.plan.widths[1:-1], default=0)
            * (not is_fused(route.plan, profile)),
            predicted_us=predicted_ns(sized, route, tokens, profile, use) / 1e3,
            is_chosen=route is chosen,
        )
        for route in routes(sized)
    ]
    return sorted(found, key=lambda item: item.predicted_us)


def _partitions(factors: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """All ways to put factors into groups, the single group of all factors first."""
    if len(factors) > _MAX_GROUPED:
        yield from (("".join(factors),), tuple(factors))
        return
    if not factors:
        yield ()
        return
    first, *rest = factors
    for groups in _partitions(rest):
        for number, group in enumerate(groups):
            yield (*groups[:number], first + group, *groups[number + 1 :])
        yield (first, *groups)


def _text(plan: Plan) -> str:
    text = "x"
    for step in plan.steps:
        text = text if text == "x" else f"({text})"
        text += step.factor if len(step.factor) == 1 else f"({step.factor})"
    return text
