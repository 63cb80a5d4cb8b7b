"""Merging on request: without it, no values are kept; with it, every change that torch sees ends it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from threading import Barrier, Thread

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from einsearch_cli import swap_linear
from einsearch_cli.export.copies import ServingLinear
from einsearch_cli.guided import SelfGuidedLinear
from einsearch_cli.layers import EinsumLinear, merge, merged, unmerge
from einsearch_cli.layers.execution.dense import DenseExecutor
from einsearch_cli.layers.execution.merged import merged_weights
from einsearch_cli.moe import FeedForwardMoE, StructuredMoE
from einsearch_cli.swap import SplitMultiheadAttention

SEEDS = range(20)
ROUTES = [None, "(xA)B", "x(AB)"]


@pytest.fixture(params=ROUTES, ids=str)
def layer(request: pytest.FixtureRequest) -> EinsumLinear:
    torch.manual_seed(0)
    made = EinsumLinear(16, 16, "btt:r=2").eval()
    made.route = request.param
    return made


def dense(layer: EinsumLinear, x: Tensor) -> Tensor:
    return functional.linear(x, layer.to_dense(), layer.bias).detach()


def _prune_magnitudes(factor: nn.Parameter) -> None:
    factor.data[factor.data.abs() < factor.data.abs().median()] = 0


def _mask_two_of_four(factor: nn.Parameter) -> None:
    groups = factor.data.view(-1, 4)
    groups.scatter_(1, groups.abs().topk(2, dim=1, largest=False).indices, 0.0)


def _quantise(factor: nn.Parameter) -> None:
    step = factor.data.abs().max() / 127
    factor.data.copy_((factor.data / step).round() * step)


def _descend(factor: nn.Parameter) -> None:
    """A descent step by hand that spares the largest element, which is the scale of a quantiser."""
    change = 0.05 * torch.randn_like(factor.data)
    change.view(-1)[factor.data.abs().argmax()] = 0
    factor.data -= change


def _edit_in_numpy(factor: nn.Parameter) -> None:
    factor.detach().numpy()[..., 0] = 0.125


UNSEEN: dict[str, Callable[[nn.Parameter], None]] = {
    "magnitude pruning": _prune_magnitudes,
    "2:4 mask": _mask_two_of_four,
    "int8 fake quantisation": _quantise,
    "SGD by hand": _descend,
    "NumPy": _edit_in_numpy,
}


@pytest.mark.parametrize("edit", UNSEEN.values(), ids=UNSEEN)
@torch.no_grad()
def test_an_edit_past_torch_is_in_the_next_output(layer: EinsumLinear, edit: Callable[[nn.Parameter], None]) -> None:
    for seed in SEEDS:
        torch.manual_seed(seed)
        layer.reset_parameters()
        x = torch.randn(3, 16)
        before = layer(x)
        for factor in layer.factors.values():
            edit(factor)
        torch.testing.assert_close(layer(x), dense(layer, x))
        assert not torch.allclose(layer(x), before, atol=1e-6)


@pytest.mark.parametrize("edit", UNSEEN.values(), ids=UNSEEN)
@torch.no_grad()
def test_other_layers_keep_no_values_either(edit: Callable[[nn.Parameter], None]) -> None:
    """Experts, guided layers, split attention and layers for serving are tested."""
    torch.manual_seed(0)
    x = torch.randn(5, 16)
    experts = StructuredMoE(16, 16, "btt-moe:r=2,experts=4,top=2").eval()
    network = FeedForwardMoE(16, 32, "ffn-moe:experts=4,top=2").eval()
    guided = SelfGuidedLinear(EinsumLinear(16, 16, "btt:r=2")).eval()
    guided.set_weight(0.3)
    serving = ServingLinear(EinsumLinear(16, 16, "btt:r=2"))
    attention = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    holder = nn.ModuleDict({"attention": attention})
    swap_linear(holder, "btt:r=2")
    split = holder["attention"]
    whole: list[tuple[nn.Module, Callable[[], Tensor]]] = [
        (experts, lambda: experts(x)),
        (network, lambda: network(x)),
        (guided, lambda: guided(x)),
        (serving, lambda: serving(x)),
        (split, lambda: split(x[None], x[None], x[None])[0]),
    ]
    for module, call in whole:
        before = call()
        for name, parameter in module.named_parameters():
            if "factors" in name:
                edit(parameter)
        fresh = copy.deepcopy(module)
        assert not torch.allclose(call(), before, atol=1e-6)
        with torch.enable_grad():  # a copy, by the route of training, keeps nothing from before
            expected = _same_call(fresh, x)
        torch.testing.assert_close(call(), expected.detach())


def _same_call(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, SplitMultiheadAttention):
        y: Tensor = module(x[None], x[None], x[None])[0]
        return y
    result: Tensor = module(x)
    return result


@torch.no_grad()
def test_only_a_merged_layer_keeps_products(layer: EinsumLinear, monkeypatch: pytest.MonkeyPatch) -> None:
    layer.route = "x(AB)"
    x, products, kept = torch.randn(3, 16), [], []
    forward = DenseExecutor.forward
    monkeypatch.setattr(DenseExecutor, "forward", lambda *words: products.append(1) or forward(*words))
    module = "einsearch_cli.layers.execution.merged.merged_weights"
    monkeypatch.setattr(module, lambda *words: kept.append(1) or merged_weights(*words))
    first = [layer(x) for _ in range(3)]
    assert (len(products), len(kept)) == (3, 0)
    merge(layer)
    with torch.inference_mode():
        later = [layer(x) for _ in range(3)]
    assert (len(products), len(kept)) == (3, 1)
    for y in (*first, *later):
        torch.testing.assert_close(y.clone(), dense(layer, x))


def _fused_step(layer: EinsumLinear) -> None:
    """A step of SGD that leaves the largest element of every factor unchanged, as its gradient is zero."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, fused=True)
    for factor in layer.factors.values():
        factor.grad = torch.ones_like(factor)
        factor.grad.view(-1)[factor.detach().abs().argmax()] = 0
    versions = [parameter._version for parameter in layer.parameters()]
    optimizer.step()
    assert versions == [parameter._version for parameter in layer.parameters()]


def _step(layer: EinsumLinear) -> None:
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.5)
    with torch.enable_grad():
        layer(torch.randn(4, 16)).square().sum().backward()
    optimizer.step()


def _flat(layer: EinsumLinear) -> None:
    """Give parameters other memory through `.data`."""
    values = nn.utils.parameters_to_vector(layer.parameters())
    nn.utils.vector_to_parameters(1.5 * values, layer.parameters())


EVENTS: dict[str, Callable[[EinsumLinear], object]] = {
    "factor in place": lambda layer: layer.factors["A"].add_(1),
    "one entry": lambda layer: layer.factors["B"][0, 0, 0].fill_(3),
    "gain": lambda layer: layer.gain.fill_(2),
    "another parameter": lambda layer: layer.factors.__setitem__("A", nn.Parameter(torch.randn(4, 4, 8))),
    "another gain": lambda layer: setattr(layer, "gain", nn.Parameter(torch.full((1,), 2.0))),
    "optimizer": _step,
    "fused optimizer": _fused_step,
    "other memory": _flat,
    "load": lambda layer: layer.load_state_dict(EinsumLinear(16, 16, "btt:r=2").state_dict()),
    "load by assignment": lambda layer: layer.load_state_dict(
        EinsumLinear(16, 16, "btt:r=2").state_dict(), assign=True
    ),
    "reset": lambda layer: layer.reset_parameters(),
    "zero": lambda layer: layer.zero_last_factor_(),
    "training": lambda layer: (layer.train(), layer.factors["A"].data.add_(1), layer.eval()),
    "a move": lambda layer: (layer.to("cpu"), layer.factors["A"].data.add_(1)),
    "dtype and back": lambda layer: (layer.double(), layer.float(), layer.factors["A"].data.add_(1)),
    "unmerge": lambda layer: (unmerge(layer), layer.factors["A"].data.add_(1)),
}


@pytest.mark.parametrize("is_called", [True, False], ids=["after a call", "before any call"])
@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
@torch.no_grad()
def test_merging_ends_by_itself(layer: EinsumLinear, event: Callable[[EinsumLinear], object], is_called: bool) -> None:
    x = torch.randn(3, 16)
    before = layer(x)
    merge(layer)
    if is_called:
        torch.testing.assert_close(layer(x), before)
    assert layer.is_merged
    event(layer)
    assert not layer.is_merged
    torch.testing.assert_close(layer(x), dense(layer, x))
    assert not torch.allclose(layer(x), before, atol=1e-6)
    layer.factors["B"].data.mul_(0.5)  # nothing is kept
    torch.testing.assert_close(layer(x), dense(layer, x))


@torch.no_grad()
def test_evaluation_and_a_new_bias_leave_a_layer_merged(layer: EinsumLinear) -> None:
    x = torch.randn(3, 16)
    merge(layer)(x)
    layer.bias.add_(1)  # type: ignore[union-attr]
    layer.eval()
    layer.requires_grad_(False)
    assert layer.is_merged
    torch.testing.assert_close(layer(x), dense(layer, x))


@torch.no_grad()
def test_an_optimizer_ends_the_merging_of_what_it_trains() -> None:
    teacher, student = merge(EinsumLinear(16, 16, "monarch")), merge(EinsumLinear(16, 16, "monarch"))
    other = torch.optim.SGD(student.parameters(), lr=0.1, fused=True)
    for parameter in student.parameters():
        parameter.grad = torch.ones_like(parameter)
    other.step()
    assert (teacher.is_merged, student.is_merged) == (True, False)


@torch.no_grad()
def test_an_optimizer_of_one_flat_tensor_ends_merging() -> None:
    """Parameters that are views of the trained tensor have no version counter of their own."""
    layer, x = EinsumLinear(16, 16, "btt:r=2", bias=False), torch.randn(3, 16)
    flat = nn.Parameter(nn.utils.parameters_to_vector(layer.parameters()))
    nn.utils.vector_to_parameters(flat.data, layer.parameters())
    merge(layer)(x)
    flat.grad = torch.ones_like(flat)
    torch.optim.SGD([flat], lr=0.1, fused=True).step()
    torch.testing.assert_close(layer(x), dense(layer, x))


class _Gathered(nn.Parameter):
    """A parameter of a type of its own, as sharded ones are."""


@torch.no_grad()
def test_an_optimizer_of_sharded_parameters_ends_all_merging() -> None:
    """Others are gathered from them, in memory of their own."""
    layer = merge(EinsumLinear(16, 16, "btt:r=2"))
    shard = _Gathered(torch.zeros(3))
    shard.grad = torch.ones_like(shard)
    torch.optim.SGD([shard], lr=0.1).step()
    assert not layer.is_merged


@torch.no_grad()
def test_a_merged_call_takes_values_from_before() -> None:
    """The caller must call `unmerge`: an edit that torch cannot see does not reach the output before."""
    layer, x = merge(EinsumLinear(16, 16, "btt:r=2")), torch.randn(3, 16)
    before = layer(x)
    layer.factors["A"].data.zero_()
    assert torch.equal(layer(x), before)
    torch.testing.assert_close(unmerge(layer)(x), dense(layer, x))


def test_gradients_are_those_of_an_unmerged_layer(layer: EinsumLinear) -> None:
    x = torch.randn(3, 16, requires_grad=True)
    expected = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    with merged(layer):
        with torch.no_grad():
            layer(x)
        for found, wanted in zip(
            torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()]), expected, strict=True
        ):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@torch.no_grad()
def test_a_context_leaves_every_layer_as_it_was() -> None:
    model = nn.Sequential(EinsumLinear(16, 16, "monarch"), nn.ReLU(), EinsumLinear(16, 16, "btt:r=2"))
    first, last = model[0], model[2]
    merge(first)
    with merged(model):
        assert (first.is_merged, last.is_merged) == (True, True)
        with merged(model):
            model(torch.randn(2, 16))
        assert (first.is_merged, last.is_merged) == (True, True)
    assert (first.is_merged, last.is_merged) == (True, False)
    with merged(last):
        merge(last)
    assert last.is_merged
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), merged(unmerge(model)):
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert (first.is_merged, last.is_merged) == (False, False)


@torch.no_grad()
def test_what_ended_inside_a_context_stays_ended() -> None:
    layer, x = EinsumLinear(16, 16, "btt:r=2"), torch.randn(3, 16)
    with merged(layer):
        layer(x)
        layer.train()
        assert not layer.is_merged
    assert not layer.is_merged
    with merged(layer):
        unmerge(layer)
        merge(layer)
    assert layer.is_merged  # asked for by itself


@torch.no_grad()
def test_copies_are_not_merged(layer: EinsumLinear) -> None:
    x = torch.randn(3, 16)
    y = merge(layer)(x)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301
        assert not twin.is_merged
        assert twin.route == layer.route
        assert twin.plan is layer.plan
        twin.gain.data.fill_(0)
        torch.testing.assert_close(twin(x), dense(twin, x))
        assert not torch.allclose(twin(x), y)
    assert layer.is_merged
    torch.testing.assert_close(layer(x), y)
    assert list(state) == list(EinsumLinear(16, 16, "btt:r=2").state_dict())
    torch.testing.assert_close(dict(layer.state_dict()), state)


def test_a_merged_layer_is_given_free() -> None:
    import gc
    import weakref

    layer = merge(EinsumLinear(16, 16, "btt:r=2"))
    reference = weakref.ref(layer)
    del layer
    gc.collect()
    assert reference() is None


@torch.no_grad()
def test_parameters_without_versions_are_not_merged() -> None:
    with torch.inference_mode():
        layer = merge(EinsumLinear(16, 16, "btt:r=2", bias=False))
        x = torch.randn(3, 16)
        before = layer(x)
        layer.gain.mul_(2)
        torch.testing.assert_close(layer(x), 2 * before)
    assert not layer.is_merged
    assert not merge(EinsumLinear(16, 16, "btt:r=2", device="meta")).is_merged


@torch.no_grad()
def test_swapped_in_parameters_are_used_by_a_merged_layer(layer: EinsumLinear) -> None:
    x = torch.randn(3, 16)
    other = {name: torch.randn_like(parameter) for name, parameter in layer.named_parameters()}
    merge(layer)(x)
    swapped = torch.func.functional_call(layer, other, (x,))
    layer.load_state_dict(other)
    torch.testing.assert_close(swapped, layer(x))


def test_threads_share_a_merged_model() -> None:
    """Contexts that open and close in other threads neither break a call nor end the merging of this one."""
    torch.manual_seed(0)
    model = nn.Sequential(*(EinsumLinear(32, 32, "btt:r=2") for _ in range(3))).eval()
    x, wrong, start = torch.randn(3, 32), [], Barrier(4)
    expected = model(x).detach()

    def decode() -> None:
        start.wait()
        for _ in range(50):
            with merged(model), torch.inference_mode():
                if not model[0].is_merged or not torch.allclose(model(x), expected, atol=1e-5):
                    wrong.append(1)

    threads = [Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not any(layer.is_merged for layer in model)


def test_the_public_names() -> None:
    import einsearch_cli

    assert (einsearch_cli.merge, einsearch_cli.merged, einsearch_cli.unmerge) == (merge, merged, unmerge)
