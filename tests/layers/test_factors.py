"""Factors are parameters of the layer itself, under the names that they had when they were a separate module."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.func import functional_call
from torch.nn.utils import parametrize, prune

from einsearch_cli import optimizer_groups
from einsearch_cli.errors import LayerError
from einsearch_cli.guided import SelfGuidedLinear, guide_layers
from einsearch_cli.layers import EinsumLinear, merge
from einsearch_cli.moe import FeedForwardMoE, StructuredMoE
from einsearch_cli.moe.experts import Experts

KINDS = {
    "plain": lambda: EinsumLinear(16, 16, "btt:r=2"),
    "three factors": lambda: EinsumLinear(16, 16, "tt:n=3,r=2"),
    "padded": lambda: EinsumLinear(16, 16, "monarch:n=3", bias=False),
    "guided": lambda: SelfGuidedLinear(EinsumLinear(16, 16, "btt:r=2")),
    "experts": lambda: StructuredMoE(16, 16, "btt-moe:experts=4,top=2"),
    "networks": lambda: FeedForwardMoE(16, 32, "ffn-moe:experts=4,top=2"),
}


@pytest.fixture(params=KINDS)
def layer(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = KINDS[request.param]()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    if isinstance(made, SelfGuidedLinear):
        made.set_weight(0.3)
    return made


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 16, generator=torch.Generator().manual_seed(1))


def test_the_layer_has_no_other_module_and_the_old_names() -> None:
    layer = EinsumLinear(16, 16, "btt:r=2")
    names = ["gain", "bias", "factors.A", "factors.B"]
    assert [name for name, _ in layer.named_parameters()] == [name for name, _ in layer.named_parameters(recurse=False)]
    assert [name for name, _ in layer.named_parameters()] == list(layer.state_dict()) == names
    assert list(layer.modules()) == [layer]
    assert layer.get_parameter("factors.A") is layer.factors["A"] is layer.factors.A
    guided = SelfGuidedLinear(layer)
    assert [name for name, _ in guided.named_parameters()] == ["gain", "bias", "guide", "factors.A", "factors.B"]
    assert [name for name, _ in guided.structured.named_parameters()] == names


class _Offloaded:
    """Parameters are on the meta device except during calls, as with `AlignDevicesHook` of accelerate.

    This hook replaces `forward` of every module with parameters of its own, and finds a parameter by the parts of its
    name (`set_module_tensor_to_device` of accelerate 1.15).
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.forward = module, module.forward
        self.values = {name: value.detach() for name, value in module.named_parameters(recurse=False)}
        module.forward = self
        self.place("meta")

    def place(self, device: str) -> None:
        for name, value in self.values.items():
            holder: Any = self.module
            *path, own = name.split(".")
            for part in path:
                holder = getattr(holder, part)
            assert own in holder._parameters
            kind = type(holder._parameters[own])
            holder._parameters[own] = kind(value.to(device), requires_grad=False)

    def __call__(self, *words: Any, **named: Any) -> Any:
        self.place("cpu")
        try:
            return self.forward(*words, **named)
        finally:
            self.place("meta")


@torch.no_grad()
def test_parameters_that_are_only_there_during_a_call(layer: nn.Module, x: Tensor) -> None:
    expected = layer(x)
    model = nn.Sequential(layer, nn.Linear(16, 16))
    wanted = model(x)
    for module in model.modules():
        if list(module.named_parameters(recurse=False)):
            _Offloaded(module)
    assert all(parameter.is_meta for parameter in model.parameters())
    for _ in range(2):
        torch.testing.assert_close(model[0](x), expected)
        torch.testing.assert_close(merge(model.eval())(x), wanted)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_offloading_by_accelerate(layer: nn.Module, x: Tensor, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    wanted = layer(x).detach()
    for offload in (accelerate.cpu_offload, lambda model, **named: accelerate.disk_offload(model, tmp_path, **named)):
        model = nn.Sequential(copy.deepcopy(layer))
        offload(model, execution_device=torch.device("cpu"))
        assert all(parameter.is_meta for parameter in model.parameters())
        torch.testing.assert_close(model(x).detach(), wanted)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's own
def test_sharded_layers(layer: nn.Module, x: Tensor) -> None:
    plain = copy.deepcopy(layer)
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    for module in layer.modules():
        if isinstance(module, EinsumLinear | Experts):
            fully_shard(module, mesh=mesh)
    model = fully_shard(nn.Sequential(layer), mesh=mesh)
    names = [name for name, _ in model.named_parameters()]
    assert names == [f"0.{name}" for name, _ in plain.named_parameters()]
    for step in range(2):
        y, wanted = model(x), plain(x)
        torch.testing.assert_close(y, wanted)
        y.square().sum().backward()
        wanted.square().sum().backward()
        for (name, found), parameter in zip(model.named_parameters(), plain.parameters(), strict=True):
            assert found.grad is not None, name
            torch.testing.assert_close(
                found.grad.full_tensor(), parameter.grad, msg=lambda text, name=name: name + text
            )
        with torch.no_grad():
            for parameter in [*model.parameters(), *plain.parameters()]:
                parameter.mul_(0.9 + step)
    state = get_model_state_dict(model)
    assert set(state) == {f"0.{name}" for name in plain.state_dict()}
    set_model_state_dict(model, {name: value * 0.5 for name, value in state.items()})
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(0.5)
    torch.testing.assert_close(model(x), plain(x))


def _of_a_version_with_a_module(layer: EinsumLinear) -> dict[str, Any]:
    """The contents of the layer's pickle when factors were in an `nn.ParameterDict`."""
    state = layer.__getstate__()
    parameters = dict(state["_parameters"])
    held = nn.ParameterDict({name: parameters.pop(f"factors.{name}") for name in sorted(layer.factors)})
    del state["_names"]
    return {**state, "_parameters": parameters, "_modules": {"factors": held}}


def test_pickles_of_versions_that_had_a_module_for_the_factors(x: Tensor) -> None:
    layer = EinsumLinear(16, 16, "btt:r=2")
    experts = StructuredMoE(16, 16, "btt-moe:experts=4,top=2")
    for made in (layer, experts.experts):
        other = type(made).__new__(type(made))
        other.__setstate__(pickle.loads(pickle.dumps(_of_a_version_with_a_module(made))))  # noqa: S301
        assert [name for name, _ in other.named_parameters()] == [name for name, _ in made.named_parameters()]
        assert not other._modules
        if made is layer:
            torch.testing.assert_close(other(x), layer(x))


def test_states_are_loaded_strictly(layer: nn.Module, x: Tensor) -> None:
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assign = copy.deepcopy(other)
    other.load_state_dict(layer.state_dict())
    assign.load_state_dict(layer.state_dict(), assign=True)
    for found in (other, assign):
        torch.testing.assert_close(found(x), layer(x))
        assert [name for name, _ in found.named_parameters()] == [name for name, _ in layer.named_parameters()]
    name = next(name for name in layer.state_dict() if "factors" in name)
    state = layer.state_dict()
    del state[name]
    with pytest.raises(RuntimeError, match=f'Missing key.*"{name}"'):
        other.load_state_dict(state)
    with pytest.raises(RuntimeError, match=f'Unexpected key.*"{name}x"'):
        other.load_state_dict({**layer.state_dict(), f"{name}x": torch.zeros(1)})


@pytest.mark.parametrize("key", ["gain", "bias", "factors.A"])
def test_a_layer_inside_a_model_expects_only_names_with_its_prefix(key: str) -> None:
    model = nn.ModuleDict({"fc": EinsumLinear(16, 16, "btt:r=2")})
    state = model.state_dict()
    model.load_state_dict(state)
    with pytest.raises(RuntimeError, match=f'Unexpected key.*"{key}"'):
        model.load_state_dict({**state, key: torch.zeros(1)})


def test_other_tensors_in_a_call(x: Tensor) -> None:
    layer, other = EinsumLinear(16, 16, "btt:r=2"), EinsumLinear(16, 16, "btt:r=2")
    found = functional_call(layer, dict(other.named_parameters()), (x,))
    torch.testing.assert_close(found, other(x))
    assert not torch.allclose(found, layer(x))


def test_factors_are_assigned_and_shared(x: Tensor) -> None:
    first, second = EinsumLinear(16, 16, "btt:r=2"), EinsumLinear(16, 16, "btt:r=2")
    second.factors, second.gain = first.factors, first.gain
    torch.testing.assert_close(second(x), first(x))
    assert second.factors["B"] is first.factors["B"]
    assert [name for name, _ in second.named_parameters()] == ["gain", "bias", "factors.A", "factors.B"]
    second.factors["A"] = nn.Parameter(torch.zeros_like(second.factors["A"]))
    assert not second(x).any()
    assert first(x).any()


class _Half(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return value / 2


def test_tools_that_compute_a_factor_keep_it_in_a_module(x: Tensor) -> None:
    layer = EinsumLinear(16, 16, "btt:r=2")
    wanted = EinsumLinear(16, 16, "btt:r=2")
    with torch.no_grad():
        wanted.load_state_dict(layer.state_dict())
        wanted.factors["A"].div_(2)
    parametrize.register_parametrization(layer.factors, "A", _Half())
    names = {"gain", "bias", "factors.B", "factors.parametrizations.A.original"}
    assert {name for name, _ in layer.named_parameters()} == names
    for made in (layer, copy.deepcopy(layer)):
        torch.testing.assert_close(made(x), wanted(x))
        made.load_state_dict(layer.state_dict())
    parametrize.remove_parametrizations(layer.factors, "A")
    torch.testing.assert_close(layer(x), wanted(x))
    assert _own(layer) == ["gain", "bias", "factors.A", "factors.B"]

    prune.l1_unstructured(wanted.factors, "B", amount=0.5)
    assert {"factors.B_orig", "factors.B_mask", "factors.A"} < set(wanted.state_dict())
    assert (wanted.factors["B"] == 0).float().mean() == 0.5
    torch.testing.assert_close(wanted(x), x @ wanted.to_dense().T)


def _own(layer: nn.Module) -> list[str]:
    return [name for name, _ in layer.named_parameters(recurse=False)]


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_factors_return_when_a_tool_is_done(x: Tensor) -> None:
    layer = EinsumLinear(16, 16, "btt:r=2").eval()
    held, names, wanted = layer.factors, _own(layer), layer(x)
    torch.jit.trace(layer, x, check_trace=False)
    assert held["A"] is layer.factors["A"]
    torch.testing.assert_close(layer(x), wanted)
    assert _own(layer) == list(layer._parameters) == names
    for name in "AB":
        prune.random_unstructured(held, name, amount=0.5)
    assert _own(layer) == ["gain", "bias"]
    for name in "AB":
        prune.remove(held, name)
    assert list(layer.state_dict()) == names
    assert merge(layer).is_merged
    assert _own(layer) == names
    assert not layer._modules
    assert held is layer.factors


def test_all_factors_are_pruned_and_trained(x: Tensor) -> None:
    """Both factors come from views of one layer, and a step of the optimizer reaches the pruned ones."""
    layer = EinsumLinear(16, 16, "btt:r=2")
    assert layer.factors is layer.factors
    prune.global_unstructured([(layer.factors, "A"), (layer.factors, "B")], prune.L1Unstructured, amount=0.3)
    _steps(layer, x, torch.optim.SGD(layer.parameters(), lr=0.1), steps=2)
    for name in "AB":
        pruned = getattr(layer.factors, f"{name}_orig") * getattr(layer.factors, f"{name}_mask")
        layer(x)
        assert torch.equal(layer.factors[name], pruned)


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's own
@pytest.mark.parametrize("original", [False, True])
def test_layers_in_the_first_fsdp(layer: nn.Module, x: Tensor, original: bool) -> None:
    """It flattens all parameters of a module and gives it tensors as attributes instead, named like the parameters."""
    wanted = layer(x)
    grads = torch.autograd.grad(wanted.square().sum(), [p for p in layer.parameters() if p.requires_grad])
    model = FullyShardedDataParallel(
        nn.Sequential(layer), device_id=torch.device("cpu"), use_orig_params=original, sync_module_states=False
    )
    y = model(x)
    torch.testing.assert_close(y, wanted)
    y.square().sum().backward()
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(found.norm(), torch.cat([g.flatten() for g in grads]).norm())
    torch.testing.assert_close(model(x), wanted)


def test_factors_that_are_not_the_layers_or_missing(x: Tensor) -> None:
    layer = EinsumLinear(16, 16, "btt:r=2")
    for wrong in ({"C": torch.zeros(4, 4, 8)}, {"A": torch.zeros(4, 8, 4)}, {"A": None}):
        with pytest.raises(
            LayerError, match=r"factor '[AC]'.*: the layer's factors are A \(4, 4, 8\), B \(4, 8, 4\)\ntry: "
        ):
            layer.factors = wrong
    assert _own(layer) == ["gain", "bias", "factors.A", "factors.B"]
    kept = layer.factors["A"]
    for drop in (
        lambda: layer.factors.pop("A"),
        lambda: layer.factors.update({"A": None}),
        lambda: layer.factors.clear(),
    ):
        drop()
        for grad in (False, True):
            with (
                torch.set_grad_enabled(grad),
                pytest.raises(LayerError, match=r"factor 'A' is missing.*\ntry: layer\.fac"),
            ):
                layer(x)
        layer.factors["A"] = kept
    layer.factors["B"] = nn.Parameter(torch.zeros(4, 8, 4))
    assert torch.equal(layer(x), torch.zeros(5, 16))


def _steps(layer: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (layer(x) - 1).square().mean().backward()
        optimizer.step()


def test_an_optimizer_of_matrices_moves_the_factors(x: Tensor) -> None:
    """The matrices take the same steps as in a plain optimizer over the factors."""
    layer = EinsumLinear(16, 16, "btt:r=2")
    twin = copy.deepcopy(layer)
    matrices = [matrix for found in layer.factor_matrices().values() for matrix in found]
    rest = [layer.gain, layer.bias]
    assert all(matrix.ndim == 2 for matrix in matrices)
    _steps(layer, x, torch.optim.SGD([*matrices, *rest], lr=0.1, momentum=0.9))
    _steps(twin, x, torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9))
    for (name, found), wanted in zip(layer.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, msg=lambda text, name=name: name + text)


def test_gradients_of_matrices_are_those_of_the_factors(x: Tensor) -> None:
    layer = EinsumLinear(16, 24, "low-rank:r=4")
    found = layer.factor_matrices()
    assert {name: [tuple(m.shape) for m in matrices] for name, matrices in found.items()} == {
        "factors.A": [(4, 16)],
        "factors.B": [(24, 4)],
    }
    (down,), (up,) = found.values()
    with torch.no_grad():
        layer.factors["A"].mul_(0.5)
        layer.factors["B"].mul_(0.5)
    torch.testing.assert_close(layer.to_dense(), up @ down * layer.gain)  # below both caps
    assert down.grad is None
    layer(x).square().sum().backward()
    factor = layer.factors["A"]
    assert torch.equal(down.grad, factor.grad[0].T)
    nn.utils.clip_grad_norm_(layer.parameters(), 1e-3)
    assert torch.equal(down.grad, factor.grad[0].T)
    down.grad = torch.ones(4, 16)
    assert (factor.grad == 1).all()
    down.grad = None
    assert factor.grad is None
    up.grad = None
    up.grad = torch.ones(24, 4)
    assert (layer.factors["B"].grad == 1).all()


def test_matrices_of_experts_and_factors_without_matrices() -> None:
    experts = StructuredMoE(16, 16, "btt-moe:experts=4,top=2").experts
    found = experts.factor_matrices()
    assert len(found["factors.A"]) == 4 * 4
    assert torch.equal(found["factors.A"][5], experts.factors["A"][1, 1].T)
    layer = EinsumLinear(16, 16, "btt:r=2")
    parametrize.register_parametrization(layer.factors, "A", _Half())
    with pytest.raises(LayerError, match=r"matrices of parameter factors\.A.*\ntry: use a model that is not sharded"):
        layer.factor_matrices()


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))],  # noqa: S301
    ids=["copy", "pickle"],
)
def test_a_copied_optimizer_of_matrices_moves_the_copied_layer(x: Tensor, copied: Any) -> None:
    layer = EinsumLinear(16, 16, "btt:r=2")
    matrices = [matrix for found in layer.factor_matrices().values() for matrix in found]
    twin, optimizer = copied((layer, torch.optim.SGD(matrices, lr=0.1)))
    assert [m.shape for m in optimizer.param_groups[0]["params"]] == [m.shape for m in matrices]
    _steps(twin, x, optimizer, steps=1)
    for name in "AB":
        assert not torch.equal(twin.factors[name], layer.factors[name])


STALE = {
    "dtype": lambda layer: layer.double().float(),
    "assigned": lambda layer: layer.load_state_dict(EinsumLinear(16, 16, "btt:r=2").state_dict(), assign=True),
    "parametrized": lambda layer: parametrize.register_parametrization(layer.factors, "A", _Half()),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("move", STALE.values(), ids=STALE)
def test_matrices_of_factors_that_were_moved(move: Any, x: Tensor) -> None:
    layer = EinsumLinear(16, 16, "btt:r=2")
    optimizer = torch.optim.SGD([m for found in layer.factor_matrices().values() for m in found], lr=0.1)
    torch.jit.trace(layer, x, check_trace=False)  # factors in a module are still the layer's
    _steps(layer, x, optimizer, steps=1)
    move(layer)
    layer(x).sum().backward()
    with pytest.raises(
        LayerError, match=r"matrix of parameter factors\.A: the layer has moved or replaced.*\ntry: make"
    ):
        optimizer.step()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this version of torch has no Muon")
def test_muon_of_torch_takes_the_matrices(x: Tensor) -> None:
    layer = EinsumLinear(16, 16, "btt:r=2")
    before = {name: value.detach().clone() for name, value in layer.factors.items()}
    matrices = [matrix for found in layer.factor_matrices().values() for matrix in found]
    _steps(layer, x, torch.optim.Muon(matrices, lr=0.1, weight_decay=0.0), steps=1)
    for name, value in before.items():
        moved = layer.factors[name].detach() - value
        sizes = torch.linalg.svdvals(moved).flatten() / (0.1 * max(1.0, value.shape[2] / value.shape[1]) ** 0.5)
        assert sizes.min() > 0.5
        assert sizes.max() < 1.5


def test_groups_of_our_own_still_name_every_parameter() -> None:
    layer = EinsumLinear(16, 16, "btt:r=2")
    groups = optimizer_groups(layer, lr=0.1, weight_decay=0.1)
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in layer.parameters()}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided], ids=str)
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_nested_tensors(layer: nn.Module, layout: torch.layout, grad: bool) -> None:
    parts = [torch.randn(tokens, 16) for tokens in (2, 5, 1)]
    with torch.set_grad_enabled(grad):
        nested = torch.nested.nested_tensor(parts, layout=layout, requires_grad=grad)
        wanted = [layer(part) for part in parts]
        for mode in (lambda made: made, lambda made: merge(made.eval())):
            y = mode(layer)(nested)
            assert y.layout is layout
            for found, expected in zip(y.unbind(), wanted, strict=True):
                torch.testing.assert_close(found, expected)
    if layout is torch.jagged:
        assert (nested + y).shape == nested.shape  # the lengths are known to be equal
    if grad:
        inputs = list(layer.parameters())
        found = torch.autograd.grad(sum(part.square().sum() for part in y.unbind()), [nested, *inputs])
        expected = torch.autograd.grad(sum(part.square().sum() for part in wanted), inputs)
        torch.testing.assert_close(found[1:], expected)
        assert found[0].is_nested


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("kind", ["plain", "padded", "guided"])  # experts are several graphs for any input
def test_jagged_tensors_in_one_compiled_graph(kind: str) -> None:
    layer = KINDS[kind]()
    x = torch.nested.nested_tensor([torch.randn(2, 16), torch.randn(5, 16)], layout=torch.jagged)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x).values(), layer(x).values())


def test_nested_tensors_that_cannot_be_taken() -> None:
    layer = EinsumLinear(16, 16, "btt:r=2")
    jagged = torch.nested.nested_tensor([torch.randn(2, 8), torch.randn(3, 8)], layout=torch.jagged)
    with pytest.raises(LayerError, match="the last dimension must be in_features = 16"):
        layer(jagged)
    with pytest.raises(LayerError, match="last dimension is jagged"):
        layer(jagged.transpose(1, 2))


def test_symbolic_trace_takes_the_layer_for_a_leaf(layer: nn.Module, x: Tensor) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Sequential(layer), nn.GELU())
    traced = fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["0", "1.0", "2"]
    torch.testing.assert_close(traced(x), model(x))
    with pytest.raises(LayerError, match=rf"symbolic_trace of a single {type(layer).__name__}.*\ntry: .*Sequential"):
        fx.symbolic_trace(layer)


def test_what_is_asked_of_a_linear_layer() -> None:
    layer = EinsumLinear(16, 24, "btt:r=2", dtype=torch.bfloat16, device="meta")
    linear = nn.Linear(16, 24, dtype=torch.bfloat16, device="meta")
    for ask in (
        lambda made: (made.in_features, made.out_features),
        lambda made: (made.weight.shape, made.weight.dtype, made.weight.device, made.weight.ndim),
        lambda made: (made.bias.shape, made.bias.dtype, type(made.bias)),
        lambda made: made.weight.t().shape,
        lambda made: next(made.parameters()).dtype,
        lambda made: made.weight.numel(),
    ):
        assert ask(layer) == ask(linear)
    guided = nn.Sequential(EinsumLinear(16, 16, "btt:r=2"))
    guide_layers(guided)
    assert guided[0].weight.shape == (16, 16)
    assert EinsumLinear(16, 24, "btt:r=2", bias=False).bias is None
    with pytest.raises(LayerError, match="a write to the weight"):
        layer.weight = nn.Parameter(torch.zeros(24, 16))
