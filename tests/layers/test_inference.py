"""Calls without gradients, with and without merging: the outputs are those of the current parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.layers import EinsumLinear, merge
from einsearch_cli.layers.execution import products
from einsearch_cli.layers.execution.merged import KeptWeights
from einsearch_cli.layers.execution.reference import repeated
from einsearch_cli.layers.plans.planner import routes
from tests.layers.parts import reference_output

ROUTES = ["(xA)B", "x(AB)"]


@pytest.fixture(params=[(route, merges) for merges in (False, True) for route in ROUTES], ids=str)
def layer(request: pytest.FixtureRequest) -> EinsumLinear:
    torch.manual_seed(0)
    made = EinsumLinear(16, 16, "btt:r=2").eval()
    made.route, merges = request.param
    return merge(made) if merges else made


def weights_of(layer: EinsumLinear) -> KeptWeights:
    assert layer._merging is not None
    assert layer._merging.weights is not None
    return layer._merging.weights


def plain(layer: EinsumLinear, x: Tensor) -> Tensor:
    return reference_output(layer, x).detach()


STRIDED: dict[str, Callable[[], Tensor]] = {
    "columns": lambda: torch.randn(5, 32, dtype=torch.float64)[:, ::2],
    "transposed": lambda: torch.randn(16, 5, dtype=torch.float64).T,
    "one row for all": lambda: torch.randn(16, dtype=torch.float64).expand(5, -1),
}


@pytest.mark.parametrize("make", STRIDED.values(), ids=STRIDED.keys())
@torch.no_grad()
def test_strided_inputs_give_what_the_dense_matrix_gives(layer: EinsumLinear, make: Callable[[], Tensor]) -> None:
    """The executors read memory by their own strides, not by those of the input."""
    layer, x = layer.double(), make()
    assert not x.is_contiguous()
    expected = x @ layer.to_dense().T
    for _ in range(2):  # while it is prepared, and from what was kept
        torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("d_in", "d_out", "transposed"), [(32, 128, True), (128, 32, False), (64, 64, False)])
def test_a_merged_matrix_lies_as_is_fastest_for_few_tokens(d_in: int, d_out: int, transposed: bool) -> None:
    layer = merge(EinsumLinear(d_in, d_out, "btt:r=2", bias=False))
    layer.route = "x(AB)"
    with torch.no_grad():
        x = torch.randn(3, d_in)
        torch.testing.assert_close(layer(x), x @ layer.to_dense().T, rtol=1e-4, atol=1e-5)
    assert weights_of(layer).weight.shape == (d_out, d_in)
    assert weights_of(layer).weight.T.is_contiguous() is transposed


def test_swapped_in_parameters_are_used(layer: EinsumLinear) -> None:
    x = torch.randn(3, 16)
    other = {name: torch.randn_like(p) for name, p in layer.named_parameters()}
    with torch.no_grad():
        layer(x)
        swapped = torch.func.functional_call(layer, other, (x,))
        layer.load_state_dict(other)
        torch.testing.assert_close(swapped, layer(x))


def test_input_that_requires_grad_under_inference_mode(layer: EinsumLinear) -> None:
    x = torch.randn(3, 16, requires_grad=True)
    with torch.inference_mode():
        y = layer(x)
    assert not y.requires_grad
    torch.testing.assert_close(y.clone(), plain(layer, x))


def test_autocast_gets_merged_weights_of_its_dtype(layer: EinsumLinear) -> None:
    x = torch.randn(3, 16)
    with torch.no_grad():
        exact = layer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(x)
            assert y.dtype is torch.bfloat16
            torch.testing.assert_close(layer(x), y)
        torch.testing.assert_close(layer(x), exact)
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_no_tokens_of_another_width_and_no_values_are_named(layer: EinsumLinear, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        assert layer(torch.ones(0, 16)).shape == (0, 16)
        for shape in ((0, 15), (2, 0, 15)):
            with pytest.raises(LayerError, match=r"the last dimension must be in_features = 16"):
                layer(torch.ones(shape))
        with pytest.raises(LayerError, match=r"input on meta, parameter gain on cpu"):
            layer(torch.ones(2, 16, device="meta"))


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_what_does_not_fit_is_named(layer: EinsumLinear, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        layer(torch.randn(3, 16))
        with pytest.raises(LayerError, match=r"input of shape \(3, 15\): the last dimension must be in_features = 16"):
            layer(torch.randn(3, 15))
        with pytest.raises(LayerError, match=r"input of dtype torch\.float64, parameter gain of torch\.float32"):
            layer(torch.randn(3, 16, dtype=torch.float64))
        with pytest.raises(LayerError, match=r"input of dtype torch\.int64: the layer takes floating tensors"):
            layer(torch.ones(3, 16, dtype=torch.int64))
        with pytest.raises(LayerError, match=r"input of dtype torch\.complex64"):
            layer(torch.ones(3, 16, dtype=torch.complex64))
        layer.factors["A"] = nn.Parameter(layer.factors["A"].to("meta"))
        with pytest.raises(LayerError, match=r"input on cpu, parameter factors\.A on meta"):
            layer(torch.randn(3, 16))


def test_unknown_route_is_named() -> None:
    with pytest.raises(LayerError, match=r"route 'x\(BA\)': this layer's are \(xA\)B, x\(AB\)\ntry: one of these"):
        EinsumLinear(16, 16, "monarch").route = "x(BA)"


def test_half_precision_on_the_cpu_gives_what_single_precision_gives(layer: EinsumLinear) -> None:
    x = torch.randn(3, 16)
    exact = plain(layer, x)
    half = copy.deepcopy(layer).half()
    with torch.no_grad():
        torch.testing.assert_close(half(x.half()).float(), exact, rtol=0.02, atol=0.02)
    torch.testing.assert_close(half(x.half()).float().detach(), exact, rtol=0.02, atol=0.02)


def test_a_scale_whose_gradients_overflow_half_precision_on_their_way(layer: EinsumLinear) -> None:
    """The gain's gradient, about 2**15, is a sum of parts beyond 2**16."""
    with torch.no_grad():
        for factor in layer.factors.values():
            factor.mul_(1.5)
    half, single = copy.deepcopy(layer).half(), layer
    single.load_state_dict(half.state_dict())
    x = torch.randn(2000, 16).half()
    for found, slow in zip(_gradients(half, x), _gradients(single, x.float()), strict=True):
        torch.testing.assert_close(found.float(), slow, rtol=0.02, atol=0.02 * slow.abs().max().item())


def _gradients(layer: EinsumLinear, x: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(layer(x).float().square().sum(), tuple(layer.parameters()))


class _Doubled(nn.Module):
    def forward(self, parameter: Tensor) -> Tensor:
        return 2 * parameter


@pytest.mark.parametrize("name", ["factors.A", "gain", "bias"])
def test_parametrized_parameters(layer: EinsumLinear, name: str) -> None:
    x = torch.randn(3, 16)
    holder, _, own = name.rpartition(".")
    with torch.no_grad():
        layer.bias.fill_(1)  # type: ignore[union-attr]
        layer(x)
    nn.utils.parametrize.register_parametrization(layer.get_submodule(holder), own, _Doubled())
    expected = nn.functional.linear(x, layer.to_dense(), layer.bias)
    y = layer(x)
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_autocast_leaves_float64_alone(layer: EinsumLinear, grad: bool) -> None:
    layer.double()
    x = torch.randn(3, 16, dtype=torch.float64)
    expected = plain(layer, x)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x).detach(), expected)
        with pytest.raises(LayerError, match=r"input of dtype torch\.float32, parameter gain of torch\.float64"):
            layer(x.float())


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_shapes_on_the_meta_device(layer: EinsumLinear, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        layer(torch.randn(3, 16))  # what is kept of it must stay behind
        padded = EinsumLinear(13, 17, "btt:r=2", device="meta")
        padded.route = layer.route
        for made in (layer.to("meta"), padded):
            for leading in [(), (3,), (2, 3), (0,)]:
                y = made(torch.empty(*leading, made.in_features, device="meta"))
                assert y.is_meta
                assert y.shape == (*leading, made.out_features)


def test_a_merged_layer_repeats_factors_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are repeated along axes that only the activation has, and not at all for few tokens."""
    repeats = []
    monkeypatch.setattr(products, "repeated", lambda *arguments: repeats.append(1) or repeated(*arguments))
    layer, x = merge(EinsumLinear(256, 256, "(0.5|0.25|0.25|0.25|0.5|0.25|0)").eval()), torch.randn(20, 256)
    layer.route = "(xA)B"
    with torch.no_grad():
        expected = plain(layer, x)
        torch.testing.assert_close(layer(x[:3]), expected[:3])
        assert not repeats
        torch.testing.assert_close(layer(x), expected)
        assert len(repeats) == 2
        torch.testing.assert_close(layer(x.repeat(2, 1))[:20], expected)
        assert len(repeats) == 2
        layer.factors["A"].mul_(1.5)
        torch.testing.assert_close(layer(x), plain(layer, x))
        assert len(repeats) == 4


def test_what_is_merged_is_kept_once_for_both_plans_of_a_route() -> None:
    layer = merge(EinsumLinear(64, 64, "monarch:n=3").eval())
    layer.route = next(route.text for route in routes(layer.sized) if 1 < len(route.plan.steps) < 3)
    with torch.no_grad():
        layer(torch.randn(3, 64))
        layer(torch.randn(40, 64))
    few, many = weights_of(layer).prepared.values()
    assert [one.data_ptr() for one in few] == [one.data_ptr() for one in many]


@pytest.mark.parametrize("merges", [False, True])
def test_factors_are_repeated_only_for_the_plan_that_wants_it(merges: bool) -> None:
    """Both plans of one route serve one layer in turn, each with its own weights."""
    layer = EinsumLinear(256, 256, "XA^1/2 XB^1/4 XAB^1/4 YA^1/4 YB^1/2 YAB^1/4 AB^1/4", dtype=torch.float64)
    layer = merge(layer) if merges else layer
    layer.route = "(xA)B"
    assert layer.plan.steps[0].is_repeated
    for tokens in (40, 3, 40, 1):
        x = torch.randn(tokens, 256, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), x @ layer.to_dense().T + layer.bias, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("dtype", "autocast", "is_few"),
    [(torch.float32, None, False), (torch.float64, None, True), (torch.float32, torch.bfloat16, True)],
)
def test_the_dtype_of_the_products_decides_how_many_tokens_are_few(
    dtype: torch.dtype, autocast: torch.dtype | None, is_few: bool
) -> None:
    layer, x = EinsumLinear(1024, 1024, "block-shuffle:blocks=4", dtype=dtype), torch.randn(40, 1024, dtype=dtype)
    layer.route = "(xA)B"
    wanted = layer.plan.few_tokens if is_few else layer.plan
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        layer(x)
        with torch.no_grad():
            layer(x)
            merge(layer)(x)
        for use in ("training", "inference", "merged"):
            assert layer.explain(40, use).plan is wanted
    assert list(weights_of(layer).prepared) == [wanted]
