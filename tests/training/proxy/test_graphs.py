"""Steps as CUDA graphs, tested without a GPU: a stand-in remembers the step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from einsearch_cli.data import Batch
from einsearch_cli.training.proxy import graphs
from einsearch_cli.training.proxy.graphs import StepGraph


class Remembered:
    """A graph that runs its step when it is replayed, into the same memory each time."""

    def __init__(self, step: Callable[[], Tensor]) -> None:
        self.step, self.losses = step, step().clone()

    def replay(self) -> None:
        self.losses.copy_(self.step())


def remembered(step: Callable[[], Tensor]) -> tuple[Remembered, Tensor]:
    graph = Remembered(step)
    return graph, graph.losses


def test_a_graph_gets_each_batch_and_fraction_and_leaves_the_state_to_its_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graphs, "_captured", remembered)
    value = torch.zeros(1)

    def step(fraction: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        value.add_(fraction * inputs.sum())
        return value + targets

    graph = StepGraph(step, [value], Batch(torch.ones(2), torch.tensor([5.0])))
    assert value.item() == 0, "the capture takes no step"
    losses = [
        graph.run(fraction, Batch(torch.full((2,), number), torch.tensor([100 * number])))
        for fraction, number in ((1.0, 1.0), (0.5, 2.0), (0.0, 3.0))
    ]
    assert [loss.item() for loss in losses] == [102, 204, 304], "each has memory of its own"
    assert value.item() == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_step_is_the_step() -> None:
    values = [torch.ones(64, 64, device="cuda") for _ in range(2)]
    x = torch.randn(64, 64, device="cuda")

    def step_of(value: Tensor) -> Callable[..., Tensor]:
        def step(fraction: float | Tensor, x: Tensor, y: Tensor) -> Tensor:
            value.add_(x @ value * fraction).clamp_(-1, 1)
            return (value - y).square().mean()[None]

        return step

    graph = StepGraph(step_of(values[0]), [values[0]], Batch(x, x))
    for number in range(5):
        batch = Batch(x + number, x)
        found = graph.run(0.1 * number, batch)
        torch.testing.assert_close(found, step_of(values[1])(0.1 * number, *batch))
    torch.testing.assert_close(*values)
