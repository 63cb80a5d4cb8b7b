"""The contract of optimizers: inherit the class and give `kind`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from einsearch_cli.models import MLP, structured_linear
from einsearch_cli.structures import parse_layer
from einsearch_cli.training import OptimizerSettings, train
from einsearch_cli.training.full import train_full
from einsearch_cli.training.full.checkpoint import checkpoints_of
from einsearch_cli.training.groups import Options, grouped, set_learning_rates
from einsearch_cli.training.optimizers import OPTIMIZERS, OptimizerKind, find_optimizer
from tests.training.full.runs import CPU, Told, assert_same_run, final_tensors, run_tiny, tiny_data, tiny_spec
from tests.training.proxy.tasks import run_of, small_teacher

LAYERS = ("dense", "btt:r=2", "low-rank", "btt-moe:experts=4,top=2", "tt:r=2")


def mlp(text: str, width: int = 64) -> MLP:
    torch.manual_seed(0)
    return MLP(16, width, 1, depth=3, make_linear=structured_linear(parse_layer(text)), dense_input=True)


@pytest.mark.usefixtures("one_thread")
class OptimizerContract:
    """Tests of one optimizer in everything that the project does with it."""

    kind: OptimizerKind

    def options(self, model: MLP, weight_decay: float = 0.1) -> dict[str, Options]:
        return self.kind.options(model, base_width=64, learning_rate=0.01, weight_decay=weight_decay)

    def made(self, model: MLP, weight_decay: float = 0.1) -> torch.optim.Optimizer:
        settings = OptimizerSettings(name=self.kind.name)
        return self.kind.make(grouped(model, self.options(model, weight_decay)), settings)

    def stepped(self, model: MLP, optimizer: torch.optim.Optimizer, seed: int) -> None:
        draws = torch.Generator().manual_seed(seed)
        for value in model.parameters():
            value.grad = torch.randn(value.shape, generator=draws)
        optimizer.step()

    def test_it_is_found_by_its_name(self) -> None:
        assert find_optimizer(self.kind.name) is self.kind
        assert self.kind.name in OPTIMIZERS.names()
        assert OptimizerSettings(name=self.kind.name).name == self.kind.name

    @pytest.mark.parametrize("text", LAYERS)
    def test_every_parameter_is_in_one_group_with_its_options(self, text: str) -> None:
        model = mlp(text)
        options = self.options(model)
        optimizer = self.made(model)
        found = {id(value): group for group in optimizer.param_groups for value in group["params"]}
        assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found) == len(options)
        for name, value in model.named_parameters():
            assert found[id(value)]["peak_lr"] == options[name]["lr"] > 0
            assert {key: found[id(value)][key] for key in options[name]} == options[name]
        assert len(optimizer.param_groups) == len({tuple(sorted(option.items())) for option in options.values()})

    @pytest.mark.parametrize("text", LAYERS)
    def test_gains_and_biases_have_no_decay(self, text: str) -> None:
        for name, option in self.options(mlp(text)).items():
            is_spared = name.rpartition(".")[2] in ("gain", "bias")
            assert option["weight_decay"] == (0.0 if is_spared else 0.1), name

    def test_decay_alone_shrinks_matrices(self) -> None:
        """Zero gradients move only matrices, toward zero."""
        model = mlp("btt:r=2")
        optimizer = self.made(model)
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        for value in model.parameters():
            value.grad = torch.zeros_like(value)
        optimizer.step()
        for name, value in model.named_parameters():
            rate = self.options(model)[name]["lr"] * self.options(model)[name]["weight_decay"]
            torch.testing.assert_close(value, before[name] * (1 - rate), rtol=1e-6, atol=0)

    def test_a_step_is_as_long_as_the_learning_rate(self) -> None:
        """A quarter of the rate makes a first step of a quarter of the length."""
        whole, quarter, start = mlp("btt:r=2"), mlp("btt:r=2"), mlp("btt:r=2")
        for model, fraction in ((whole, 1.0), (quarter, 0.25)):
            optimizer = self.made(model, weight_decay=0.0)
            set_learning_rates(optimizer, fraction)
            self.stepped(model, optimizer, seed=1)
        moved = zip(whole.parameters(), quarter.parameters(), start.parameters(), strict=True)
        for far, near, origin in moved:
            torch.testing.assert_close((near - origin) * 4, far - origin, rtol=1e-3, atol=1e-6)
            assert (far != origin).any()

    @pytest.mark.parametrize("text", LAYERS)
    def test_the_state_has_the_promised_tensors_and_bytes(self, text: str) -> None:
        model = mlp(text)
        optimizer, options = self.made(model), self.options(model)
        self.stepped(model, optimizer, seed=1)
        kept = 0
        for value in model.parameters():
            state = optimizer.state[value]
            assert set(state) <= set(self.kind.state_names)
            assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
            kept += sum(tensor.nbytes for tensor in state.values() if tensor.shape == value.shape)
        assert kept == self.kind.bytes_kept(model, options)
        assert min(map(self.kind.state_bytes, options.values())) >= self.kind.least_state_bytes

    def test_a_copied_state_goes_on_as_the_first(self) -> None:
        """Steps depend only on gradients, parameters, state and groups."""
        first, second = mlp("btt-moe:experts=4,top=2"), mlp("btt-moe:experts=4,top=2")
        optimizer = self.made(first)
        for seed in range(3):
            self.stepped(first, optimizer, seed)
        second.load_state_dict(first.state_dict())
        other = self.made(second)
        for mine, theirs in zip(first.parameters(), second.parameters(), strict=True):
            other.state[theirs] = {name: tensor.clone() for name, tensor in optimizer.state[mine].items()}
        self.stepped(first, optimizer, 9)
        self.stepped(second, other, 9)
        for mine, theirs in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(mine, theirs)

    @pytest.mark.parametrize("text", ["dense", "btt:r=2", "btt-moe:experts=4,top=2"])
    def test_a_proxy_run_learns_and_repeats(self, tmp_path: Path, text: str) -> None:
        run = run_of(small_teacher(tmp_path), text, budget_flops=4e8, name=self.kind.name, validations=4)
        first, second = train(run), train(run)
        assert first.curve == second.curve
        assert first.loss < 0.8 * first.curve[0][1]

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"guidance": {"mode": "stochastic", "ratio": 0.5}},
            {"accumulation": 4},
            {"model": {"structure": "btt-moe:experts=4,top=2"}},
        ],
        ids=["plain", "self-guided", "accumulation", "experts"],
    )
    def test_a_full_run_is_resumed_exactly(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        given = {"optimizer": {"name": self.kind.name, "learning_rate": 1e-2}, **changes}
        run_tiny(tmp_path / "whole", **given)
        for stop in (4, 9):
            with pytest.raises(KeyboardInterrupt):
                train_full(tiny_spec(**given), tiny_data(), tmp_path / "parts", CPU, Told(stop_at=stop))
        run_tiny(tmp_path / "parts", **given)
        assert_same_run(tmp_path / "parts", tmp_path / "whole")
        kinds = {name.partition(":")[0] for name in final_tensors(tmp_path / "whole") if ":" in name} - {"random"}
        assert kinds == set(self.kind.state_names)
        assert checkpoints_of(tmp_path / "whole")
