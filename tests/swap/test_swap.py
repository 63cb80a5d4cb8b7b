"""Swapping the linear layers of a model."""

from __future__ import annotations

import copy
import io
import json
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from einsearch_cli.errors import LayerError, SizeError, StructureError
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.structures import parse_structure
from einsearch_cli.swap import DenseLayer, SwapReport, apply_swaps, plan_swaps, swap_linear


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 32)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(32, 32, bias=False), nn.ReLU()) for _ in range(2)])
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        for block in self.blocks:
            x = block(x)
        result: Tensor = self.head(x)
        return result


def test_nested_layers_are_replaced_and_counted() -> None:
    model = Nested()
    report = swap_linear(model, "low-rank:r=2", lambda layer, _name: layer.out_features > 4)
    assert [swap.name for swap in report.replaced] == ["up", "blocks.0.0", "blocks.1.0"]
    assert report.skipped == {"head": "filter said no"}
    assert isinstance(model.up, EinsumLinear)
    assert type(model.head) is nn.Linear
    up = report.replaced[0]
    assert (up.in_features, up.out_features) == (16, 32)
    assert (up.costs.params_before, up.costs.params_after) == (16 * 32, 2 * (16 + 32))
    assert (up.costs.flops_before, up.costs.flops_after) == (2 * 16 * 32, 2 * 2 * (16 + 32))
    assert model(torch.randn(5, 16)).shape == (5, 4)


def test_filter_gets_layer_and_name() -> None:
    model = Nested()
    up = model.up
    seen: dict[str, DenseLayer] = {}

    def note(layer: DenseLayer, name: str) -> bool:
        seen[name] = layer
        return name.startswith("blocks")

    report = swap_linear(model, "monarch", note)
    assert list(seen) == ["up", "blocks.0.0", "blocks.1.0", "head"]
    assert seen["up"] == DenseLayer(16, 32, True, up)
    assert not seen["blocks.0.0"].bias
    assert set(report.skipped) == {"up", "head"}


def test_report_reads_well() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
    model[1].weight = model[0].weight
    assert str(swap_linear(model, "monarch", lambda layer, _name: layer.out_features > 10)) == (
        "XA^1/2 XAB^1/2 YB^1/2 YAB^1/2\n"
        "replaced 84.0% of the parameters and 92.8% of the FLOPs (2 of 3 linear layers)\n"
        "  these layers: 4,096 -> 1,024 parameters, 16,384 -> 4,096 FLOPs\n"
        "  whole model:  4,874 -> 1,803 parameters, 17,664 -> 5,376 FLOPs\n"
        "  FLOPs are per token: 2 per multiply-add with a weight, each layer once;\n"
        "      attention scores are left out\n"
        "stays as it is, 16.0% of the parameters:\n"
        "  parameters  share  FLOPs/token  kind of weights\n"
        "         640  13.1%        1,280  nn.Linear\n"
        "         138   2.8%               biases and other vectors\n"
        "replaced 2:\n"
        "  0  64 -> 64: 4,096 -> 1,024 parameters, 8,192 -> 2,048 FLOPs\n"
        "  1  64 -> 64: 4,096 -> 1,024 parameters, 8,192 -> 2,048 FLOPs,\n"
        "      factors shared with 0\n"
        "left 1:\n"
        "  2: filter said no"
    )


def test_planning_changes_nothing_and_applying_does_what_was_planned() -> None:
    model = Nested()
    before = copy.deepcopy(model.state_dict())
    plan = plan_swaps(model, "monarch")
    assert type(model.up) is nn.Linear
    assert {k: v.tolist() for k, v in model.state_dict().items()} == {k: v.tolist() for k, v in before.items()}
    headline = "98.7% of the parameters and 100.0% of the FLOPs (4 of 4 linear"
    assert str(plan).splitlines()[1] == f"would replace {headline}"
    report = apply_swaps(model, plan)
    assert all(swap.order is not None for swap in report.replaced)
    assert replace(report, replaced=tuple(replace(swap, order=None) for swap in report.replaced)) == replace(
        plan, applied=True
    )
    assert str(report).splitlines()[1] == f"replaced {headline} layers)"
    with pytest.raises(
        LayerError,
        match=r"up, a linear layer 16 -> 32 in Linear: .* stays: already an EinsumLinear there\n.*plan_swaps",
    ):
        apply_swaps(model, plan)


def test_a_plan_for_another_model_replaces_nothing() -> None:
    plan = plan_swaps(Nested(), "monarch")
    model = Nested()
    model.head = nn.Linear(32, 5)
    with pytest.raises(LayerError, match=r"head, a linear layer 32 -> 4 in Linear: the model has Linear 32 -> 5 there"):
        apply_swaps(model, plan)
    del model.head
    with pytest.raises(LayerError, match=r"head.* the model has none there"):
        apply_swaps(model, plan)
    assert type(model.up) is nn.Linear


def test_a_plan_whose_layers_cannot_be_built_replaces_nothing() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    plan = replace(plan_swaps(model, "monarch"), structure=parse_structure("monarch:blocks=4"))
    with pytest.raises(SizeError, match="do not fit into a dimension of 2"):
        apply_swaps(model, plan)
    assert type(model[0]) is nn.Linear


def test_totals_agree_with_counting_the_model() -> None:
    model = Nested()
    model.blocks[1][0] = EinsumLinear(32, 32, "kronecker")  # type: ignore[index,operator]
    before = sum(p.numel() for p in model.parameters())
    flops_before = _counted_flops(model)
    report = swap_linear(model, "btt:r=2", lambda _layer, name: name != "head")
    assert report.model.params_before == before
    assert report.model.params_after == sum(p.numel() for p in model.parameters())
    assert report.model.flops_before == flops_before
    assert report.model.flops_after == _counted_flops(model)
    assert report.total.flops_before - report.total.flops_after == report.model.flops_before - report.model.flops_after


def _counted_flops(model: nn.Module) -> int:
    """FLOPs of one token by torch's counter, with layers that contract their factors."""
    with FlopCounterMode(display=False) as counter:
        torch.func.vmap(model)(torch.randn(1, 1, 16))
    return int(counter.get_total_flops())


def test_a_layer_that_grows_is_marked() -> None:
    report = plan_swaps(nn.Sequential(nn.Linear(16, 16), nn.Linear(64, 64)), "low-rank:r=12")
    lines = str(report).splitlines()
    assert lines[-4:] == [
        "1 of the replaced layers has more parameters or FLOPs than dense",
        "  0  16 -> 16: 256 -> 384 parameters, 512 -> 768 FLOPs",
        "      (more parameters and FLOPs than dense)",
        "  1  64 -> 64: 4,096 -> 1,536 parameters, 8,192 -> 3,072 FLOPs",
    ]
    slower = plan_swaps(nn.Sequential(nn.Linear(16, 16)), "tt:r=8")
    assert str(slower).endswith("(more FLOPs than dense)")


def test_a_stored_report_rebuilds_the_model() -> None:
    torch.manual_seed(0)
    model = Nested()
    reports = [
        swap_linear(model, "monarch", lambda _layer, name: name == "up"),
        swap_linear(model, "btt:r=2", lambda _layer, name: name.startswith("blocks")),
    ]
    stored = json.dumps([report.to_json() for report in reports])
    weights = io.BytesIO()
    torch.save(model.state_dict(), weights)
    weights.seek(0)

    rebuilt = Nested()
    for document in json.loads(stored):
        apply_swaps(rebuilt, SwapReport.from_json(document))
    rebuilt.load_state_dict(torch.load(weights), strict=True)
    x = torch.randn(3, 16)
    assert torch.equal(rebuilt(x), model(x))


def test_another_filter_gives_other_layers_another_structure() -> None:
    model = Nested()
    swap_linear(model, "monarch", lambda _layer, name: name == "up")
    report = swap_linear(model, "low-rank:r=2")
    assert report.skipped == {"up": "already an EinsumLinear"}
    structures = {name: str(m.structure) for name, m in model.named_modules() if isinstance(m, EinsumLinear)}
    monarch, low_rank = str(parse_structure("monarch")), str(parse_structure("low-rank:r=2"))
    assert structures == {"up": monarch, "blocks.0.0": low_rank, "blocks.1.0": low_rank, "head": low_rank}


def test_old_weights_go_while_new_ones_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(3)), nn.MultiheadAttention(16, 2))
    attention = model[3]
    assert isinstance(attention, nn.MultiheadAttention)
    old = [weakref.ref(layer.weight) for layer in model[:3]]  # type: ignore[union-attr]
    old.append(weakref.ref(attention.in_proj_weight))
    del attention
    alive_when_built: list[int] = []
    initialise = EinsumLinear.reset_parameters

    def note(layer: EinsumLinear) -> None:
        if not layer.gain.is_meta:
            alive_when_built.append(sum(weight() is not None for weight in old))
        initialise(layer)

    monkeypatch.setattr(EinsumLinear, "reset_parameters", note)
    swap_linear(model, "monarch")
    # Three linear layers, then the attention, taken apart before its first projection is made.
    assert alive_when_built == [4, 3, 2, 0, 0, 0, 0]


def test_a_model_that_would_not_fit_is_refused_before_anything_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    held = 4 * 2 * (16 * 16 + 16)
    more = 4 * 2 * (2 * 16 * 12 - 16 * 16)
    monkeypatch.setattr("einsearch_cli.swap.applying.memory_bytes", lambda _device: held + more - 1)
    with pytest.raises(SizeError, match=rf"{more:,} bytes larger, {held + more:,} in all.*nothing was replaced\n"):
        swap_linear(model, "low-rank:r=12")
    assert type(model[0]) is nn.Linear
    monkeypatch.setattr("einsearch_cli.swap.applying.memory_bytes", lambda _device: 1)
    swap_linear(model, "low-rank:r=2")  # makes the model smaller, whatever the memory
    assert isinstance(model[1], EinsumLinear)


def test_a_model_on_meta_takes_weights_afterwards() -> None:
    with torch.device("meta"):
        model = Nested()
    swap_linear(model, "btt:r=2")
    assert all(p.is_meta for p in model.parameters())
    other = Nested()
    swap_linear(other, "btt:r=2")
    model.load_state_dict(other.state_dict(), assign=True)
    x = torch.randn(3, 16)
    assert torch.equal(model(x), other(x))


def test_swapping_twice_leaves_structured_layers() -> None:
    model = Nested()
    swap_linear(model, "monarch")
    layers = [module for module in model.modules() if isinstance(module, EinsumLinear)]
    report = swap_linear(model, "kronecker")
    assert report.replaced == ()
    assert set(report.skipped.values()) == {"already an EinsumLinear"}
    assert [module for module in model.modules() if isinstance(module, EinsumLinear)] == layers


def test_module_held_twice_stays_one_module() -> None:
    layer = nn.Linear(16, 16)
    model = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer, nn.ReLU())})
    report = swap_linear(model, "monarch")
    assert [(swap.name, swap.aliases) for swap in report.replaced] == [("a", ("b.0",))]
    assert isinstance(model["a"], EinsumLinear)
    assert model["a"] is model["b"][0]  # type: ignore[index]
    assert "a, also b.0" in str(report)


def test_linear_layers_with_one_weight_share_their_factors() -> None:
    first, second, other = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
    second.weight = first.weight
    other.bias = first.bias
    model = nn.Sequential(first, second, other)
    report = swap_linear(model, "btt:r=2")
    a, b, c = model
    assert isinstance(a, EinsumLinear)
    assert isinstance(b, EinsumLinear)
    assert isinstance(c, EinsumLinear)
    assert [swap.tied_to for swap in report.replaced] == [None, "0", None]
    assert all(a.factors[f] is b.factors[f] for f in "AB")
    assert a.gain is b.gain
    assert a.bias is not b.bias
    assert a.bias is c.bias
    assert all(a.factors[f] is not c.factors[f] for f in "AB")
    assert torch.equal(a.to_dense(), b.to_dense())
    clone = copy.deepcopy(model)
    assert clone[0].factors["A"] is clone[1].factors["A"]  # type: ignore[index]


def test_weight_shared_with_an_embedding_stays() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(50, 16), "up": nn.Linear(16, 16), "head": nn.Linear(16, 50)})
    model["head"].weight = model["embed"].weight
    report = swap_linear(model, "monarch")
    assert report.skipped == {"head": "weight is shared with embed"}
    assert [swap.name for swap in report.replaced] == ["up"]
    assert model["head"].weight is model["embed"].weight


def test_a_tie_with_a_layer_that_stays_keeps_the_whole_chain() -> None:
    first, second, third = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
    second.weight = first.weight
    third.bias = second.bias
    model = nn.Sequential(first, second, third)
    report = swap_linear(model, "monarch", lambda _layer, name: name != "0")
    assert report.replaced == ()
    assert report.skipped == {
        "0": "filter said no",
        "1": "weight is shared with 0",
        "2": "bias is shared with 1",
    }


def test_device_dtype_mode_gradients_and_bias_are_kept() -> None:
    frozen = nn.Linear(16, 16, bias=False, dtype=torch.bfloat16).requires_grad_(False).eval()
    half_frozen = nn.Linear(16, 16, device="meta")
    half_frozen.weight.requires_grad_(False)
    model = nn.Sequential(frozen, half_frozen)
    swap_linear(model, "monarch")
    first, second = model
    assert isinstance(first, EinsumLinear)
    assert isinstance(second, EinsumLinear)
    assert {p.dtype for p in first.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in first.parameters())
    assert first.bias is None
    assert not first.training
    assert second.training
    assert all(p.is_meta for p in second.parameters())
    assert {name for name, p in second.named_parameters() if p.requires_grad} == {"bias"}


def test_layer_that_the_structure_does_not_fit_stays() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    report = swap_linear(model, "monarch:blocks=4")
    assert [swap.name for swap in report.replaced] == ["0"]
    assert "do not fit into a dimension of 2" in report.skipped["1"]


def test_unknown_structure_changes_nothing() -> None:
    model = Nested()
    with pytest.raises(StructureError):
        swap_linear(model, "monrach")
    assert type(model.up) is nn.Linear
