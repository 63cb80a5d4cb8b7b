import itertools
import math

import pytest
import torch

from einsearch_cli.models import MLP, structured_linear
from einsearch_cli.structures import parse_structure
from einsearch_cli.training.optimizer import make_optimizer, parameter_rates, set_learning_rates
from einsearch_cli.training.schedule import schedule


def mlp(text: str, width: int = 256) -> MLP:
    return MLP(16, width, 1, depth=3, make_linear=structured_linear(parse_structure(text)))


def test_names_to_rates() -> None:
    """Monarch 256 x 256: 16 blocks of 16 x 16, so fan-in 16, two factors: (256 / 16) / 2 = 8 times the dense rate."""
    rates = parameter_rates(mlp("monarch"), base_width=64, learning_rate=0.01, weight_decay=0.1)
    dense = 0.01 * 64 / 256
    assert rates == {
        "layers.0.factors.A": (pytest.approx(0.01 * (16 / 4) / 2), 0.1),  # 16 inputs, 4 blocks of 4, fixed fan-in
        "layers.0.factors.B": (pytest.approx(0.01 * (16 / 4) / 2), 0.1),
        "layers.0.gain": (0.01, 0.0),
        "layers.0.bias": (0.01, 0.0),
        "layers.1.factors.A": (pytest.approx(dense * 8), 0.1),
        "layers.1.factors.B": (pytest.approx(dense * 8), 0.1),
        "layers.1.gain": (0.01, 0.0),
        "layers.1.bias": (0.01, 0.0),
        "head.weight": (pytest.approx(dense), 0.1),
        "head.bias": (0.01, 0.0),
    }


@pytest.mark.parametrize("text", ["dense", "btt:r=2", "low-rank"])
def test_every_parameter_is_in_one_group_with_its_rate(text: str) -> None:
    model = mlp(text)
    rates = parameter_rates(model, base_width=64, learning_rate=0.01, weight_decay=0.1)
    optimizer = make_optimizer(model, rates, (0.9, 0.95))
    groups = {(group["lr"], group["weight_decay"]): group["params"] for group in optimizer.param_groups}
    assert len(groups) == len(optimizer.param_groups) == len(set(rates.values()))
    assert all(group["fused"] for group in optimizer.param_groups)
    found = {id(value): key for key, values in groups.items() for value in values}
    assert found == {id(value): rates[name] for name, value in model.named_parameters()}


def test_the_schedule_reaches_the_parameters() -> None:
    """The first AdamW step moves every number by its learning rate."""
    model = mlp("monarch").double()
    rates = parameter_rates(model, base_width=64, learning_rate=0.01, weight_decay=0.0)
    optimizer = make_optimizer(model, rates, (0.9, 0.95))
    set_learning_rates(optimizer, 0.25)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    optimizer.step()
    for name, value in model.named_parameters():
        torch.testing.assert_close(before[name] - value, torch.full_like(value, 0.25 * rates[name][0]))


def test_schedule_by_hand() -> None:
    values = [schedule(step, 100, warmup=0.1, final=0.2) for step in range(100)]
    assert values[0] == 0.1
    assert values[9] == values[10] == max(values) == 1.0
    assert values[55] == pytest.approx(0.6)  # half way down the cosine
    assert values[99] == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi * 89 / 90)))
    assert all(a > b for a, b in itertools.pairwise(values[10:]))


def test_schedule_without_warm_up() -> None:
    assert schedule(0, 10, warmup=0.0, final=0.0) == 1.0
