"""Layers that swap_linear leaves, with reasons, and errors that it raises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from einsearch_cli.errors import LayerError
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.swap import DenseLayer, plan_swaps, swap_linear


class OwnLinear(nn.Linear):
    """A subclass with extra behaviour, as quantised and adapted layers have."""

    bits = 4


class ForeignLinear(nn.Module):
    """A linear layer of some library, with its own idea of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.out_features = 16, 8
        self.register_buffer("qweight", torch.zeros(8, 16, dtype=torch.int8))


class Adapter(nn.Module):
    """An adapter laid out like peft's LoRA layers."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})


class LoRALinear(nn.Module):
    """A layer laid out like torchtune's LoRA layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(16, 16))
        self.lora_a = nn.Linear(16, 2, bias=False)
        self.lora_b = nn.Linear(2, 16, bias=False)


def test_linear_layers_of_other_kinds_stay_by_name() -> None:
    model = nn.ModuleDict(
        {
            "own": OwnLinear(16, 16),
            "lazy": nn.LazyLinear(8),
            "weight_norm": parametrizations.weight_norm(nn.Linear(16, 16)),
            "foreign": ForeignLinear(),
            "peft": Adapter(nn.Linear(16, 8)),
            "torchtune": LoRALinear(),
            "quantised": torch.ao.nn.quantized.dynamic.Linear(16, 16, dtype=torch.float16),
            "block": nn.Sequential(nn.Linear(16, 16)),
        }
    )
    report = swap_linear(model, "monarch")
    assert [swap.name for swap in report.replaced] == ["block.0"]
    assert list(report.skipped) == ["own", "lazy", "weight_norm", "foreign", "peft", "torchtune", "quantised"]
    assert report.skipped["own"] == "OwnLinear is a subclass of nn.Linear whose own behaviour would be lost"
    assert "LazyLinear" in report.skipped["lazy"]
    assert "ParametrizedLinear" in report.skipped["weight_norm"]
    assert report.skipped["foreign"].endswith(
        "ForeignLinear is a linear layer of a kind that swap_linear does not know"
    )
    assert report.skipped["peft"].endswith("Adapter is an adapter around a linear layer")
    assert report.skipped["torchtune"].endswith("LoRALinear is an adapter around a linear layer")
    assert report.skipped["quantised"].startswith("torch.ao.nn.quantized.dynamic")
    # FLOPs of kept layers count in the whole model: four of 16 x 16, two of 16 x 8, the adapters, and the replaced one.
    adapters = 2 * 16 + 2 * 8 + 2 * 16 + 2 * 16
    assert report.model.flops_before == 2 * (4 * 16 * 16 + 2 * 16 * 8 + adapters + 16 * 16)
    assert [(kept.kind, kept.params, kept.note) for kept in report.uncounted] == [
        ("nn.LazyLinear", 0, "its size is not known before its first call")
    ]


def test_a_block_that_notes_its_widths_is_looked_into() -> None:
    block = nn.Sequential(nn.Linear(16, 16))
    block.in_features, block.out_features = 16, 16  # type: ignore[assignment]
    assert [swap.name for swap in plan_swaps(nn.Sequential(block), "monarch").replaced] == ["0.0"]


def test_hooked_and_patched_layers_stay() -> None:
    layers = [nn.Linear(8, 8) for _ in range(7)]
    layers[0].register_forward_hook(lambda *_: None)
    layers[1].register_full_backward_pre_hook(lambda *_: None)
    layers[2].weight.register_hook(lambda grad: grad)
    layers[3].weight.register_post_accumulate_grad_hook(lambda _parameter: None)
    layers[4].forward = layers[4].forward  # type: ignore[method-assign]
    prune.random_unstructured(layers[5], "weight", 0.5)
    layers[6].register_buffer("scale", torch.ones(8))
    report = swap_linear(nn.Sequential(*layers), "monarch")
    assert report.replaced == ()
    assert list(report.skipped.values()) == [
        "it has hooks, which may rely on its weight",
        "it has hooks, which may rely on its weight",
        "its weight has hooks, which new parameters would not have",
        "its weight has hooks, which new parameters would not have",
        "its forward was replaced by another function",
        "it has hooks, which may rely on its weight",
        "it holds more than a weight and a bias, which would be lost",
    ]


def test_weights_of_other_dtypes_and_tensor_kinds_stay() -> None:
    class Packed(Tensor):
        """A tensor that only looks like a matrix."""

    eight_bit, packed = nn.Linear(8, 8), nn.Linear(8, 8)
    eight_bit.weight = nn.Parameter(torch.zeros(8, 8, dtype=torch.float8_e4m3fn), requires_grad=False)
    packed.weight = nn.Parameter(torch.zeros(8, 8).as_subclass(Packed))
    report = swap_linear(nn.Sequential(eight_bit, packed), "monarch")
    assert report.skipped == {
        "0": "its weight is torch.float8_e4m3fn: structured layers are floating, of 16 bits or more",
        "1": "its weight is a Packed, not a plain tensor",
    }


def test_a_structure_that_fits_no_layer_replaces_none_and_says_why() -> None:
    report = swap_linear(nn.Sequential(nn.Linear(64, 2), nn.Linear(2, 64)), "monarch:blocks=4")
    assert str(report).splitlines()[1] == (
        "replaced 0.0% of the parameters and 0.0% of the FLOPs (0 of 2 linear layers)"
    )
    assert all("do not fit into a dimension of 2" in reason for reason in report.skipped.values())


def test_a_model_without_linear_layers_gives_an_empty_report() -> None:
    report = swap_linear(nn.Sequential(nn.ReLU()), "monarch")
    assert (report.replaced, report.skipped) == ((), {})


def test_an_error_in_the_filter_names_the_layer_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))

    def broken(layer: DenseLayer, _name: str) -> bool:
        return 8 % (layer.out_features - 4) == 0

    with pytest.raises(ZeroDivisionError) as caught:
        swap_linear(model, "monarch", broken)
    assert caught.value.__notes__ == ["raised by the filter for 1, 8 -> 4"]
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(4, 4),
        EinsumLinear(4, 4, "dense"),
        nn.MultiheadAttention(4, 1),
        OwnLinear(4, 4),
        Adapter(nn.Linear(4, 4)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_root_that_is_a_linear_layer_is_refused(model: nn.Module) -> None:
    with pytest.raises(LayerError, match=rf"the model itself is {type(model).__name__}: .*\n.*nn\.Sequential"):
        swap_linear(model, "monarch")


def test_wrappers_with_their_own_record_of_parameters_are_refused() -> None:
    class FSDPModule:
        """The class that fully_shard mixes in."""

    class FSDPSequential(FSDPModule, nn.Sequential):
        pass

    with pytest.raises(LayerError, match=r"^0 is wrapped in FSDPModule.*\n.*first, then wrap"):
        swap_linear(nn.Sequential(FSDPSequential(nn.Linear(8, 8))), "monarch")


def test_a_model_in_ddp_is_refused() -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(8, 8)))
        with pytest.raises(LayerError, match="the model is wrapped in DistributedDataParallel"):
            swap_linear(model, "monarch")
        assert type(model.module[0]) is nn.Linear
    finally:
        torch.distributed.destroy_process_group()


def test_a_compiled_model_is_refused_and_its_original_is_not() -> None:
    compiled = torch.compile(nn.Sequential(nn.Linear(8, 8)), backend="eager")
    with pytest.raises(LayerError, match=r"the model is compiled.*\n.*_orig_mod"):
        swap_linear(compiled, "monarch")  # type: ignore[arg-type]
    inner = nn.Sequential(nn.Linear(8, 8))
    inner.compile(backend="eager")
    with pytest.raises(LayerError, match="0 is compiled"):
        swap_linear(nn.Sequential(inner), "monarch")
    original = compiled._orig_mod  # type: ignore[attr-defined]
    assert len(swap_linear(original, "monarch").replaced) == 1
    x = torch.randn(2, 8)
    torch.testing.assert_close(torch.compile(original, backend="eager")(x), original(x))


def test_one_layer_is_named_in_the_singular() -> None:
    report = swap_linear(nn.Sequential(nn.Linear(8, 8)), "monarch", filter=lambda *_: False)
    assert "(0 of 1 linear layer)" in report.summary
