"""Swapping the linear layers of a model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError, StructureError
from einsearch_cli.layers import EinsumLinear, apply_swaps, plan_swaps, swap_linear


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
    assert (up.params_before, up.params_after) == (16 * 32, 2 * (16 + 32))
    assert (up.flops_before, up.flops_after) == (2 * 16 * 32, 2 * 2 * (16 + 32))
    assert model(torch.randn(5, 16)).shape == (5, 4)


def test_filter_gets_module_and_name() -> None:
    model = Nested()
    seen: dict[str, nn.Linear] = {}

    def note(layer: nn.Linear, name: str) -> bool:
        seen[name] = layer
        return name.startswith("blocks")

    report = swap_linear(model, "monarch", note)
    assert list(seen) == ["up", "blocks.0.0", "blocks.1.0", "head"]
    assert set(report.skipped) == {"up", "head"}


def test_report_reads_well() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
    model[1].weight = model[0].weight
    assert str(swap_linear(model, "monarch", lambda layer, _name: layer.out_features > 10)) == (
        "XA^1/2 XAB^1/2 YB^1/2 YAB^1/2\n"
        "replaced 2 of 3 linear layers: 4,096 -> 1,024 parameters, 16,384 -> 4,096 FLOPs per token\n"
        "  0  64 -> 64: 4,096 -> 1,024 parameters, 8,192 -> 2,048 FLOPs per token\n"
        "  1  64 -> 64: 4,096 -> 1,024 parameters, 8,192 -> 2,048 FLOPs per token, factors shared with 0\n"
        "left 1:\n"
        "  2: filter said no"
    )


def test_planning_changes_nothing_and_applying_does_what_was_planned() -> None:
    model = Nested()
    before = copy.deepcopy(model.state_dict())
    plan = plan_swaps(model, "monarch")
    assert type(model.up) is nn.Linear
    assert {k: v.tolist() for k, v in model.state_dict().items()} == {k: v.tolist() for k, v in before.items()}
    assert str(plan).splitlines()[1].startswith("would replace 4 of 4 linear layers")
    report = apply_swaps(model, plan)
    assert report.replaced == plan.replaced
    with pytest.raises(LayerError, match=r"up, a linear layer 16 -> 32.*\n.*plan_swaps"):
        apply_swaps(model, plan)


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


def test_subclasses_stay() -> None:
    attention = nn.MultiheadAttention(16, 2, batch_first=True)
    report = swap_linear(attention, "monarch")
    assert report.replaced == ()
    assert "NonDynamicallyQuantizableLinear is a subclass of nn.Linear" in report.skipped["out_proj"]
    x = torch.randn(2, 3, 16)
    attention(x, x, x)


def test_parametrised_and_hooked_layers_stay() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 8), nn.LazyLinear(8))
    model[1].register_forward_hook(lambda *_: None)
    report = swap_linear(model, "monarch")
    assert report.replaced == ()
    assert "subclass" in report.skipped["0"]
    assert "hooks" in report.skipped["1"]
    assert "LazyLinear" in report.skipped["2"]


def test_layer_that_the_structure_does_not_fit_stays() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    report = swap_linear(model, "monarch:blocks=4")
    assert [swap.name for swap in report.replaced] == ["0"]
    assert "do not fit into a dimension of 2" in report.skipped["1"]


def test_transformer_trains_after_the_swap() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=False
    )
    report = swap_linear(model, "btt:r=1")
    assert [swap.name.rpartition(".")[2] for swap in report.replaced] == ["linear1", "linear2"] * 2
    x = torch.randn(2, 5, 16)
    model(x).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        assert model.eval()(x).shape == x.shape


@pytest.mark.parametrize("model", [nn.Linear(4, 4), EinsumLinear(4, 4, "dense")])
def test_root_that_is_a_linear_layer_is_refused(model: nn.Module) -> None:
    with pytest.raises(LayerError, match=r"the model itself is \w*Linear: .*\n.*nn\.Sequential"):
        swap_linear(model, "monarch")


def test_unknown_structure_changes_nothing() -> None:
    model = Nested()
    with pytest.raises(StructureError):
        swap_linear(model, "monrach")
    assert type(model.up) is nn.Linear
