"""Coverage of a swap: every weight of a model is in the report, and the totals add up."""

from __future__ import annotations

import json
from collections import deque
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from einsearch_cli.errors import LayerError
from einsearch_cli.guided import guide_layers
from einsearch_cli.moe import FeedForwardMoE
from einsearch_cli.swap import Kept, SwapReport, apply_swaps, plan_swaps, swap_linear


class FusedExperts(nn.Module):
    """Experts as transformers fuses them, with biases."""

    def __init__(self, experts: int = 4, width: int = 8, hidden: int = 12) -> None:
        super().__init__()
        self.num_experts = experts
        self.gate_up_proj = nn.Parameter(torch.zeros(experts, width, 2 * hidden))
        self.gate_up_proj_bias = nn.Parameter(torch.zeros(experts, 2 * hidden))
        self.down_proj = nn.Parameter(torch.zeros(experts, hidden, width))


class Mixture(nn.Module):
    def __init__(self, top_k: int | None) -> None:
        super().__init__()
        if top_k is not None:
            self.top_k = top_k
        self.gate = nn.Linear(8, 4)
        self.experts = FusedExperts()


class ThreeDimensional(nn.Module):
    """A projection onto heads, kept as a tensor of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.zeros(8, 2, 4))


class ByBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(8, 16))


class Lists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(3, 5)), nn.Parameter(torch.zeros(7))])


def _every_kind() -> nn.Module:
    shared = nn.Linear(8, 16)
    twin = nn.Linear(8, 16)
    twin.weight = shared.weight
    embedding, head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
    head.weight = embedding.weight
    return nn.ModuleDict(
        {
            "embedding": embedding,
            "head": head,
            "bag": nn.EmbeddingBag(5, 8),
            "shared": shared,
            "twin": twin,
            "again": shared,
            "normed": parametrizations.weight_norm(nn.Linear(8, 8)),
            "old_norm": parametrizations.spectral_norm(nn.Conv1d(4, 4, 1)),
            "conv1": nn.Conv1d(4, 6, 3),
            "conv2": nn.Conv2d(4, 6, 1),
            "conv3": nn.Conv3d(4, 6, (1, 2, 3), groups=2),
            "up": nn.ConvTranspose2d(6, 4, 2),
            "lstm": nn.LSTM(8, 10, 2, bidirectional=True, proj_size=3),
            "gru": nn.GRUCell(8, 10),
            "bilinear": nn.Bilinear(3, 4, 5),
            "attention": nn.MultiheadAttention(8, 2, kdim=4, add_bias_kv=True),
            "packed": nn.MultiheadAttention(8, 2),
            "mixture": Mixture(2),
            "heads": ThreeDimensional(),
            "lists": Lists(),
            "norm": nn.LayerNorm((4, 4)),
            "buffer": ByBuffer(),
            "quantised": torch.ao.nn.quantized.dynamic.Linear(8, 8, dtype=torch.float16),
        }
    )


def _matrices(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.ndim >= 2)


def _listed(report: SwapReport) -> int:
    assert report.kept is not None
    return report.total.params_before + sum(kept.params for kept in report.kept)


def _kind(report: SwapReport, kind: str) -> Kept:
    found = [kept for kept in report.kept or () if kept.kind == kind]
    assert len(found) == 1, report.kept
    return found[0]


@pytest.mark.parametrize("wanted", ["", "shared", "packed.k_proj", "twin"])
def test_every_weight_is_listed_once(wanted: str) -> None:
    model = _every_kind()
    vectors = sum(p.numel() for p in model.parameters() if p.ndim < 2)
    report = plan_swaps(model, "monarch", lambda _layer, name: wanted in name)
    assert _listed(report) == _matrices(model)
    assert report.vector_params == vectors
    names = [name for kept in report.kept or () for name in kept.names]
    assert len(names) == len(set(names))
    assert report.model.flops_before == report.total.flops_before + sum(kept.flops or 0 for kept in report.kept or ())
    applied = apply_swaps(model, report)
    assert (applied.kept, applied.covered_params) == (report.kept, report.covered_params)
    assert applied.model.params_after == sum(p.numel() for p in model.parameters())
    again = plan_swaps(model, "kronecker")  # what is structured by now is listed as such
    assert _listed(again) == _matrices(model)
    assert any(not kept.dense for kept in again.kept or ()) == bool(report.replaced)


def test_kinds_have_the_right_parameters_and_flops() -> None:
    report = plan_swaps(_every_kind(), "monarch", lambda _layer, _name: False)
    lstm = 2 * 40 * (8 + 3) + 2 * 40 * (6 + 3) + 4 * 10 * 3
    expected = {
        "nn.EmbeddingBag": (5 * 8, 0),
        "nn.LSTM": (lstm, 2 * lstm),
        "nn.GRUCell": (30 * 18, 2 * 30 * 18),
        "nn.Bilinear": (5 * 3 * 4, 2 * 5 * (3 * 4 + 3)),
        "nn.Conv1d": (4 * 6 * 3, None),
        "nn.Conv2d": (4 * 6, 2 * 4 * 6),
        "nn.Conv3d": (2 * 6 * 6, None),
        "nn.ConvTranspose2d": (6 * 4 * 4, None),
        "ThreeDimensional": (64, None),
        "Lists": (15, None),
        "nn.LayerNorm": (2 * 16, 0),
        "ByBuffer": (0, None),
        "FusedExperts": (4 * (3 * 8 * 12 + 24), 2 * 2 * 3 * 8 * 12),
        "ParametrizedLinear": (8 * 8 + 8, 2 * 8 * 8),
        "ParametrizedConv1d": (4 * 4, 2 * 4 * 4),
    }
    assert {kind: (_kind(report, kind).params, _kind(report, kind).flops) for kind in expected} == expected
    # The tied matrix counts where it is multiplied: in the head. Else one of both twins, the gate, two output projections.
    linear, head = (kept for kept in report.kept or () if kept.kind == "nn.Linear")
    assert (linear.params, linear.note) == (8 * 16 + 8 * 4 + 2 * 8 * 8, "")
    assert linear.flops == 2 * (2 * 8 * 16 + 8 * 4 + 2 * 8 * 8)
    assert (head.params, head.flops, head.note) == (20 * 8, 2 * 20 * 8, "shared with an embedding")
    assert not any(kept.kind == "nn.Embedding" for kept in report.kept or ())
    attention = _kind(report, "nn.MultiheadAttention")
    assert attention.params == 8 * (8 + 4 + 8) + 2 * 8 + 3 * 8 * 8  # with bias_k and bias_v
    assert attention.flops == 2 * (8 * (8 + 4 + 8) + 3 * 8 * 8)
    quantised = next(kept for kept in report.kept or () if kept.kind.startswith("torch.ao"))
    assert (quantised.params, quantised.flops, quantised.note) == (0, 128, "its weight is not a parameter")


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # of reading oneDNN's flags
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 10), (1, 6)),
        (nn.GRUCell(6, 10), (1, 6)),
        (nn.LSTM(6, 10, 2), (1, 1, 6)),
        (nn.RNN(6, 4), (1, 1, 6)),
    ],
)
def test_flops_agree_with_torch(layer: nn.Module, shape: tuple[int, ...]) -> None:
    # oneDNN's LSTM is one operator, which torch's counter does not know.
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        layer(torch.zeros(shape))
    model = nn.ModuleDict({"layer": layer})
    assert plan_swaps(model, "monarch", lambda _layer, _name: False).model.flops_before == counter.get_total_flops()


def test_active_experts_are_counted_where_their_number_is_known() -> None:
    of_expert = 2 * 3 * 8 * 12
    known = _kind(plan_swaps(nn.Sequential(Mixture(1)), "monarch"), "FusedExperts")
    assert (known.flops, known.note) == (of_expert, "fused experts; FLOPs of 1 of 4 experts")
    bound = _kind(plan_swaps(nn.Sequential(Mixture(None)), "monarch"), "FusedExperts")
    assert (bound.flops, bound.note) == (4 * of_expert, "fused experts; FLOPs of all 4 experts, an upper bound")


def test_a_network_of_convolutions_says_what_it_leaves() -> None:
    def block(width: int) -> list[nn.Module]:
        return [
            nn.Conv2d(width, 4 * width, 1, bias=False),
            nn.BatchNorm2d(4 * width),
            nn.Conv2d(4 * width, 4 * width, 3, groups=4 * width, bias=False),
            nn.Conv2d(4 * width, width, 1, bias=False),
        ]

    model = nn.Sequential(*block(16), *block(16), nn.Flatten(), nn.Linear(16, 10, bias=False))
    report = swap_linear(model, "low-rank:r=4", lambda layer, _: layer.out_features != 64)
    pointwise = [kept for kept in report.kept or () if "1x1" in kept.note]
    assert [(kept.kind, kept.params, len(kept.names)) for kept in pointwise] == [("nn.Conv2d", 2 * 16 * 64, 2)]
    lines = str(report).splitlines()
    assert lines[1:3] == [
        "replaced 39.0% of the parameters and 51.9% of the known FLOPs (3 of 5 linear",
        "    layers)",
    ]
    assert lines[3] == "FLOPs are not known for 20.3% of the parameters: nn.Conv2d"
    assert "       2,048  36.2%        4,096  nn.Conv2d: kernel 1x1; FLOPs at one position" in lines


def test_the_text_has_at_most_80_columns_and_its_shares_add_up() -> None:
    report = plan_swaps(_every_kind(), "monarch", lambda _layer, name: name != "shared")
    lines = str(report).splitlines()
    assert max(map(len, lines)) <= 80
    table = [line.split() for line in lines if "% " in line and line.startswith("   ")]
    counted = sum(int(row[0].replace(",", "")) for row in table)
    assert counted == report.model.params_before - report.total.params_before
    assert f"stays as it is, {counted / report.model.params_before:.1%} of the parameters:" in lines


def test_a_weight_counts_where_its_product_is_known_and_the_other_use_stays_named() -> None:
    class Reads(nn.Module):
        def __init__(self, weight: nn.Parameter) -> None:
            super().__init__()
            self.weight = weight

    linear = nn.Linear(4, 6)
    report = plan_swaps(nn.Sequential(Reads(linear.weight), linear), "monarch")
    assert report.skipped == {"1": "weight is shared with 0"}
    assert (_kind(report, "nn.Linear").params, _kind(report, "nn.Linear").flops) == (24, 48)
    assert (_kind(report, "Reads").params, _kind(report, "Reads").flops) == (0, None)


def test_lazy_layers_are_listed_with_an_unknown_size() -> None:
    report = plan_swaps(nn.Sequential(nn.LazyConv2d(4, 1), nn.Linear(4, 4)), "monarch")
    lazy = _kind(report, "nn.LazyConv2d")
    assert (lazy.params, lazy.flops) == (0, None)
    assert "0.weight" in lazy.names
    assert lazy.note == "its size is not known before its first call"


def test_layers_of_this_package_are_listed_as_structured() -> None:
    model = nn.Sequential(nn.Linear(16, 16), FeedForwardMoE(16, 32, "ffn-moe:experts=2,top=1"), nn.Linear(16, 16))
    swap_linear(model, "low-rank:r=2", lambda _layer, name: name == "0")
    guide_layers(model, names=["0"])
    report = plan_swaps(model, "monarch")
    assert _listed(report) == _matrices(model)
    structured = {kept.kind: kept for kept in report.kept or () if not kept.dense}
    assert set(structured) == {"SelfGuidedLinear", "FeedForwardMoE"}
    assert structured["FeedForwardMoE"].flops == model[1].flops_per_token
    assert report.skipped["1"] == "already a FeedForwardMoE"


def test_json_has_what_stays_and_older_json_is_read() -> None:
    model = _every_kind()
    model.extra = [nn.Linear(2, 3)]
    report = plan_swaps(model, "monarch")
    stored = json.loads(json.dumps(report.to_json()))
    assert SwapReport.from_json(stored) == report
    del stored["kept"], stored["unreachable"]  # as reports were before
    older = SwapReport.from_json(stored)
    assert (older.kept, older.unreachable, older.replaced) == (None, {}, report.replaced)
    assert "an earlier version made this report: weights outside of linear layers are not" in str(older)
    assert apply_swaps(model, older).kept is None


class Holder:
    """A plain object with an attribute and a slot."""

    __slots__ = ("__dict__", "__private", "slot")

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.slot = nn.Linear(2, 2)
        self.__private = nn.Linear(2, 1)
        self.itself = self


class Model(nn.Module):
    def __init__(self, held: object) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4))
        self.held = held


def _closure() -> object:
    layer = nn.Linear(2, 3)
    return lambda x: layer(x)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ([nn.Linear(2, 3)], {"held[0]": "Linear, 9 parameters"}),
        ((1, {"a": nn.Conv2d(1, 2, 1)}), {"held[1]['a']": "Conv2d, 4 parameters"}),
        (deque([nn.Sequential(nn.Linear(2, 3))]), {"held[0]": "Sequential, 9 parameters"}),
        (
            Holder(nn.Linear(2, 3)),
            {
                "held.layer": "Linear, 9 parameters",
                "held.slot": "Linear, 6 parameters",
                "held.__private": "Linear, 3 parameters",
            },
        ),
        (partial(print, nn.Linear(2, 3)), {"held[0]": "Linear, 9 parameters"}),
        (nn.Linear(2, 3).forward, {"held.__self__": "Linear, 9 parameters"}),
        (_closure(), {"held:layer": "Linear, 9 parameters"}),
        ([nn.Parameter(torch.zeros(2, 3))], {"held[0]": "Parameter of 6 entries"}),
        ([torch.zeros(2, 3, requires_grad=True)], {"held[0]": "Tensor of 6 entries"}),
        ([torch.zeros(2, 3), "text", 1.5, None, int, torch], {}),
    ],
)
def test_what_plain_objects_hold_is_named(held: object, expected: dict[str, str]) -> None:
    report = plan_swaps(nn.Sequential(Model(held)), "monarch")
    assert report.unreachable == {f"0.{path}": what for path, what in expected.items()}
    assert [swap.name for swap in report.replaced] == ["0.inner.0"]
    for path, what in report.unreachable.items():
        assert f"  {path}: {what}" in str(report).splitlines()


def test_what_a_class_and_a_replaced_forward_hold_is_named() -> None:
    class OfClass(nn.Module):
        layers = (nn.Linear(2, 3),)

    model = nn.Sequential(OfClass(), nn.Sequential(nn.Linear(4, 4)))
    hidden = nn.Linear(3, 3)
    model[1].forward = lambda x: hidden(x)  # type: ignore[method-assign]
    model[1].again = model[1].forward
    assert plan_swaps(model, "monarch").unreachable == {
        "0.layers[0]": "Linear, 9 parameters",
        "1.forward:hidden": "Linear, 12 parameters",
    }


def test_the_number_of_active_experts_is_found_in_a_config() -> None:
    model = nn.Sequential(nn.Sequential(Mixture(None)))
    model.config = {"num_experts_per_tok": 3, "top_k": 1}  # top_k of a config is of sampling
    assert _kind(plan_swaps(model, "monarch"), "FusedExperts").note == "fused experts; FLOPs of 3 of 4 experts"


def test_a_registered_layer_that_a_list_holds_too_stays() -> None:
    model = Model(None)
    model.held = [model.inner[0]]
    model.other = nn.Linear(4, 4)
    model.wrapped = (nn.Sequential(model.other),)
    model.third = nn.Linear(4, 4)
    model.copies = {"w": model.third.weight}
    model.optimizer = torch.optim.SGD(model.parameters())  # made again after the swap
    model.free = nn.Linear(4, 4)
    report = plan_swaps(model, "monarch")
    assert [swap.name for swap in report.replaced] == ["free"]
    reason = "a plain Python reference, holds it too and would keep the dense layer"
    assert report.skipped == {
        "inner.0": f"held[0], {reason}",
        "other": f"wrapped[0].0, {reason}",
        "third": f"copies['w'], {reason}",
    }
    assert report.unreachable == {"wrapped[0]": "Sequential, 20 parameters"}
    plan = plan_swaps(Model(None), "monarch")
    with pytest.raises(LayerError, match=r"inner\.0.* one that stays: held\[0\], a plain Python reference"):
        apply_swaps(model, plan)


def test_a_list_that_holds_the_same_layer_would_have_computed_the_dense_one() -> None:
    """Without this reason, the list's layer would be the one that the model calls."""

    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.order = [self.first]

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.order:
                x = layer(x)
            return x

    model = Calls()
    assert not swap_linear(model, "monarch").replaced
    assert model.order[0] is model.first
