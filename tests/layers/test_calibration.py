"""Compression by calibration data: layer after layer, against passes over the whole model and gradient-free references."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli.errors import DataError, EinsearchError
from einsearch_cli.layers import EinsumLinear, SwapReport, apply_swaps, compress, project_, swap_linear
from einsearch_cli.layers.calibration.budget import Option, allocate


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.gate = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        z: Tensor = x + self.down(self.up(y) * self.gate(y).sigmoid())
        return z


class Network(nn.Module):
    """Blocks one after another, and a head."""

    def __init__(self, width: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.head(x)
        return y


def _network() -> Network:
    torch.manual_seed(0)
    return Network().train()


def _batches(count: int = 6, rows: int = 40) -> list[Tensor]:
    draws = torch.Generator().manual_seed(1)
    mix = torch.randn(16, 16, generator=draws) * torch.logspace(0, -2, 16)
    return [torch.randn(rows, 16, generator=draws) @ mix + 0.5 for _ in range(count)]


def _lost(model: nn.Module, batches: list[Tensor]) -> float:
    dense = _network().eval()
    x = torch.cat(batches)
    with torch.no_grad():
        return float((model.eval()(x) - dense(x)).norm() / dense(x).norm())


def test_at_full_rank_the_model_stays_the_same() -> None:
    model, batches = _network(), _batches()
    report = compress(model, batches, "low-rank:r=16")
    assert _lost(model, batches) < 1e-3
    assert all(swap.output_error is not None and swap.output_error < 1e-3 for swap in report.replaced)


@pytest.mark.parametrize("structure", ["low-rank:r=4", "monarch", "btt:r=2", "kronecker"])
def test_outputs_are_nearer_than_by_the_plain_projection(structure: str) -> None:
    plain, model, batches = _network(), _network(), _batches()
    swap_linear(plain, structure, project=True)
    report = compress(model, batches, structure)
    held_out = _batches(12)[6:]
    assert all(module.training for module in model.modules())
    assert _lost(model, held_out) < 0.8 * _lost(plain, held_out)
    assert len(report.replaced) == 7


def test_every_layer_is_fitted_to_the_dense_model_on_what_it_is_given() -> None:
    """By passes over the whole models, all data at once, and least squares in place of moments."""
    model, batches = _network(), [torch.randn(40, 16) for _ in range(12)]
    report = compress(model, batches, "low-rank:r=12")
    expected, dense, x = _network().eval(), _network().eval(), torch.cat(batches)
    order = [f"blocks.{block}.{layer}" for block in range(2) for layer in ("up", "gate", "down")] + ["head"]
    assert [swap.name for swap in report.replaced] == order
    with torch.no_grad():
        for name in order:
            given, old = _given(expected, name, x), dense.get_submodule(name)
            # The head is outside of the blocks, of which alone there are copies.
            wanted = (given if name == "head" else _given(dense, name, x)) @ old.weight.double().T
            layer = EinsumLinear(old.in_features, old.out_features, "low-rank:r=12")
            mean = 0.0 if old.bias is None else given.mean(0)
            means = 0.0 if old.bias is None else wanted.mean(0)
            target = torch.linalg.lstsq(given - mean, wanted - means, rcond=1e-5, driver="gelsd").solution.T
            project_(layer, target, (given - mean).T @ (given - mean))
            layer.bias.zero_()
            if old.bias is not None:
                layer.bias.copy_(old.bias + (wanted - given @ layer.to_dense().double().T).mean(0))
            _put(expected, name, layer)
        torch.testing.assert_close(model.eval()(x), expected(x), rtol=5e-3, atol=5e-3)


def _given(model: nn.Module, name: str, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: found.append(args[0]))
    model(x)
    handle.remove()
    return found[0].double()


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


def test_a_bias_makes_up_for_the_mean() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16))
    old = nn.Linear(16, 16)
    old.load_state_dict(model[0].state_dict())
    x = torch.cat(_batches()) + 3
    compress(model, [x], "low-rank:r=2")
    with torch.no_grad():
        torch.testing.assert_close(model(x).mean(0), old(x).mean(0), rtol=1e-3, atol=1e-3)


def test_a_budget_is_kept_and_spent_where_it_matters() -> None:
    uniform, model, batches = _network(), _network(), _batches()
    fixed = compress(uniform, batches, "low-rank:r=4")
    keep = fixed.total.params_after / fixed.total.params_before
    report = compress(model, batches, keep=keep)
    dense = fixed.total.params_before - report.total.params_before
    assert 0.9 * keep < (report.total.params_after + dense) / fixed.total.params_before <= keep
    assert _lost(model, batches) < _lost(uniform, batches)
    assert len({swap.structure for swap in report.replaced}) > 1
    assert ", low-rank:r=" in str(report)
    mixed = compress(_network(), batches, ["low-rank", "monarch"], keep=0.45, unit="flops")
    assert mixed.total.flops_after <= 0.45 * fixed.total.flops_before


def test_a_report_rebuilds_the_model() -> None:
    model, batches = _network(), _batches()
    report = SwapReport.from_json(compress(model, batches, keep=0.4).to_json())
    rebuilt = _network()
    apply_swaps(rebuilt, report)
    rebuilt.load_state_dict(model.state_dict())
    assert torch.equal(rebuilt.eval()(batches[0]), model.eval()(batches[0]))


def test_attentions_are_taken_apart_and_said_to_be_attentions() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    batches = [torch.randn(4, 12, 16) for _ in range(4)]
    with torch.no_grad():
        expected = model(batches[0])
        report = compress(model, batches, "low-rank:r=16")
        torch.testing.assert_close(model(batches[0]), expected, rtol=1e-2, atol=1e-2)
    assert {swap.kind for swap in report.replaced} == {"Linear", "MultiheadAttention"}
    rebuilt = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    apply_swaps(rebuilt, report)
    rebuilt.load_state_dict(model.state_dict())


def test_padding_does_not_count() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(8, 8, bias=False)

        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            y: Tensor = self.layer(x) * attention_mask[..., None]
            return y

    x = torch.randn(2, 20, 8)
    mask = torch.ones(2, 20)
    mask[:, 10:] = 0
    other = torch.where(mask[..., None] > 0, x, 100.0)
    models = [Masked(), Masked()]
    for model, given in zip(models, (x, other), strict=True):
        compress(model, [{"x": given, "attention_mask": mask}], "low-rank:r=2")
    assert torch.equal(models[0].layer.to_dense(), models[1].layer.to_dense())


@pytest.mark.parametrize("seed", range(5))
def test_an_allocation_is_near_the_best_of_all(seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    options: dict[str, list[Option]] = {}
    for name in "abcd":
        errors = torch.rand(5, generator=draws).sort(descending=True).values.tolist()
        options[name] = [Option(None, cost + 1, error) for cost, error in enumerate(errors)]
    budget = 12
    found = allocate(options, budget)
    assert sum(option.cost for option in found.values()) <= budget
    every = (choice for choice in itertools.product(*options.values()) if sum(o.cost for o in choice) <= budget)
    best = min(sum(option.error for option in choice) for choice in every)
    assert sum(option.error for option in found.values()) <= best + 0.15


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {}, "no batches to calibrate with\ntry: give at least one"),
        (_batches(1, 9), {}, "9 tokens to calibrate with: the widest layer has 32 inputs"),
        ([_batches(1)[0].fill_(torch.nan)], {}, "the inputs of blocks.0.up have entries that are NaN or infinite"),
        (_batches(), {"keep": 1.5}, "keep=1.5: a share above 0 and below 1 is needed\ntry: keep=0.5"),
        (_batches(), {"keep": 0.01}, "keep=0.01 of 3,168 parameters in 7 layers: low-rank can go down to 310, 9.79%"),
        (_batches(), {"keep": 0.5, "structure": "lowrank"}, "no structure or family is named 'lowrank'"),
        (_batches(), {"structure": ["monarch", "btt"]}, "2 structures without a budget"),
        (_batches(), {"structure": "btt-moe:experts=2,top=1"}, "a dense matrix has no nearest mixture of experts"),
    ],
)
def test_bad_input_is_refused_before_anything_is_replaced(
    batches: list[Tensor], options: dict[str, Any], message: str
) -> None:
    model = _network()
    with pytest.raises(EinsearchError) as caught:
        compress(model, batches, **{"structure": "low-rank" if "keep" in options else "low-rank:r=4", **options})
    assert message in str(caught.value)
    assert not any(isinstance(layer, EinsumLinear) for layer in model.modules())
    assert model.training


def test_tokens_of_another_tokenizer_are_named() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 16)
            self.layer = nn.Linear(16, 16)

        def get_input_embeddings(self) -> nn.Module:
            return self.embedding

        def forward(self, input_ids: Tensor) -> Tensor:
            y: Tensor = self.layer(self.embedding(input_ids))
            return y

    with pytest.raises(DataError, match="token 12 in the calibration data: the model knows 10 tokens"):
        compress(Embedded(), [{"input_ids": torch.tensor([[3, 12]])}], "monarch")
