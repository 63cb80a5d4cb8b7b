"""EinsumLinear as a replacement of nn.Linear: shapes, copies, precision, compilers, devices, errors."""

from __future__ import annotations

import copy
import io
import pickle
import shutil
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call

from einsearch_cli.errors import LayerError, SizeError, StructureError
from einsearch_cli.layers import EinsumLinear, factored_module
from einsearch_cli.layers.plans.planner import routes
from einsearch_cli.structures import parse_structure


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (2, 0, 3), (1, 2, 3, 4)])
def test_any_leading_shape_as_nn_linear(case: Any, shape: tuple[int, ...]) -> None:
    layer = case.layer()
    x = torch.randn(*shape, case.d_in, dtype=torch.float64, requires_grad=True)
    reference = nn.functional.linear(x, layer.to_dense(), layer.bias)
    y = layer(x)
    assert y.shape == reference.shape
    assert y.is_contiguous()
    torch.testing.assert_close(y, reference)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape


def test_strided_inputs(case: Any) -> None:
    layer = case.layer()
    x = torch.randn(case.d_in, 4, 6, dtype=torch.float64).permute(2, 1, 0)[::2]
    torch.testing.assert_close(layer(x), layer(x.contiguous()))
    row = torch.randn(case.d_in, dtype=torch.float64)
    torch.testing.assert_close(layer(row.expand(3, -1)), layer(row.repeat(3, 1)))


def test_state_dict_round_trip(case: Any) -> None:
    layer, other = case.layer(seed=0), case.layer(seed=1)
    x = torch.randn(3, case.d_in, dtype=torch.float64)
    expected = {"gain", "bias", *(f"factors.{f}" for f in layer.sized.factors)}
    assert set(layer.state_dict()) == expected
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), layer(x), rtol=1e-12, atol=1e-12)


def test_layers_pickled_before_their_text_was_kept() -> None:
    layer = EinsumLinear(16, 16, "monarch")
    state = layer.__getstate__()
    del state["_structure_text"]
    other = EinsumLinear.__new__(EinsumLinear)
    other.__setstate__(state)
    assert repr(other) == repr(layer)


def test_deepcopy_and_pickle_are_independent_copies(case: Any) -> None:
    layer = case.layer()
    x = torch.randn(3, case.d_in, dtype=torch.float64)
    y = layer(x)
    saved = io.BytesIO()
    torch.save(layer, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=False)
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded]  # noqa: S301
    with torch.no_grad():
        layer.gain.zero_()
    for other in copies:
        torch.testing.assert_close(other(x), y, rtol=1e-12, atol=1e-12)
        assert other.structure == layer.structure
        assert other.plan == layer.plan


def test_autocast_as_nn_linear(case: Any) -> None:
    layer = case.layer().float()
    x = torch.randn(8, case.d_in, requires_grad=True)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        assert y.dtype is nn.Linear(case.d_in, case.d_out)(x).dtype is torch.bfloat16
        assert layer.to_dense().dtype is torch.float32
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05 * exact.abs().max().item())
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype is torch.float32
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in layer.parameters())


@pytest.mark.parametrize("name", ["dense", "btt-2", "tt", "generic", "prime-in-and-out", "all-of-three"])
def test_compiles_without_graph_breaks(market: dict[str, Any], name: str) -> None:
    torch.compiler.reset()
    layer = market[name].layer()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for tokens in (4, 6):
        x = torch.randn(tokens, 2, market[name].d_in, dtype=torch.float64, requires_grad=True)
        y = compiled(x)
        torch.testing.assert_close(y, layer(x))
        gradients = torch.autograd.grad(y.square().sum(), (x, *layer.parameters()))
        expected = torch.autograd.grad(layer(x).square().sum(), (x, *layer.parameters()))
        torch.testing.assert_close(gradients, expected)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore")  # what the compiler warns of is not ours
def test_compiles_with_inductor() -> None:
    torch.compiler.reset()
    layer = EinsumLinear(16, 16, "btt:r=2")
    x = torch.randn(4, 16)
    with torch.no_grad():  # the gradients are compiled above; each graph costs seconds of C++
        torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Converting a tensor:torch.jit.TracerWarning")  # widths, which are to be constants
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", ["dense", "btt-2", "prime-in-and-out"])
def test_traces_for_any_number_of_tokens_and_any_parameters(market: dict[str, Any], name: str, grad: bool) -> None:
    layer, d_in = market[name].layer(), market[name].d_in
    layer.route = routes(layer.sized)[0].text
    example = torch.randn(3, d_in, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        layer(example)  # nothing that this call leaves may become a constant
        traced = torch.jit.trace(layer, example)
        for tokens in (3, 7):
            x = torch.randn(tokens, d_in, dtype=torch.float64)
            with torch.no_grad():
                layer.factors["A"].mul_(3)
            expected = nn.functional.linear(x, layer.to_dense(), layer.bias)
            torch.testing.assert_close(traced(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", ["dense", "btt-2", "prime-in-and-out"])
def test_dual_numbers(market: dict[str, Any], name: str, grad: bool) -> None:
    """Forward-mode derivatives: tangents of the input, and of parameters against a difference quotient."""
    layer, d_in = market[name].layer(cap=True), market[name].d_in
    dense, before = layer.to_dense().detach(), dict(layer.named_parameters())
    x, tangent = torch.randn(2, 3, d_in, dtype=torch.float64)
    tangents = {name: torch.randn_like(parameter) for name, parameter in before.items()}
    with torch.no_grad():
        step = 1e-6
        ends = [
            functional_call(layer, {name: p + sign * step * tangents[name] for name, p in before.items()}, (x,))
            for sign in (-1, 1)
        ]
        slope = (ends[1] - ends[0]) / (2 * step)
    for route in routes(layer.sized):
        layer.route = route.text
        with torch.set_grad_enabled(grad):
            layer(x)
            with forward_ad.dual_level():
                y = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, tangent)))
                torch.testing.assert_close(y.primal, layer(x), rtol=1e-10, atol=1e-10)
                torch.testing.assert_close(y.tangent, tangent @ dense.T, rtol=1e-10, atol=1e-10)
                duals = {name: forward_ad.make_dual(p, tangents[name]) for name, p in before.items()}
                y = forward_ad.unpack_dual(functional_call(layer, duals, (x,)))
                torch.testing.assert_close(y.tangent, slope, rtol=1e-6, atol=1e-6)


def test_exports(market: dict[str, Any]) -> None:
    layer = market["btt-2"].layer()
    x = torch.randn(3, market["btt-2"].d_in, dtype=torch.float64)
    program = torch.export.export(layer, (x,))
    torch.testing.assert_close(program.module()(x), layer(x))


def test_meta_device_holds_anything_and_can_be_materialised() -> None:
    huge = EinsumLinear(2**22, 2**22, "dense", device="meta")
    assert huge(torch.empty(3, 2**22, device="meta")).shape == (3, 2**22)
    assert huge.to_dense().shape == (2**22, 2**22)
    with torch.device("meta"):
        layer = EinsumLinear(16, 16, "monarch")
    assert all(p.is_meta for p in layer.parameters())
    torch.manual_seed(0)
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    torch.manual_seed(0)
    direct = EinsumLinear(16, 16, "monarch")
    x = torch.randn(3, 16)
    assert torch.equal(layer(x), direct(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_of_parameters_and_output(dtype: torch.dtype) -> None:
    layer = EinsumLinear(16, 16, "btt:r=2", dtype=dtype)
    assert {p.dtype for p in layer.parameters()} == {dtype}
    assert layer(torch.randn(3, 16, dtype=dtype)).dtype is dtype
    assert layer.to_dense().dtype is dtype


def test_default_dtype_is_that_of_torch() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert EinsumLinear(4, 4, "dense").gain.dtype is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_repr_shows_the_arguments() -> None:
    layer = EinsumLinear(16, 9, "monarch", bias=False)
    assert layer.bias is None
    text = "in_features=16, out_features=9, structure='XA^1/2 XAB^1/2 YB^1/2 YAB^1/2', bias=False"
    assert layer.extra_repr() == text
    assert text in repr(layer)


def test_structure_object_and_text_are_the_same() -> None:
    assert EinsumLinear(16, 16, parse_structure("btt:r=2")).structure == EinsumLinear(16, 16, "btt:r=2").structure


def test_transformer_encoder_layer_reads_the_weight() -> None:
    """Its inference path reads `linear1.weight`, which a structured layer computes."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    encoder.linear1 = EinsumLinear(16, 32, "monarch")  # type: ignore[assignment]
    x = torch.randn(2, 3, 16)
    trained = encoder(x)
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(x), trained, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (3,), (16, 2), (16, 0)])
def test_wrong_width_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(LayerError) as caught:
        EinsumLinear(16, 16, "monarch")(torch.zeros(shape))
    assert f"input of shape {shape}: the last dimension must be in_features = 16" in str(caught.value)
    assert "try:" in str(caught.value)


def test_integer_input_is_named() -> None:
    with pytest.raises(LayerError, match=r"input of dtype torch.int64: .*\n.*\.to\(torch\.float32\)"):
        EinsumLinear(4, 4, "dense")(torch.zeros(3, 4, dtype=torch.int64))


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_inputs_that_are_not_dense_tensors_are_named(grad: bool) -> None:
    layer = EinsumLinear(16, 16, "btt:r=2")
    with torch.set_grad_enabled(grad):
        with pytest.raises(LayerError, match=r"layout torch\.sparse_coo: .*\ntry: convert it with \.to_dense"):
            layer(torch.zeros(3, 16).to_sparse())
        for wrong, kind in ((None, "NoneType"), ([0.0] * 16, "list")):
            with pytest.raises(LayerError, match=rf"input of type {kind}: .*\(…, 16\)\ntry: make a tensor"):
                layer(wrong)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_dtype_that_cannot_be_trained_is_named(dtype: torch.dtype) -> None:
    with pytest.raises(LayerError, match=f"dtype {dtype}"):
        EinsumLinear(4, 4, "dense", dtype=dtype)


def test_unknown_structure_is_named() -> None:
    with pytest.raises(StructureError, match="monrach"):
        EinsumLinear(4, 4, "monrach")


def test_terabytes_are_refused_before_they_are_allocated() -> None:
    with pytest.raises(SizeError) as caught:
        EinsumLinear(2**24, 2**24, "dense")
    message = str(caught.value)
    assert f"{2**48:,} parameters = {2**50:,} bytes as torch.float32" in message
    assert "device='meta'" in message


def test_memory_limit_counts_bytes_of_the_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factored_module, "memory_bytes", lambda _device: 4 * 100)
    EinsumLinear(10, 10, "dense", dtype=torch.float32)
    with pytest.raises(SizeError, match="800 bytes"):
        EinsumLinear(10, 10, "dense", dtype=torch.float64)


def test_sharded_layers_train_as_others() -> None:
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("torch without gloo")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    layer = EinsumLinear(16, 16, "btt:r=2")
    twin = copy.deepcopy(layer)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(layer, mesh=init_device_mesh("cpu", (1,)))
        x = torch.randn(4, 16)
        for model in (layer, twin):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            model(x).square().sum().backward()
            optimizer.step()
            assert model.gain.item() != 1
        with torch.no_grad():
            torch.testing.assert_close(layer(x), twin(x))
    finally:
        distributed.destroy_process_group()
