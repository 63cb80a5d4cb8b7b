"""The einsums compute what the layer computes; the fast route is faster than the plain one."""

from functools import partial

import pytest
import torch
from torch import nn

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.execution.choose import executor_for
from einsearch_cli.layers.execution.cpu import CpuExecutor
from einsearch_cli.layers.execution.executor import reference_layer
from einsearch_cli.layers.plans.plan import Call
from einsearch_cli.speed import MARKET, Race
from einsearch_cli.speed.bare import einsum_route


@pytest.mark.parametrize("width", [60, 61, 64])
@pytest.mark.parametrize("structure", MARKET)
def test_einsums_are_the_same_map(structure: str, width: int) -> None:
    layer = EinsumLinear(width, width, structure, bias=False, dtype=torch.float64)
    with torch.no_grad():
        for factor in layer.factors.values():
            factor.mul_(0.5)  # well below the cap on the rms, so that nothing is scaled
        x = torch.randn(7, width, dtype=torch.float64)
        padded = nn.functional.pad(x, (0, layer.plan.padded_in - width))
        torch.testing.assert_close(einsum_route(layer)(padded)[:, :width], layer(x), rtol=1e-10, atol=1e-12)


class PlainRoute(EinsumLinear):
    """The contraction in operations that torch differentiates itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factors = [self.factors[step.factor] for step in self.plan.steps]
        return reference_layer(self.plan, x, self.gain, self.bias, *factors)


@pytest.mark.usefixtures("one_thread")
def test_training_is_faster_than_by_the_plain_route() -> None:
    """On one thread, it takes less than half the time; if the fast route were lost, it would take the same."""
    x, y_grad = torch.randn(1024, 1024, requires_grad=True), torch.randn(1024, 1024)

    def step(layer: nn.Module) -> None:
        layer(x).backward(y_grad)
        x.grad = None
        layer.zero_grad()

    fast, plain = EinsumLinear(1024, 1024, "btt:r=1"), PlainRoute(1024, 1024, "btt:r=1")
    race = Race({"fast": lambda: step(fast), "plain": lambda: step(plain)}, torch.device("cpu"))
    race.run(rounds=9)
    ratios = sorted(a / b for a, b in zip(race.durations_s["fast"], race.durations_s["plain"], strict=True))
    assert ratios[len(ratios) // 2] < 0.8


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="a property of MKL's products")
@pytest.mark.usefixtures("one_thread")
def test_few_tokens_are_faster_token_major() -> None:
    """They take a third of the time on an EPYC, half on a Xeon; without the plan for few tokens, all of it."""
    layer = EinsumLinear(2048, 2048, "block-shuffle:blocks=4").requires_grad_(False)
    x, usual = torch.randn(4, 2048), CpuExecutor(layer.plan, 4)
    chosen = executor_for(layer.plan, Call("cpu", torch.float32, tokens=4))
    weights = [layer.factors[step.factor] for step in layer.plan.steps]
    race = Race(
        {
            name: partial(executor.forward, x, None, layer.bias, weights)
            for name, executor in (("chosen", chosen), ("usual", usual))
        },
        torch.device("cpu"),
    )
    with torch.no_grad():
        race.run(rounds=15)
    ratios = sorted(a / b for a, b in zip(race.durations_s["chosen"], race.durations_s["usual"], strict=True))
    assert ratios[len(ratios) // 2] < 0.85
