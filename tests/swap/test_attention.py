"""nn.MultiheadAttention taken apart: the same results, then structured projections; torch's encoders around it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.swap import SplitMultiheadAttention, swap_linear

# N batch, L queries, S keys and values, E features.
N, L, S, E, HEADS = 3, 4, 5, 12, 2


def _dense(**options: object) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(E, HEADS, dtype=torch.float64, **options)  # type: ignore[arg-type]
    for parameter in attention.parameters():
        nn.init.normal_(parameter)  # biases start at zero, and would hide a bias that is lost
    return attention


def _inputs(batch_first: bool, batched: bool, kdim: int = E, vdim: int = E) -> tuple[Tensor, Tensor, Tensor]:
    shapes = [(L, E), (S, kdim), (S, vdim)]
    if not batched:
        return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)  # type: ignore[return-value]
    tensors = [torch.randn(N, *shape, dtype=torch.float64) for shape in shapes]
    return tuple(x if batch_first else x.transpose(0, 1) for x in tensors)  # type: ignore[return-value]


def _masks(batched: bool) -> Iterator[dict[str, Tensor | bool]]:
    padding = torch.zeros(N, S, dtype=torch.bool) if batched else torch.zeros(S, dtype=torch.bool)
    padding[..., 1] = True  # not the last key, which the causal mask hides from all queries
    causal = torch.ones(L, S, dtype=torch.bool).triu(1)
    per_head = torch.randn(N * HEADS if batched else HEADS, L, S, dtype=torch.float64)
    yield {}
    yield {"attn_mask": causal}
    yield {"attn_mask": per_head}
    yield {"key_padding_mask": padding}
    yield {"key_padding_mask": padding, "attn_mask": causal}
    yield {"key_padding_mask": torch.where(padding, -1.5, 0.0).double(), "attn_mask": per_head}
    yield {"attn_mask": causal, "is_causal": True}
    yield {"attn_mask": causal, "is_causal": True, "key_padding_mask": padding}


@pytest.mark.parametrize("widths", [{}, {"kdim": 7, "vdim": 9}], ids=["packed", "kdim-vdim"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("batch_first", "batched"), [(True, True), (False, True), (False, False)])
def test_taken_apart_it_gives_what_the_dense_one_gives(
    batch_first: bool, batched: bool, bias: bool, widths: dict[str, int]
) -> None:
    dense = _dense(batch_first=batch_first, bias=bias, **widths)
    split = SplitMultiheadAttention(dense)
    q, k, v = _inputs(batch_first, batched, **widths)
    for masks, weights, average in itertools.product(_masks(batched), (True, False), (True, False)):
        options = {**masks, "need_weights": weights, "average_attn_weights": average}
        wanted, wanted_weights = dense(q, k, v, **options)
        found, found_weights = split(q, k, v, **options)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(found_weights, wanted_weights)


def test_dropout_acts_in_training_only_and_as_in_the_dense_one() -> None:
    dense = _dense(batch_first=True, dropout=0.5)
    split = SplitMultiheadAttention(dense)
    q, k, v = _inputs(True, True)
    for weights, training in itertools.product((True, False), (True, False)):
        torch.manual_seed(1)
        wanted = dense.train(training)(q, k, v, need_weights=weights)[0]
        torch.manual_seed(1)
        torch.testing.assert_close(split.train(training)(q, k, v, need_weights=weights)[0], wanted)
    assert not SplitMultiheadAttention(dense.eval()).q_proj.training


def test_gradients_are_slices_of_those_of_the_packed_weight() -> None:
    dense = _dense(batch_first=True)
    split = SplitMultiheadAttention(dense)
    q, k, v = _inputs(True, True)
    dense(q, k, v)[0].square().sum().backward()
    wanted = dense.in_proj_weight.grad
    split(q, k, v)[0].square().sum().backward()
    parts = [split.q_proj, split.k_proj, split.v_proj]
    torch.testing.assert_close(torch.cat([part.weight.grad for part in parts]), wanted)  # type: ignore[misc]


def test_a_swapped_attention_is_the_dense_one_with_the_matrices_of_its_layers() -> None:
    """The slow route packs the dense matrices of the structured layers into an nn.MultiheadAttention."""
    model = nn.ModuleDict({"attention": _dense(batch_first=True)})
    report = swap_linear(model, "btt:r=2")
    assert [swap.name for swap in report.replaced] == [
        f"attention.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")
    ]
    split = model["attention"]
    assert isinstance(split, SplitMultiheadAttention)
    layers = [split.q_proj, split.k_proj, split.v_proj, split.out_proj]
    assert all(isinstance(layer, EinsumLinear) for layer in layers)
    for layer in layers:
        nn.init.normal_(layer.bias)  # type: ignore[arg-type]
    rebuilt = _dense(batch_first=True)
    with torch.no_grad():
        rebuilt.in_proj_weight.copy_(torch.cat([layer.to_dense() for layer in layers[:3]]))  # type: ignore[operator]
        rebuilt.in_proj_bias.copy_(torch.cat([layer.bias for layer in layers[:3]]))  # type: ignore[misc]
        rebuilt.out_proj.weight.copy_(split.out_proj.to_dense())  # type: ignore[operator]
        rebuilt.out_proj.bias.copy_(split.out_proj.bias)  # type: ignore[arg-type]
    q, k, v = _inputs(True, True)
    torch.testing.assert_close(split(q, k, v), rebuilt(q, k, v))
    assert report.model.params_after == sum(p.numel() for p in model.parameters())
    assert report.total.params_before == 4 * E * E
    assert report.total.flops_before == 2 * 4 * E * E


def test_only_some_projections() -> None:
    dense = _dense(batch_first=True)
    dense.in_proj_weight.requires_grad_(False)
    model = nn.ModuleDict({"attention": dense})
    report = swap_linear(model, "monarch", lambda _layer, name: name.endswith("v_proj"))
    assert list(report.skipped) == [f"attention.{part}" for part in ("q_proj", "k_proj", "out_proj")]
    split = model["attention"]
    assert isinstance(split, SplitMultiheadAttention)
    assert torch.equal(split.k_proj.weight, dense.in_proj_weight[E : 2 * E])  # type: ignore[arg-type]
    assert split.out_proj.weight is dense.out_proj.weight
    frozen = {name for name, p in split.named_parameters() if not p.requires_grad}
    assert frozen == {"q_proj.weight", "k_proj.weight", "v_proj.gain", "v_proj.factors.A", "v_proj.factors.B"}
    assert {swap.kind for swap in swap_linear(model, "monarch").replaced} == {"Linear"}
    assert isinstance(split.q_proj, EinsumLinear)


def test_an_attention_that_the_filter_leaves_is_not_taken_apart() -> None:
    model = nn.ModuleDict({"attention": _dense(), "up": nn.Linear(E, E)})
    dense = model["attention"]
    swap_linear(model, "monarch", lambda layer, _name: not isinstance(layer.module, nn.MultiheadAttention))
    assert model["attention"] is dense
    assert isinstance(model["up"], EinsumLinear)


def test_an_attention_held_twice_stays_one() -> None:
    attention = nn.MultiheadAttention(E, HEADS)
    model = nn.ModuleDict({"a": attention, "b": nn.Sequential(attention)})
    report = swap_linear(model, "monarch")
    assert report.replaced[0].aliases == ("b.0.q_proj",)
    assert isinstance(model["a"], SplitMultiheadAttention)
    assert model["a"] is model["b"][0]  # type: ignore[index]


def test_tied_output_projections_share_their_factors() -> None:
    a, b = nn.MultiheadAttention(E, HEADS), nn.MultiheadAttention(E, HEADS)
    b.out_proj.weight = a.out_proj.weight
    model = nn.Sequential(a, b)
    swap_linear(model, "monarch")
    first, second = (split.out_proj for split in model)
    assert first.factors["A"] is second.factors["A"]  # type: ignore[index,union-attr]
    assert model[0].q_proj.factors["A"] is not model[0].k_proj.factors["A"]  # type: ignore[union-attr]


class OwnAttention(nn.MultiheadAttention):
    """A subclass."""


def test_attention_that_cannot_be_taken_apart_stays_by_name() -> None:
    hooked, shared, other = (nn.MultiheadAttention(E, HEADS) for _ in range(3))
    hooked.register_forward_hook(lambda *_: None)
    other.in_proj_weight = shared.in_proj_weight
    model = nn.ModuleDict(
        {
            "bias_kv": nn.MultiheadAttention(E, HEADS, add_bias_kv=True),
            "zero": nn.MultiheadAttention(E, HEADS, add_zero_attn=True),
            "own": OwnAttention(E, HEADS),
            "hooked": hooked,
            "shared": shared,
            "other": other,
        }
    )
    report = swap_linear(model, "monarch")
    assert report.replaced == ()
    assert len(report.skipped) == 6 * 4
    reasons = {name: report.skipped[f"{name}.out_proj"] for name in model}
    assert "has add_bias_kv" in reasons["bias_kv"]
    assert "has add_zero_attn" in reasons["zero"]
    assert "OwnAttention is a subclass of nn.MultiheadAttention" in reasons["own"]
    assert "has hooks" in reasons["hooked"]
    assert reasons["shared"] == "the attention's in_proj_weight is shared with other"


def test_bad_arguments_are_refused() -> None:
    split = SplitMultiheadAttention(_dense(batch_first=True))
    q, k, v = _inputs(True, True)
    with pytest.raises(LayerError, match=r"attn_mask of shape \(5, 4\).*\(4, 5\) or \(6, 4, 5\)"):
        split(q, k, v, attn_mask=torch.zeros(S, L))
    with pytest.raises(LayerError, match=r"key_padding_mask of shape \(3, 5\) and dtype torch.int64"):
        split(q, k, v, key_padding_mask=torch.zeros(N, S, dtype=torch.int64))
    with pytest.raises(LayerError, match=r"is_causal=True without attn_mask.*\n.*generate_square"):
        split(q, k, v, is_causal=True)
    nested = torch.nested.as_nested_tensor([q[0], q[1]], layout=torch.jagged)
    with pytest.raises(LayerError, match="nested tensors"):
        split(nested, nested, nested)


def _encoder(nested: bool = True) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)


@pytest.mark.parametrize("part", ["", "self_attn", "linear", "layers.1"])
def test_an_encoder_gives_the_same_in_eval_mode_as_in_training_mode(part: str) -> None:
    """torch's fast path, which reads weights without forward() in eval mode, would not notice our layers."""
    model = _encoder()
    swap_linear(model, "btt:r=1", lambda _layer, name: part in name)
    x = torch.randn(3, 5, 16)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1:, -2:] = True
    wanted = model.train()(x, src_key_padding_mask=padding)
    called = _calls_of_structured_layers(model)
    with torch.no_grad():
        found = model.eval()(x, src_key_padding_mask=padding)
    assert all(count == 1 for count in called.values())
    torch.testing.assert_close(found[~padding], wanted[~padding])


def _calls_of_structured_layers(model: nn.Module) -> dict[str, int]:
    """Count calls without hooks, as hooks switch off the fast path."""
    called: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, EinsumLinear):
            called[name] = 0

            def forward(x: Tensor, name: str = name, module: EinsumLinear = module) -> Tensor:
                called[name] += 1
                return EinsumLinear.forward(module, x)

            module.forward = forward  # type: ignore[method-assign]
    assert called
    return called


def test_encoder_layers_without_structured_layers_keep_their_fast_path() -> None:
    model = _encoder(nested=False)
    swap_linear(model, "btt:r=1", lambda _layer, name: "layers.1" in name)
    first, second = model.layers
    assert isinstance(first, nn.TransformerEncoderLayer)
    assert isinstance(second, nn.TransformerEncoderLayer)
    assert first.activation_relu_or_gelu == 1
    assert second.activation_relu_or_gelu == 0


def test_a_whole_transformer_trains_and_infers_after_the_swap() -> None:
    torch.manual_seed(0)
    model = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)
    report = swap_linear(model, "btt:r=1")
    assert report.skipped == {}
    assert len(report.replaced) == 3 * 4 + 2 * 2
    source, target = torch.randn(2, 5, 16), torch.randn(2, 4, 16)
    causal = nn.Transformer.generate_square_subsequent_mask(4)
    model(source, target, tgt_mask=causal, tgt_is_causal=True).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        assert model.eval()(source, target, tgt_mask=causal).shape == target.shape
