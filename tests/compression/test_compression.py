"""Compression by calibration data: layer after layer, against passes over the whole model and gradient-free references."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli.compression import compress
from einsearch_cli.compression.budget import Option, allocate
from einsearch_cli.compression.moments import Moments
from einsearch_cli.errors import DataError, EinsearchError, LayerError, SizeError
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.projection import project_
from einsearch_cli.structures import parse_structure
from einsearch_cli.swap import SwapReport, apply_swaps, swap_linear
from einsearch_cli.taxonomy import layer_costs


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


def test_every_layer_is_fitted_to_the_dense_model_on_its_own_inputs() -> None:
    """The reference uses passes over the whole models with all data at once, and least squares instead of moments."""
    model, batches = _network(), [torch.randn(40, 16) for _ in range(12)]
    report = compress(model, batches, "low-rank:r=12")
    expected, dense, x = _network().eval(), _network().eval(), torch.cat(batches)
    order = [f"blocks.{block}.{layer}" for block in range(2) for layer in ("up", "gate", "down")] + ["head"]
    assert [swap.name for swap in report.replaced] == order
    with torch.no_grad():
        for name in order:
            given, old = _given(expected, name, x), dense.get_submodule(name)
            # The head is outside the blocks; only blocks are copied.
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
    ranks = sorted(
        int(str(row["structure"]).removeprefix("low-rank:r=")) for row in report.records() if row["structure"]
    )
    assert str(report).startswith(f"low-rank, ranks {ranks[0]}–{ranks[-1]}\n")
    assert [row["output_error"] for row in report.records()][: len(ranks)] == [s.output_error for s in report.replaced]
    html = report._repr_html_()
    assert f"low-rank, ranks {ranks[0]}–{ranks[-1]}" in html
    assert f"low-rank:r={ranks[0]}<" in html
    assert f"{report.replaced[0].output_error:.4f}" in html
    assert "structure" not in fixed.records()[0]
    assert "output_error" in fixed.records()[0]
    mixed = compress(_network(), batches, ["low-rank", "monarch"], keep=0.45, unit="flops")
    assert mixed.total.flops_after <= 0.45 * fixed.total.flops_before


def test_a_report_rebuilds_the_model() -> None:
    model, batches = _network(), _batches()
    report = SwapReport.from_json(compress(model, batches, keep=0.4).to_json())
    rebuilt = _network()
    apply_swaps(rebuilt, report)
    rebuilt.load_state_dict(model.state_dict())
    assert torch.equal(rebuilt.eval()(batches[0]), model.eval()(batches[0]))


def test_attentions_are_split_and_reported_as_attentions() -> None:
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
    for batch in (torch.tensor([[3, 12]]), (torch.tensor([[3, 12]]),)):
        with pytest.raises(DataError, match="token 12"):
            compress(Embedded(), [batch], "monarch")


class Caching(nn.Module):
    """Blocks that attend to everything in their cache, in a model with settings of its own."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(use_cache=True)
        self.layers = nn.ModuleList(CachingBlock() for _ in range(2))
        self.always = always

    def forward(self, x: Tensor) -> Tensor:
        used = self.config.use_cache or self.always
        for layer in self.layers:
            x = layer(x, past_key_values=[] if used else None)
        return x


class CachingBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.lengths: set[int] = set()

    def forward(self, x: Tensor, past_key_values: list[Tensor] | None) -> Tensor:
        y: Tensor = self.layer(x)
        if past_key_values is not None:
            past_key_values.append(y)
            self.lengths.add(len(past_key_values))
        return x + y


@pytest.mark.parametrize("always", [False, True])
def test_caches_of_parts_do_not_grow(always: bool) -> None:
    part = Caching(always)
    compress(nn.Sequential(part), _batches(), "low-rank:r=4")
    assert part.config.use_cache is True
    assert {length for layer in part.layers for length in layer.lengths} == ({1} if always else set())


class Scaled(nn.Module):
    """A sum that grows in place, or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.in_place = in_place
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        scales = torch.logspace(-2, 2, 16)
        if not self.in_place:
            x = (x + self.a(x)) * scales
            return x + self.b(x)
        x += self.a(x)
        x *= scales
        x += self.b(x)
        return x


@pytest.mark.parametrize("blocks", [1, 2])
def test_sums_in_place_are_fitted_as_others_are(blocks: int) -> None:
    class Copying(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Scaled(in_place) for _ in range(blocks))

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            for block in self.blocks:
                x = block(x)
            return x

    reports = [compress(Copying(in_place), _batches(), "low-rank:r=4") for in_place in (True, False)]
    errors = [torch.tensor([swap.output_error or 0.0 for swap in report.replaced]) for report in reports]
    torch.testing.assert_close(errors[0], errors[1], rtol=1e-3, atol=1e-5)


def test_a_chain_whose_states_change_in_place_between_blocks_is_taken_as_a_whole() -> None:
    class Between(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.in_place = in_place
            self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
                x = x.relu_() if self.in_place else x.relu()
            return x

    reports = [compress(Between(in_place), _batches(), "low-rank:r=4") for in_place in (True, False)]
    assert [s.output_error for s in reports[0].replaced] == [s.output_error for s in reports[1].replaced]


class Giving(nn.Module):
    """Two layers, whose output a function turns into the model's; without token embedding, like models of images."""

    def __init__(self, give: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.give, self.layers = give, nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))

    def get_input_embeddings(self) -> nn.Module:
        raise NotImplementedError

    def forward(self, x: Tensor) -> object:
        return self.give(self.layers(x))


def test_a_budget_finds_the_output_in_mappings() -> None:
    report = compress(Giving(lambda y: {"ids": y.argmax(-1), "more": (None, y)}), _batches(), keep=0.5)
    assert report.total.params_after <= 0.5 * 512
    model = Giving(lambda y: {"ids": y.argmax(-1)})
    with pytest.raises(LayerError, match="the model gives dict, without a tensor of floating point"):
        compress(model, _batches(), keep=0.5)


def test_a_weight_that_is_not_finite_is_refused_before_anything_is_replaced() -> None:
    model = _network()
    with torch.no_grad():
        model.head.weight[0, 0] = torch.nan
    with pytest.raises(LayerError, match="the weight of head has entries that are NaN or infinite"):
        compress(model, _batches(), "low-rank:r=4")
    assert not any(isinstance(layer, EinsumLinear) for layer in model.modules())


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor, **_: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


def test_tokens_of_all_batches_count_but_for_padding() -> None:
    compress(Masked(), [torch.randn(1, 2, 16), *(torch.randn(2, 8, 16) for _ in range(4))], "low-rank:r=4")
    mask = torch.zeros(2, 16)
    mask[:, 0] = 1
    with pytest.raises(DataError, match="8 tokens to calibrate with: the widest layer has 16 inputs"):
        compress(Masked(), [{"x": torch.randn(2, 16, 16), "attention_mask": mask}] * 4, "low-rank:r=4")


def test_the_mask_of_an_encoder_does_not_apply_to_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor, decoder_x: Tensor, **_: Tensor) -> Tensor:
            y: Tensor = self.encoder(x) + self.decoder(decoder_x).mean()
            return y

    counted: list[int] = []
    add = Moments.add

    def count(self: Moments, x: Tensor, z: Tensor | None = None) -> None:
        counted.append(x.shape[:-1].numel())
        add(self, x, z)

    monkeypatch.setattr(Moments, "add", count)
    mask = torch.ones(4, 10)
    mask[:, 5:] = 0
    batch = {"x": torch.randn(4, 10, 16), "decoder_x": torch.randn(4, 10, 16), "attention_mask": mask}
    compress(Both(), [batch], "low-rank:r=4")
    assert counted == [20, 40]
    counted.clear()
    shorter = {"decoder_x": torch.randn(4, 8, 16), "decoder_attention_mask": mask[:, :8]}
    compress(Both(), [batch | shorter], "low-rank:r=4")
    assert counted == [20, 20]


@pytest.mark.parametrize(
    ("structure", "options", "message"),
    [
        ("low-rank", {"keep": 0.5, "unit": "FLOPS"}, "unit='FLOPS': a budget is a share of params or of flops"),
        (
            {"blocks.0.upp": "low-rank:r=4"},
            {},
            "a structure for blocks.0.upp: the model has no linear layer of that name\ntry: blocks.0.up, perhaps",
        ),
    ],
)
def test_what_has_no_meaning_is_named(structure: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(EinsearchError) as caught:
        compress(_network(), _batches(), structure, **options)
    assert message in str(caught.value)


def test_what_a_budget_can_go_down_to_keeps_to_it() -> None:
    with pytest.raises(SizeError, match="can go down to") as caught:
        compress(_network(), _batches(), "block-shuffle", keep=0.02)
    keep = float(caught.value.remedy.split("=")[1].split(",")[0])
    assert compress(_network(), _batches(), "block-shuffle", keep=keep).total.params_after <= keep * 3168
    least = {name: min(_costs(layer)) for name, layer in _network().named_modules() if isinstance(layer, nn.Linear)}
    assert keep == pytest.approx(sum(least.values()) / 3168, abs=1e-4)


def _costs(layer: nn.Linear) -> Iterator[int]:
    for blocks in (2, 3, 4, 6, 8, 12, 16):
        with suppress(EinsearchError):
            structure = parse_structure(f"block-shuffle:blocks={blocks}")
            yield layer_costs(structure, layer.in_features, layer.out_features).params


@pytest.mark.parametrize("keep", [None, 0.5])
@pytest.mark.parametrize(("mean", "spread"), [(0.0, 0.0), (5.0, 0.0), (1000.0, 0.01)])
def test_inputs_that_hardly_vary_are_fitted(keep: float | None, mean: float, spread: float) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 16)), mean + spread * torch.randn(4, 40, 16)
    with torch.no_grad():
        expected = model(x)
        compress(model, list(x), "low-rank" if keep else "low-rank:r=4", keep=keep)
        assert (model(x) - expected).abs().max() <= 1e-3 * mean
