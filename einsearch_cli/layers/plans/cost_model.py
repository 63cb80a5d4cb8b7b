"""Predicted time of a plan: arithmetic, weights read, copies and calls.

The model is deliberately coarse: it chooses between plans of one layer, whose costs usually differ severalfold. The
constants are a `MachineProfile`.
"""

from __future__ import annotations

import math
from itertools import pairwise

from einsearch_cli.layers.plans.chunking import chunks, kept_steps
from einsearch_cli.layers.plans.machine_profile import MachineProfile
from einsearch_cli.layers.plans.merge_steps import merging_macs
from einsearch_cli.layers.plans.operands import ANY_TOKENS, Copy, plan_operands
from einsearch_cli.layers.plans.plan import Plan, Step
from einsearch_cli.layers.plans.two_cores import is_fused
from einsearch_cli.sizing import SizedStructure

_MERGE_STEPS, _TRAINED_MERGE_STEPS = 25, 60
"""The cost of a product of two factors in steps, in a call without gradients and with torch's autograd."""
_FORM_STEPS, _TRAINED_FORM_STEPS = 3, 8
"""The cost of a product in steps when a CPU forms one matrix (`execution.forming`)."""
_MERGE_PASSES, _FORM_PASSES = 4, 6
"""Number of passes over a product in a training step."""


def inference_ns(plan: Plan, tokens: int, profile: MachineProfile) -> float:
    """Nanoseconds of one forward pass, without the cost of merging factors."""
    plan = plan.at(tokens, profile.token_major)
    if is_fused(plan, profile):  # bound by memory
        moved_ns = tokens * (plan.padded_in + plan.padded_out) * profile.memory_weight_ns
        return profile.layer_ns + profile.step_ns + moved_ns
    calls_ns = len(chunks(plan, tokens, profile.chunks)) * len(plan.steps) * profile.step_ns
    # The merged plan of one step has its own code path, as short as that of `nn.Linear`.
    layer_ns = 0.0 if plan.is_dense else profile.layer_ns
    products_ns = sum(_product_ns(step, tokens, profile) for step in plan.steps)
    return layer_ns + calls_ns + products_ns + _copies_ns(_copies(plan, profile)[0], tokens, profile)


def training_ns(plan: Plan, tokens: int, profile: MachineProfile) -> float:
    """Nanoseconds of a forward and backward pass with merged factors: three products per step, and recomputed results."""
    plan = plan.at(tokens, profile.token_major)
    total = 3 * inference_ns(plan, tokens, profile)
    if is_fused(plan, profile):
        return total
    kept = kept_steps(plan, tokens, profile.chunks)
    total += sum(_product_ns(step, tokens, profile) for step, keeps in zip(plan.steps, kept, strict=False) if not keeps)
    return total + _copies_ns(_copies(plan, profile)[1], tokens, profile)


def merging_ns(sized: SizedStructure, plan: Plan, profile: MachineProfile, is_training: bool) -> float:
    """Nanoseconds to multiply the factors of every group in a call; training also needs two gradients per product."""
    is_formed = plan.is_dense and profile.is_cpu
    calls, passes = (_FORM_STEPS if is_formed else _MERGE_STEPS), 1
    if is_training:
        calls, passes = (_TRAINED_FORM_STEPS, _FORM_PASSES) if is_formed else (_TRAINED_MERGE_STEPS, _MERGE_PASSES)
    total = 0.0
    for step in plan.steps:
        if len(step.factor) > 1:
            elements, products = math.prod(step.weight_shape), len(step.factor) - 1
            pass_ns = merging_macs(sized, step) * profile.mac_ns_at(16) + 2 * elements * _memory_ns(elements, profile)
            total += passes * pass_ns + calls * products * profile.step_ns
    return total


def inference_bytes(plan: Plan, tokens: int, profile: MachineProfile) -> int:
    """Bytes of a forward pass to and from memory or cache: weights, input, every intermediate twice, output, copies."""
    plan = plan.at(tokens, profile.token_major)
    first, *between, last = plan.widths
    moved = first + last
    if not is_fused(plan, profile):
        moved += 2 * sum(between) + 2 * sum(map(_elements, _copies(plan, profile)[0]))
    return profile.itemsize * (plan.params + tokens * moved)


def training_bytes(plan: Plan, tokens: int, profile: MachineProfile) -> int:
    """Bytes of a forward and a backward pass, with merged factors and their gradients.

    In the backward pass, every step reads its weights, its rows and twice the gradient of its result, and writes the
    gradients of its weights and rows. Recomputed results are read and written once more.
    """
    plan = plan.at(tokens, profile.token_major)
    if is_fused(plan, profile):
        return 3 * inference_bytes(plan, tokens, profile)
    kept = (*kept_steps(plan, tokens, profile.chunks), True)
    elements = 2 * sum(map(_elements, _copies(plan, profile)[1]))
    steps = plan_operands(plan, profile.is_cpu).steps
    for own, (before, after), keeps in zip(steps, pairwise(plan.widths), kept, strict=True):
        elements += (2 if keeps else 3) * (before + after)
        elements += 2 * _elements(own.rows.copy) if own.rows.copy and not keeps else 0
    weights = 2 * plan.params + 3 * merged_elements(plan)  # one is written, and its gradient is read for two others
    return inference_bytes(plan, tokens, profile) + profile.itemsize * (weights + tokens * elements)


def merged_elements(plan: Plan) -> int:
    """Elements of the products of factors."""
    return sum(math.prod(step.weight_shape) for step in plan.steps if len(step.factor) > 1)


def _copies(plan: Plan, profile: MachineProfile) -> tuple[list[Copy], list[Copy]]:
    """The copies of a forward pass, and of a backward pass unless they are recomputed."""
    operands = plan_operands(plan, profile.is_cpu)
    forward = [*(own.rows.copy for own in operands.steps), operands.write]
    backward = [*(own.grad.copy for own in operands.steps), operands.write_grad]
    return [copy for copy in forward if copy], [copy for copy in backward if copy]


def _elements(copy: Copy) -> int:
    """The elements of a copy for one token."""
    return math.prod(copy.target.sizes) // ANY_TOKENS


def _copies_ns(copies: list[Copy], tokens: int, profile: MachineProfile) -> float:
    # Copies that transpose single elements move blocks.
    of_element = [(_elements(copy), profile.copy_ns + profile.run_ns / max(copy.run, 6)) for copy in copies]
    return sum(tokens * elements * ns for elements, ns in of_element)


def _product_ns(step: Step, tokens: int, profile: MachineProfile) -> float:
    """Arithmetic, the start of every matrix, and loading the weights, which dominates products of few rows."""
    _, k, n = step.weight_shape
    elements = math.prod(step.weight_shape)
    arithmetic_ns = tokens * step.macs_per_token * profile.mac_ns_at(min(k, n))
    b, r, _, _ = step.extents(tokens)
    weights_ns = (profile.one_row if r == 1 else 1.0) * elements * _memory_ns(elements, profile)
    return arithmetic_ns + weights_ns + (b * profile.matrix_ns if step.is_batched else 0.0)


def _memory_ns(elements: int, profile: MachineProfile) -> float:
    is_cached = profile.itemsize * elements <= profile.cache_bytes
    return profile.cached_weight_ns if is_cached else profile.memory_weight_ns
