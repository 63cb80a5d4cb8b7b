import itertools
import math

import pytest
import torch
from torch import nn

from einsearch_cli import optimizer_groups, swap_linear
from einsearch_cli.errors import SpecError
from einsearch_cli.training.groups import parameter_options
from einsearch_cli.training.schedule import lr_fraction


class PackedExperts(nn.Module):
    """Experts as transformers packs them, a norm over two axes, and a parameter that has norm in its name."""

    def __init__(self) -> None:
        super().__init__()
        self.down_proj = nn.Parameter(torch.ones(2, 3, 4))
        self.down_proj_bias = nn.Parameter(torch.ones(2, 4))
        self.plane = nn.LayerNorm((3, 4))
        self.normal = nn.Linear(4, 4)


def test_biases_and_norms_of_any_shape_have_no_decay() -> None:
    options = parameter_options(PackedExperts(), {"down_proj": 2.0}, learning_rate=0.1, weight_decay=0.3)
    assert {name for name, option in options.items() if option["weight_decay"]} == {"down_proj", "normal.weight"}
    assert {name for name, option in options.items() if option["lr"] != 0.1} == {"down_proj"}
    assert options["down_proj"] == {"lr": 0.2, "weight_decay": 0.3}


def test_groups_of_a_model_after_a_swap() -> None:
    """Factors have their own rates; one frozen layer is left out; a tied weight is in one group."""
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    swap_linear(model, "btt:r=2", filter=lambda _, name: name == "2")
    model[4].weight = model[3].weight
    model[0].requires_grad_(False)
    groups = optimizer_groups(model, lr=0.01, weight_decay=0.3)
    named = {id(value): name for name, value in model.named_parameters()}
    found = {named[id(v)]: (group["lr"], group["weight_decay"]) for group in groups for v in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found)
    assert found == {
        "1.weight": (0.01, 0.0),
        "1.bias": (0.01, 0.0),
        "2.gain": (0.01, 0.0),
        "2.bias": (0.01, 0.0),
        "2.factors.A": (0.04, 0.3),
        "2.factors.B": (0.02, 0.3),
        "3.weight": (0.01, 0.3),
        "3.bias": (0.01, 0.0),
        "4.bias": (0.01, 0.0),
    }
    assert all(set(group) == {"params", "lr", "weight_decay"} for group in groups)


@pytest.mark.parametrize(
    ("lr", "weight_decay", "problem"),
    [
        (-1e-3, 0.0, "lr is -0.001: a number from 0 on is needed"),
        (math.nan, 0.0, "lr is nan"),
        (math.inf, 0.0, "lr is inf"),
        (1e-3, -0.1, "weight_decay is -0.1"),
    ],
)
def test_rates_that_cannot_be(lr: float, weight_decay: float, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        optimizer_groups(nn.Linear(2, 2), lr, weight_decay)


def test_a_frozen_model_has_no_groups() -> None:
    with pytest.raises(SpecError, match="Linear has no parameter that requires a gradient"):
        optimizer_groups(nn.Linear(2, 2).requires_grad_(False), 1e-3, 0.0)


def test_schedule_by_hand() -> None:
    values = [lr_fraction(step, 100, warmup=0.1, final=0.2) for step in range(100)]
    assert values[0] == 0.1
    assert values[9] == values[10] == max(values) == 1.0
    assert values[55] == pytest.approx(0.6)  # half way down the cosine
    assert values[99] == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi * 89 / 90)))
    assert all(a > b for a, b in itertools.pairwise(values[10:]))


def test_schedule_without_warm_up() -> None:
    assert lr_fraction(0, 10, warmup=0.0, final=0.0) == 1.0
