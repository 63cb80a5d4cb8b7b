"""Predicted time of a plan: arithmetic, weights read, copies and calls.

The model is coarse on purpose: it decides between plans of one layer, whose
costs usually differ severalfold. The constants are a `MachineProfile`.
"""

from __future__ import annotations

import math
from itertools import pairwise

from einsearch_cli.layers.plans.chunking import chunks, kept_steps
from einsearch_cli.layers.plans.machine_profile import MachineProfile
from einsearch_cli.layers.plans.merge_steps import merging_macs
from einsearch_cli.layers.plans.operands import plan_operands
from einsearch_cli.layers.plans.plan import Plan, Reading, Step
from einsearch_cli.layers.plans.two_cores import is_fused
from einsearch_cli.sizing import SizedStructure

_MERGE_STEPS, _TRAINED_MERGE_STEPS = 25, 60
"""Steps that a product of two factors is worth in a call, without gradients and with torch's autograd for them."""
_FORM_STEPS, _TRAINED_FORM_STEPS = 3, 8
"""Steps that a product is worth where a CPU forms one matrix (`execution.forming`)."""
_MERGE_PASSES, _FORM_PASSES = 4, 6
"""Passes over a product in a training step."""


def inference_ns(plan: Plan, tokens: int, profile: MachineProfile) -> float:
    """One forward pass, with merged factors at hand."""
    plan = plan.at(tokens, profile.token_major)
    if is_fused(plan, profile.is_cpu, profile.itemsize):
        return profile.layer_ns + profile.step_ns + _fused_ns(plan, tokens, profile)
    rounds = len(chunks(plan, tokens, profile.chunks))
    total = _layer_ns(plan, profile)
    operands = plan_operands(plan, profile.is_cpu)
    for step, operand in zip(plan.steps, operands.steps, strict=True):
        total += rounds * profile.step_ns + _product_ns(step, tokens, profile)
        total += _copy_ns(step.rows, tokens, profile) if operand.rows.copy else 0.0
    return total + (_copy_ns(plan.write, tokens, profile) if plan.write and operands.write else 0.0)


def training_ns(plan: Plan, tokens: int, profile: MachineProfile) -> float:
    """One forward and backward pass, with factors merged before: three products a step, and what is computed anew."""
    plan = plan.at(tokens, profile.token_major)
    total = 3 * inference_ns(plan, tokens, profile)
    if is_fused(plan, profile.is_cpu, profile.itemsize):
        return total
    operands = plan_operands(plan, profile.is_cpu)
    total += _copy_ns(plan.write_grad, tokens, profile) if plan.write_grad and operands.write_grad else 0.0
    for step, operand in zip(plan.steps, operands.steps, strict=True):
        total += _copy_ns(step.grad, tokens, profile) if operand.grad.copy else 0.0
    for step, is_kept in zip(plan.steps, kept_steps(plan, tokens, profile.chunks), strict=False):
        total += 0.0 if is_kept else _product_ns(step, tokens, profile)
    return total


def merging_ns(sized: SizedStructure, plan: Plan, profile: MachineProfile, is_training: bool) -> float:
    """Multiplying the factors of every group within a call; training needs two gradients of every product too."""
    is_formed = plan.is_dense and profile.is_cpu
    calls, passes = (_FORM_STEPS if is_formed else _MERGE_STEPS), 1
    if is_training:
        calls, passes = (_TRAINED_FORM_STEPS, _FORM_PASSES) if is_formed else (_TRAINED_MERGE_STEPS, _MERGE_PASSES)
    total = 0.0
    for step in plan.steps:
        if len(step.factor) == 1:
            continue
        elements, products = math.prod(step.weight_shape), len(step.factor) - 1
        pass_ns = merging_macs(sized, step) * profile.mac_ns_at(16) + 2 * elements * _memory_ns(elements, profile)
        total += passes * pass_ns + calls * products * profile.step_ns
    return total


def inference_bytes(plan: Plan, tokens: int, profile: MachineProfile) -> int:
    """To and from main memory or cache in a forward pass: weights, input, every intermediate twice, output, copies."""
    plan = plan.at(tokens, profile.token_major)
    first, *between, last = plan.widths
    if is_fused(plan, profile.is_cpu, profile.itemsize):
        return profile.itemsize * (plan.params + tokens * (first + last))
    operands = plan_operands(plan, profile.is_cpu)
    copies = sum(step.rows.elements for step, own in zip(plan.steps, operands.steps, strict=True) if own.rows.copy)
    copies += plan.write.elements if plan.write and operands.write else 0
    return profile.itemsize * (plan.params + tokens * (first + 2 * sum(between) + last + 2 * copies))


def training_bytes(plan: Plan, tokens: int, profile: MachineProfile) -> int:
    """The same in a forward and a backward pass, with factors merged before and their gradients taken apart after.

    Backward, every step reads its weights, its rows and twice the gradient of its result, and writes those of
    its weights and rows. What is computed again is read and written once more.
    """
    plan = plan.at(tokens, profile.token_major)
    if is_fused(plan, profile.is_cpu, profile.itemsize):
        return 3 * inference_bytes(plan, tokens, profile)
    recomputed = [not is_kept for is_kept in kept_steps(plan, tokens, profile.chunks)]
    operands = plan_operands(plan, profile.is_cpu)
    elements = 2 * plan.write_grad.elements if plan.write_grad and operands.write_grad else 0
    for step, own, (before, after), is_anew in zip(
        plan.steps, operands.steps, pairwise(plan.widths), (*recomputed, False), strict=True
    ):
        elements += (2 + is_anew) * (before + after)
        elements += 2 * step.grad.elements if own.grad.copy else 0
        elements += 2 * step.rows.elements if own.rows.copy and is_anew else 0
    weights = 2 * plan.params + 3 * merged_elements(plan)  # one is written, and its gradient read for two others
    return inference_bytes(plan, tokens, profile) + profile.itemsize * (weights + tokens * elements)


def merged_elements(plan: Plan) -> int:
    """Elements of the products of factors."""
    return sum(math.prod(step.weight_shape) for step in plan.steps if len(step.factor) > 1)


def _fused_ns(plan: Plan, tokens: int, profile: MachineProfile) -> float:
    """Bound by memory."""
    return tokens * (plan.padded_in + plan.padded_out) * profile.memory_weight_ns


def _layer_ns(plan: Plan, profile: MachineProfile) -> float:
    """The merged plan of one step takes a route of its own, as short as `nn.Linear`'s."""
    return 0.0 if plan.is_dense else profile.layer_ns


def _product_ns(step: Step, tokens: int, profile: MachineProfile) -> float:
    """Arithmetic, the start of every matrix, and bringing the weights in, which is what a product of few rows costs."""
    _, k, n = step.weight_shape
    elements = math.prod(step.weight_shape)
    arithmetic_ns = tokens * step.macs_per_token * profile.mac_ns_at(min(k, n))
    b, r, _, _ = step.extents(tokens)
    weights_ns = (profile.one_row if r == 1 else 1.0) * elements * _memory_ns(elements, profile)
    return arithmetic_ns + weights_ns + (b * profile.matrix_ns if step.is_batched else 0.0)


def _memory_ns(elements: int, profile: MachineProfile) -> float:
    is_cached = profile.itemsize * elements <= profile.cache_bytes
    return profile.cached_weight_ns if is_cached else profile.memory_weight_ns


def _copy_ns(reading: Reading, tokens: int, profile: MachineProfile) -> float:
    """Runs are as long as the innermost axis where that stays innermost."""
    run = max(reading.run, 6)  # copies that transpose single elements go by blocks
    return tokens * reading.elements * (profile.copy_ns + profile.run_ns / run)
