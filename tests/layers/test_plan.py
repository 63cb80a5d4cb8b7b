"""The contraction plan: its promises about copies, and its bookkeeping."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import pytest
import torch

from einsearch_cli.layers import Plan, plan_for
from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU, DEFAULT_GPU
from einsearch_cli.layers.plans.operands import plan_operands
from einsearch_cli.layers.plans.planner import stored_plan
from einsearch_cli.structures import parse_structure
from einsearch_cli.taxonomy import meeting_order

OF_BYTES = {
    dtype.itemsize: DEFAULT_CPU.of_itemsize(dtype.itemsize) for dtype in (torch.bfloat16, torch.float32, torch.float64)
}


def plan_of(text: str, d_in: int = 256, d_out: int = 256) -> Plan:
    sized = parse_structure(text).at(d_in, d_out)
    return plan_for(sized, tuple(meeting_order(sized)))


@pytest.mark.parametrize(
    "text",
    ["dense", "low-rank", "kronecker", "tt:r=4", "monarch", "monarch:blocks=4", "btt:r=1", "btt:r=4",
     "block-dense:blocks=4,r=256", "block-shuffle:blocks=4", "XA^1/2 XB^1/4 XAB^1/4 YA^1/4 YB^1/2 YAB^1/4 AB^1/4"],
)  # fmt: skip
def test_no_two_factor_plan_copies_an_activation(text: str) -> None:
    plan = plan_of(text)
    assert not any(step.rows.copy for step in plan_operands(plan, is_cpu=True).steps)


def test_few_tokens_on_a_cpu_are_multiplied_token_major(case: Any) -> None:
    plan = case.layer().plan
    few = plan.at(1, DEFAULT_CPU.token_major)
    assert few.at(1, DEFAULT_CPU.token_major) is few
    assert not any(step.is_feature_major or step.grad_is_feature_major or step.is_repeated for step in few.steps)
    assert [step.weight_axes for step in few.steps] == [step.weight_axes for step in plan.steps]
    assert (few.input_order, few.output_order) == (plan.input_order, plan.output_order)
    assert plan.at(1, DEFAULT_GPU.token_major) is plan


GENERIC = "XA^1/2 XB^1/4 XAB^1/4 YA^1/4 YB^1/2 YAB^1/4"
SHUFFLE = "block-shuffle:blocks=4"
TOKEN_MAJOR_OVER_FEATURE_MAJOR = {
    ("monarch", 4096, 4): {1: 0.33, 4: 0.40, 8: 0.34, 16: 1.39, 32: 1.49},
    ("btt:r=4", 4096, 4): {1: 0.22, 4: 0.32, 8: 0.39, 16: 1.19, 32: 1.28},
    (SHUFFLE, 4096, 4): {1: 0.06, 4: 0.16, 8: 0.14, 16: 1.02, 32: 0.94},
    (SHUFFLE, 1024, 4): {12: 0.64, 16: 0.91, 24: 0.85, 32: 0.98, 40: 0.96, 48: 0.98, 64: 0.99, 128: 1.03},
    (SHUFFLE, 2048, 4): {12: 0.46, 16: 0.65, 24: 0.66, 32: 0.77, 40: 0.76, 48: 0.86, 64: 0.88, 128: 0.95},
    (SHUFFLE, 1024, 8): {12: 1.00, 16: 0.29, 24: 1.15, 32: 0.23, 40: 0.44, 48: 1.04, 64: 0.53, 128: 0.48},
    ("monarch", 1024, 8): {12: 1.20, 16: 0.95, 24: 1.31, 32: 0.95, 40: 1.13, 48: 1.20, 64: 1.11, 128: 1.14},
    ("monarch", 1024, 2): {12: 0.93, 16: 0.95, 24: 0.92, 32: 0.79, 40: 0.70, 48: 0.68, 64: 0.63, 128: 0.65},
    ("btt:r=4", 1024, 2): {12: 1.05, 16: 0.95, 24: 0.96, 32: 0.62, 40: 0.89, 48: 0.86, 64: 0.49, 128: 0.45},
    (GENERIC, 4096, 4): {1: 0.48, 4: 0.64, 8: 0.69},
}
"""Ratios of forward times on an EPYC, by structure, width, bytes of an element and tokens (log of 2026-11-28)."""


@pytest.mark.parametrize("key", TOKEN_MAJOR_OVER_FEATURE_MAJOR, ids=str)
def test_few_tokens_are_those_that_are_faster_token_major(key: tuple[str, int, int]) -> None:
    """At the measured times, the choice takes on average at most 6% longer than the better of the two."""
    text, width, itemsize = key
    plan = plan_of(text, width, width)
    lost = [
        max(1.0, ratio if plan.at(tokens, OF_BYTES[itemsize].token_major) is plan.few_tokens else 1 / ratio)
        for tokens, ratio in TOKEN_MAJOR_OVER_FEATURE_MAJOR[key].items()
    ]
    assert math.exp(fmean(map(math.log, lost))) < 1.06


@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_one_token_is_few_and_a_thousand_are_not(itemsize: int) -> None:
    for text in ("monarch", "btt:r=4", SHUFFLE, GENERIC):
        plan = plan_of(text, 1024, 1024)
        are_few = [plan.at(tokens, OF_BYTES[itemsize].token_major) is plan.few_tokens for tokens in range(1, 1024)]
        assert are_few[0]
        assert not are_few[-1]
        assert are_few == sorted(are_few, reverse=True), "few tokens end once"


def test_roles_of_the_generic_structure() -> None:
    """All seven indices of Potapczynski et al. 2024, A first: α β γ | δ ε φ | ρ."""
    sized = parse_structure("XA^1/2 XB^1/4 XAB^1/4 YA^1/4 YB^1/2 YAB^1/4 AB^1/4").at(256, 256)
    first, second = plan_for(sized, ("A", "B")).roles
    assert (first.contracted, first.batch, first.kept) == (("XA",), ("XAB",), ("XB",))
    assert set(first.new) == {"YA", "YAB", "AB"}
    assert (set(second.contracted), second.batch, second.kept) == ({"XB", "XAB", "AB"}, ("YAB",), ("YA",))
    assert second.new == ("YB",)
    assert (first.fan_in, first.fan_out) == (16, 4 * 4 * 4)
    assert (second.fan_in, second.fan_out) == (4 * 4 * 4, 16)


def test_other_meeting_order_exchanges_the_roles() -> None:
    sized = parse_structure("btt:r=2").at(64, 64)
    first, second = plan_for(sized, ("B", "A")).roles
    assert first.factor == "B"
    assert (first.contracted, first.kept) == ((), ("XA",))
    assert set(second.contracted) == {"XA", "XAB", "AB"}


def test_plan_lays_out_every_feature_once(case: Any) -> None:
    layer = case.layer()
    sized, plan = layer.sized, layer.plan
    assert math.prod(sized.size(c) for c in plan.input_order) == sized.padded_in
    assert math.prod(sized.size(c) for c in plan.output_order) == sized.padded_out
    for step in plan.steps:
        axes = [c for group in step.weight_axes for c in group]
        assert sorted(axes) == sorted(c for c in sized.carriers_of(step.factor) if sized.size(c) > 1)
        assert math.prod(step.weight_shape) == sized.factor_params[step.factor]


def test_plan_is_made_once() -> None:
    assert plan_of("btt:r=2") is plan_of("btt:r=2")


def test_many_indices_are_planned_in_bounded_time() -> None:
    """With eighteen index classes, the search is cut off, and the plan is still complete."""
    inputs = ["XA", "XB", "XC", "XAB", "XAC", "XBC", "XABC"]
    text = " ".join(f"{c}^1/7" for c in inputs) + " " + " ".join(f"{c.replace('X', 'Y')}^1/7" for c in inputs)
    plan = plan_of(f"{text} AB=2 AC=2 BC=2 ABC=2", 2**7, 2**7)
    assert len(plan.input_order) == len(plan.output_order) == 7


# What saved factors mean. Changing any of these silently reorders the factors, and the features, of saved checkpoints.
STORED = {
    ("monarch", 64, 64): "XAB XA -> YAB YB; A: XAB | XA | YAB (8, 8, 8); B: YAB | XAB | YB (8, 8, 8)",
    ("btt:r=4", 64, 64): "XAB XA -> YAB YB; A: XAB | XA | AB YAB (8, 8, 32); B: YAB | XAB AB | YB (8, 32, 8)",
    ("btt:r=4", 64, 144): "XAB XA -> YAB YB; A: XAB | XA | AB YAB (8, 8, 48); B: YAB | XAB AB | YB (12, 32, 12)",
    ("tt:r=4", 64, 64): "XB XA -> YA YB; A: - | XA | AB YA (1, 8, 32); B: - | XB AB | YB (1, 32, 8)",
    ("tt:n=3,r=2", 64, 64): "XB XC XA -> YC YA YB; "
    "A: - | XA | AC YA (1, 4, 8); C: - | XC AC | YC BC (1, 8, 8); B: - | BC XB | YB (1, 8, 4)",
    ("kronecker", 64, 64): "XB XA -> YB YA; A: - | XA | YA (1, 8, 8); B: - | XB | YB (1, 8, 8)",
    ("low-rank:r=4", 64, 64): "XA -> YB; A: - | XA | AB (1, 64, 4); B: - | AB | YB (1, 4, 64)",
    ("block-shuffle:blocks=4", 64, 64): "XAB XA -> YAB YB; "
    "A: XAB | XA | AB YAB (4, 16, 16); B: YAB | XAB AB | YB (4, 16, 16)",
    ("block-dense:blocks=4,r=8", 64, 64): "XAB XA -> YB; A: XAB | XA | AB (4, 16, 2); B: - | XAB AB | YB (1, 8, 64)",
    ("monarch:n=3", 64, 64): "XAB XABC XA -> YABC YBC YC; "
    "A: XAB XABC | XA | YABC (16, 4, 4); B: XABC YABC | XAB | YBC (16, 4, 4); C: YABC YBC | XABC | YC (16, 4, 4)",
    ("(0.5|0.25|0.25|0.25|0.5|0.25|0)", 64, 64): "XB XAB XA -> YA YAB YB; "
    "A: XAB | XA | YA YAB (4, 8, 8); B: YAB | XB XAB | YB (2, 8, 8)",
}  # fmt: skip


@pytest.mark.parametrize(("text", "d_in", "d_out"), STORED)
def test_the_meaning_of_saved_factors_stays_the_same(text: str, d_in: int, d_out: int) -> None:
    """Input features -> output features, then each factor in the order in which they meet, with its axes B | K | N."""
    plan = stored_plan(parse_structure(text).at(d_in, d_out))
    factors = [
        f"{step.factor}: {' | '.join(' '.join(axes) or '-' for axes in step.weight_axes)} {step.weight_shape}"
        for step in plan.steps
    ]
    found = "; ".join([f"{' '.join(plan.input_order)} -> {' '.join(plan.output_order)}", *factors])
    assert found == STORED[text, d_in, d_out]


def test_gradients_of_plain_matrices_lie_as_the_tokens_do() -> None:
    """Gradients of the factors have the longer side innermost."""
    first, second = plan_of("low-rank").steps
    assert not first.grad_is_feature_major
    assert not second.grad_is_feature_major
    assert first.weight_grad_is_swapped  # 256 × 16
    assert not second.weight_grad_is_swapped  # 16 × 256
