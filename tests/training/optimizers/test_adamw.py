"""AdamW compared with its own rules."""

import pytest
import torch

from einsearch_cli.models import MLP, structured_linear
from einsearch_cli.structures import parse_structure
from einsearch_cli.training.groups import set_learning_rates
from einsearch_cli.training.optimizers import find_optimizer
from tests.training.optimizers.contract import OptimizerContract


class TestAdamW(OptimizerContract):
    kind = find_optimizer("adamw")

    def test_names_to_rates(self) -> None:
        """Monarch 256 x 256: 16 blocks of 16 x 16, so fan-in 16, two factors: (256 / 16) / 2 = 8 times the dense rate."""
        model = MLP(16, 256, 1, depth=3, make_linear=structured_linear(parse_structure("monarch")))
        options = self.options(model)
        dense = 0.01 * 64 / 256
        assert {name: (option["lr"], option["weight_decay"]) for name, option in options.items()} == {
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

    def test_the_first_step_moves_every_number_by_its_rate(self) -> None:
        model = MLP(16, 64, 1, depth=3, make_linear=structured_linear(parse_structure("monarch"))).double()
        optimizer, options = self.made(model, weight_decay=0.0), self.options(model)
        assert all(group["fused"] for group in optimizer.param_groups)
        set_learning_rates(optimizer, 0.25)
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        for value in model.parameters():
            value.grad = torch.ones_like(value)
        optimizer.step()
        for name, value in model.named_parameters():
            torch.testing.assert_close(before[name] - value, torch.full_like(value, 0.25 * options[name]["lr"]))
