"""Where products on a GPU write their results, and which copies remain."""

from __future__ import annotations

from random import Random

import pytest

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.plans.cost_model import inference_ns, training_ns
from einsearch_cli.layers.plans.machine_profile import DEFAULT_GPU
from einsearch_cli.layers.plans.operands import View, plan_operands
from tests.layers.test_planner import random_layer


def copies(layer: EinsumLinear, is_cpu: bool) -> int:
    operands = plan_operands(layer.plan, is_cpu)
    within = sum((step.rows.copy is not None) + (step.grad.copy is not None) for step in operands.steps)
    return within + (operands.write is not None) + (operands.write_grad is not None)


@pytest.mark.parametrize(
    ("text", "on_cpu", "on_gpu"),
    [("monarch", 2, 0), ("btt:r=4", 3, 0), ("block-shuffle:blocks=4", 3, 0), ("monarch:n=3", 4, 0), ("tt:r=4", 2, 2)],
)
def test_copies_that_a_product_can_write_fall_away(text: str, on_cpu: int, on_gpu: int) -> None:
    layer = EinsumLinear(8192, 8192, text, device="meta")
    assert (copies(layer, True), copies(layer, False)) == (on_cpu, on_gpu)


@pytest.mark.parametrize("seed", [*range(40), 579, 1274])  # the last two would write matrices without such an axis
def test_one_axis_of_every_matrix_that_is_written_lies_without_gaps(seed: int) -> None:
    layer = random_layer("ABCD"[: 1 + seed % 4], Random(seed))
    for step in plan_operands(layer.plan, is_cpu=False).steps:
        for view in (step.result, step.rows_grad):
            assert any(1 in pair for pair in _matrix(view)), view


def _matrix(view: View) -> list[tuple[int, int]]:
    return list(zip(view.sizes, view.strides, strict=True))[-2:]


def test_copies_that_fall_away_cost_nothing() -> None:
    plan = EinsumLinear(256, 256, "btt:r=4", device="meta").plan
    assert any(step.grad.copy for step in plan_operands(plan, is_cpu=True).steps)
    assert training_ns(plan, 1000, DEFAULT_GPU) == 3 * inference_ns(plan, 1000, DEFAULT_GPU)
