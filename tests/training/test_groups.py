import itertools
import math

import pytest
import torch
from torch import nn

from einsearch_cli.training.groups import parameter_options
from einsearch_cli.training.schedule import schedule


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


def test_schedule_by_hand() -> None:
    values = [schedule(step, 100, warmup=0.1, final=0.2) for step in range(100)]
    assert values[0] == 0.1
    assert values[9] == values[10] == max(values) == 1.0
    assert values[55] == pytest.approx(0.6)  # half way down the cosine
    assert values[99] == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi * 89 / 90)))
    assert all(a > b for a, b in itertools.pairwise(values[10:]))


def test_schedule_without_warm_up() -> None:
    assert schedule(0, 10, warmup=0.0, final=0.0) == 1.0
