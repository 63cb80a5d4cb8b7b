"""`weight` of a structured layer can be read as any tensor; writing into it raises an error and is never lost."""

from __future__ import annotations

import copy
import io
import operator
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from einsearch_cli.errors import LayerError
from einsearch_cli.export import dense_copy
from einsearch_cli.guided import SelfGuidedLinear
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.moe import FeedForwardMoE, StructuredMoE
from einsearch_cli.projection import project_
from einsearch_cli.swap import swap_linear

SCRIPT = "ignore:.torch.jit.script. is deprecated"
"""Forward mode of torch warns of its own code at its first use."""
ZEROS = torch.zeros(16, 16)
REFUSED = (
    r"a write to the weight of a structured layer: .* would be lost\ntry: change layer\.factors, .*project_.*dense_copy"
)


@pytest.fixture(params=["plain", "guided", "padded"])
def layer(request: pytest.FixtureRequest) -> EinsumLinear:
    torch.manual_seed(0)
    made = EinsumLinear(15, 17, "btt:r=2") if request.param == "padded" else EinsumLinear(16, 16, "btt:r=2")
    return SelfGuidedLinear(made) if request.param == "guided" else made


def _peft_merge(layer: EinsumLinear) -> None:
    layer.weight.data += torch.ones_like(layer.weight)


def _peft_safe_merge(layer: EinsumLinear) -> None:
    merged = layer.weight.data.clone()
    merged += 1
    layer.weight.data = merged


def _subtract(layer: EinsumLinear) -> None:
    layer.weight -= 0.1


def _set_item(layer: EinsumLinear) -> None:
    layer.weight[0] = 1.0


def _freeze(layer: EinsumLinear) -> None:
    layer.weight.requires_grad = False


def _torchao(layer: EinsumLinear) -> None:
    layer.weight = nn.Parameter(layer.weight.to(torch.bfloat16), requires_grad=False)


def _bitsandbytes(layer: EinsumLinear) -> None:
    layer._parameters["weight"] = nn.Parameter(layer.weight)


def _in_numpy(layer: EinsumLinear) -> None:
    with pytest.raises(ValueError, match="read-only"):
        layer.weight.detach().numpy()[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(layer.weight.detach()).fill(0)
    layer.weight.zero_()


def _in(transform: Any, layer: EinsumLinear, write: Callable[[], object]) -> None:
    def function(x: Tensor) -> Tensor:
        write()
        return x.sum()

    transform(function)(torch.ones(layer.in_features) if transform is not _grads else torch.ones(2, 3))


def _grads(function: Callable[[Tensor], Tensor]) -> Any:
    return torch.func.vmap(torch.func.grad(function))


class _Writer(nn.Module):
    def __init__(self, layer: EinsumLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> Tensor:
        self.layer.weight.data.T.zero_()
        return self.layer.weight.sum()


def _written(layer: EinsumLinear, gain: Tensor) -> Tensor:
    total: Tensor = torch.func.functional_call(_Writer(layer), {"layer.gain": gain}, ())
    return total


WRITES: dict[str, Callable[[EinsumLinear], object]] = {
    "init.zeros_": lambda layer: nn.init.zeros_(layer.weight),
    "init.normal_": lambda layer: nn.init.normal_(layer.weight),
    "init.xavier_uniform_": lambda layer: nn.init.xavier_uniform_(layer.weight),
    "init.orthogonal_": lambda layer: nn.init.orthogonal_(layer.weight),
    "data.fill_": lambda layer: layer.weight.data.fill_(0),
    "data.normal_": lambda layer: layer.weight.data.normal_(),
    "copy_": lambda layer: layer.weight.copy_(torch.zeros_like(layer.weight)),
    "detach().mul_": lambda layer: layer.weight.detach().mul_(2),
    "a row": _set_item,
    "a view": lambda layer: layer.weight.data.T[3:7].zero_(),
    "flattened": lambda layer: layer.weight.data.view(-1).zero_(),
    "transposed": lambda layer: layer.weight.data.t().zero_(),
    "a chunk": lambda layer: layer.weight.data.chunk(2)[1].zero_(),
    "iterated": lambda layer: [row.zero_() for row in layer.weight.data],
    "the same dtype": lambda layer: layer.weight.data.float().cpu().contiguous().zero_(),
    "out=": lambda layer: torch.neg(torch.ones_like(layer.weight.data), out=layer.weight.data),
    "foreach": lambda layer: torch._foreach_mul_([layer.weight.data], 2),
    "functional, in place": lambda layer: functional.relu(layer.weight.data, inplace=True),
    "index_add_": lambda layer: layer.weight.data.index_add_(0, torch.tensor([0]), layer.weight.data[:1].clone()),
    "vector_to_parameters": lambda layer: nn.utils.vector_to_parameters(torch.zeros(272), [layer.weight]),
    "-=": _subtract,
    "set_": lambda layer: layer.weight.data.set_(ZEROS),
    "grad": lambda layer: setattr(layer.weight, "grad", torch.zeros_like(layer.weight)),
    "requires_grad": _freeze,
    "PEFT's merge": _peft_merge,
    "PEFT's safe merge": _peft_safe_merge,
    "torchao": _torchao,
    "bitsandbytes": _bitsandbytes,
    "NumPy": _in_numpy,
    "in torch.func.grad": lambda layer: _in(torch.func.grad, layer, lambda: layer.weight.data.T[1:].zero_()),
    "in torch.func.vmap": lambda layer: _in(torch.func.vmap, layer, lambda: nn.init.zeros_(layer.weight)),
    "in vmap of grad": lambda layer: _in(_grads, layer, lambda: layer.weight.detach()[0].fill_(1)),
    "in torch.func.jacrev": lambda layer: _in(torch.func.jacrev, layer, lambda: layer.weight.data.copy_(0)),
    "in torch.func.jvp": lambda layer: torch.func.jvp(
        lambda x: x + layer.weight.data.zero_()[0], (torch.ones(layer.in_features),), (torch.ones(layer.in_features),)
    ),
    "of functional parameters": lambda layer: torch.func.grad(lambda gain: _written(layer, gain))(layer.gain.detach()),
    "swap_tensors": lambda layer: torch.utils.swap_tensors(layer.weight.data, torch.zeros_like(layer.weight)),
    "swap_tensors, second": lambda layer: torch.utils.swap_tensors(torch.zeros_like(layer.weight), layer.weight.data),
    "parameters.update": lambda layer: layer._parameters.update(weight=nn.Parameter(ZEROS)),
    "parameters.update of a mapping": lambda layer: layer._parameters.update({"weight": nn.Parameter(ZEROS)}),
    "parameters.setdefault": lambda layer: layer._parameters.setdefault("weight", nn.Parameter(ZEROS)),
    "parameters |=": lambda layer: operator.ior(layer._parameters, {"weight": nn.Parameter(ZEROS)}),
    "assigned parameter": lambda layer: setattr(layer, "weight", nn.Parameter(ZEROS)),
    "assigned tensor": lambda layer: setattr(layer, "weight", ZEROS),
    "deleted": lambda layer: delattr(layer, "weight"),
    "registered": lambda layer: layer.register_parameter("weight", nn.Parameter(ZEROS)),
    "buffer": lambda layer: layer.register_buffer("weight", ZEROS),
    "weight_norm": nn.utils.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "parametrized weight_norm": parametrizations.weight_norm,
    "parametrized spectral_norm": parametrizations.spectral_norm,
    "parametrized orthogonal": parametrizations.orthogonal,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    "structured pruning": lambda layer: prune.ln_structured(layer, "weight", amount=0.5, n=2, dim=0),
    "global pruning": lambda layer: prune.global_unstructured(
        [(layer, "weight")], pruning_method=prune.L1Unstructured, amount=0.5
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.filterwarnings(SCRIPT)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode], ids=lambda m: m.__name__)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_is_refused_and_changes_nothing(
    layer: EinsumLinear, write: Callable[[EinsumLinear], object], mode: Callable[[], AbstractContextManager[None]]
) -> None:
    x = torch.randn(3, layer.in_features)
    before, parts = layer(x).detach(), [name for name, _ in layer.named_parameters()]
    with mode(), pytest.raises(LayerError, match=REFUSED):
        write(layer)
    torch.testing.assert_close(layer(x).detach(), before, rtol=0, atol=0)
    assert [name for name, _ in layer.named_parameters()] == parts
    assert not layer._forward_pre_hooks


READS: dict[str, Callable[[EinsumLinear, Tensor], Tensor]] = {
    "linear": lambda layer, x: functional.linear(x, layer.weight, layer.bias),
    "matmul": lambda layer, x: x @ layer.weight.T + layer.bias,
    "einsum": lambda layer, x: torch.einsum("oi,bi->bo", layer.weight, x) + layer.bias,
    "addmm": lambda layer, x: torch.addmm(layer.bias, x, layer.weight.t()),
    "stacked": lambda layer, x: functional.linear(
        x, torch.cat([layer.weight, layer.weight])[: layer.out_features], layer.bias
    ),
    "rows": lambda layer, x: functional.linear(x, torch.stack(list(layer.weight)), layer.bias),
    "vmap": lambda layer, x: torch.func.vmap(lambda row: layer.weight @ row + layer.bias)(x),
    "vmap of a view": lambda layer, x: torch.func.vmap(lambda row: row @ layer.weight.T[:] + layer.bias)(x),
    "jvp": lambda layer, x: torch.func.jvp(lambda rows: rows @ layer.weight.T + layer.bias, (x,), (x,))[0],
    "vmap of what was read": lambda layer, x: _vmapped(layer.weight, x) + layer.bias,
}


def _vmapped(weight: Tensor, x: Tensor) -> Tensor:
    y: Tensor = torch.func.vmap(lambda row: weight @ row)(x)
    return y


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.filterwarnings(SCRIPT)
def test_functions_that_read_it_give_what_the_layer_gives(
    layer: EinsumLinear, read: Callable[[EinsumLinear, Tensor], Tensor]
) -> None:
    layer.double()
    x = torch.randn(3, layer.in_features, dtype=torch.float64)
    y, expected = read(layer, x), layer(x)
    assert type(y) is Tensor
    torch.testing.assert_close(y, expected)
    parameters = list(layer.parameters())
    for found, wanted in zip(
        torch.autograd.grad(y.square().sum(), parameters),
        torch.autograd.grad(expected.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)
    with torch.inference_mode():
        torch.testing.assert_close(read(layer, x).clone(), expected.detach())


def test_its_facts_and_copies_are_those_of_a_tensor(layer: EinsumLinear) -> None:
    weight, dense = layer.weight, layer.to_dense().detach()
    assert (weight.dtype, weight.device, weight.shape) == (torch.float32, torch.device("cpu"), dense.shape)
    assert (weight.requires_grad, weight.is_leaf, weight.is_contiguous()) == (True, False, True)
    assert weight.tolist() == dense.tolist()
    np.testing.assert_array_equal(weight.detach().numpy(), dense.numpy())
    written = io.BytesIO()
    torch.save({"w": weight.detach()}, written)
    written.seek(0)
    copies = {
        "clone": weight.clone(),
        "dtype": weight.to(torch.float64),
        "deepcopy": copy.deepcopy(weight.detach()),
        "pickle": pickle.loads(pickle.dumps(weight.detach())),  # noqa: S301
        "torch.save": torch.load(written, weights_only=True)["w"],
        "safetensors": safetensors.torch.load(safetensors.torch.save({"w": weight.detach()}))["w"],
    }
    for name, copied in copies.items():
        assert type(copied) is Tensor, name
        torch.testing.assert_close(copied.float(), dense, rtol=0, atol=0)
        with torch.no_grad():
            copied.zero_()


@torch.no_grad()
def test_other_tensors_are_written_from_it(layer: EinsumLinear) -> None:
    dense = layer.to_dense()
    linear = nn.Linear(layer.in_features, layer.out_features)
    linear.weight.copy_(layer.weight)
    torch.testing.assert_close(linear.weight.add_(layer.weight), 2 * dense)
    linear.weight.data = layer.weight.data
    linear.weight = nn.Parameter(layer.weight)
    assert type(linear.weight) is nn.Parameter
    torch.testing.assert_close(nn.init.zeros_(linear.weight) + dense, dense)
    torch.testing.assert_close(layer.to_dense(), dense)


@pytest.mark.filterwarnings("ignore")  # what compiler and tracer warn of is not ours
def test_compiled_and_traced_code_reads_it(layer: EinsumLinear) -> None:
    x = torch.randn(3, layer.in_features)
    expected = functional.linear(x, layer.to_dense())
    given = torch.compile(lambda weight, x: functional.linear(x, weight), backend="eager", fullgraph=True)
    torch.testing.assert_close(given(layer.weight, x), expected)
    if not isinstance(layer, SelfGuidedLinear):
        inside = torch.compile(lambda x: functional.linear(x, layer.weight), backend="eager")
        torch.testing.assert_close(inside(x), expected)
    layer.requires_grad_(False)
    traced = torch.jit.trace(lambda x: functional.linear(x, layer.weight), (x,))
    torch.testing.assert_close(traced(x), expected)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_copies_of_a_layer_refuse_too(layer: EinsumLinear) -> None:
    twins = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer).double()]  # noqa: S301
    if isinstance(layer, SelfGuidedLinear):
        twins.append(layer.structured)
    for twin in twins:
        for write in ("pruning", "weight_norm", "parametrized weight_norm", "assigned parameter", "data.fill_"):
            with pytest.raises(LayerError, match=REFUSED):
                WRITES[write](twin)


def test_the_remedy_of_the_error_works() -> None:
    layer, matrix = EinsumLinear(16, 16, "dense"), torch.randn(16, 16)
    project_(layer, matrix)
    torch.testing.assert_close(layer.weight.detach(), matrix, rtol=1e-4, atol=1e-5)
    model = dense_copy(nn.Sequential(EinsumLinear(16, 16, "btt:r=2")))
    with torch.no_grad():
        model[0].weight.add_(1)
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    sparse = prune.l1_unstructured(EinsumLinear(16, 16, "btt:r=2").factors, "A", amount=0.5)
    assert (sparse.A == 0).float().mean() == 0.5


@pytest.mark.filterwarnings(SCRIPT)
def test_derivatives_of_torch_func_flow_through_it(layer: EinsumLinear) -> None:
    layer.double()
    x = torch.randn(layer.in_features, dtype=torch.float64)
    parameters = {name: value.detach() for name, value in layer.named_parameters() if name != "guide"}

    def squares(given: dict[str, Tensor]) -> Tensor:
        names = {f"layer.{name}": value for name, value in given.items()}
        product: Tensor = torch.func.functional_call(_Product(layer), names, (x,))
        return product.square().sum()

    found = torch.func.grad(squares)(parameters)
    value = (layer.weight @ x).square().sum()
    for name, wanted in zip(
        found,
        torch.autograd.grad(value, [dict(layer.named_parameters())[n] for n in found], allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(found[name], torch.zeros_like(found[name]) if wanted is None else wanted)
    torch.testing.assert_close(torch.func.jacfwd(squares)(parameters), found)


class _Product(nn.Module):
    def __init__(self, layer: EinsumLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer.weight @ x


def test_its_memory_is_not_shared_through_dlpack(layer: EinsumLinear) -> None:
    with pytest.raises(LayerError, match=r"through DLPack: .* would be lost\ntry: .*clone"):
        torch.from_dlpack(layer.weight.detach())
    torch.testing.assert_close(torch.from_dlpack(layer.weight.detach().clone()), layer.to_dense().detach())


REGISTERED: dict[str, Callable[[nn.Module], object]] = {
    "parameter": lambda module: setattr(module, "weight", nn.Parameter(ZEROS)),
    "tensor": lambda module: setattr(module, "weight", ZEROS),
    "register_parameter": lambda module: module.register_parameter("weight", nn.Parameter(ZEROS)),
    "what weight_norm stores": lambda module: module.register_parameter("weight_g", nn.Parameter(ZEROS)),
    "register_buffer": lambda module: module.register_buffer("weight", ZEROS),
}


@pytest.mark.parametrize("register", REGISTERED.values(), ids=REGISTERED)
@pytest.mark.parametrize("kind", ["mixture", "experts", "feed-forward"])
def test_layers_of_experts_refuse_a_weight(kind: str, register: Callable[[nn.Module], object]) -> None:
    mixture = StructuredMoE(16, 16, "btt-moe:experts=2,top=1")
    feed_forward = FeedForwardMoE(16, 16, "ffn-moe:experts=2,top=1")
    module = {"mixture": mixture, "experts": mixture.experts, "feed-forward": feed_forward}[kind]
    before = list(module.state_dict())
    with pytest.raises(LayerError, match=r"a layer of experts has no weight.*\ntry: change the factors"):
        register(module)
    assert list(module.state_dict()) == before
    assert list(copy.deepcopy(module).state_dict()) == before


def test_no_other_layer_has_a_weight_that_is_computed() -> None:
    attention = nn.ModuleDict({"a": nn.MultiheadAttention(16, 2)})
    swap_linear(attention, "btt:r=2")
    assert attention["a"].in_proj_weight is None
    for module in (StructuredMoE(16, 16, "btt-moe:experts=2,top=1"), FeedForwardMoE(16, 16, "ffn-moe:experts=2,top=1")):
        for part in module.modules():
            assert not hasattr(part, "weight") or isinstance(part.weight, nn.Parameter)


@torch.no_grad()
@pytest.mark.parametrize(
    "text", ["monarch", "btt:r=2", "tt:n=3,r=2", "kronecker", "low-rank:r=3", "block-shuffle:blocks=4"]
)
def test_a_write_to_a_factor_with_its_indices_takes_effect(text: str) -> None:
    layer = EinsumLinear(64, 64, text)
    for name in layer.factors:
        layer.factor_tensor(name).fill_(0.25)
        assert (layer.factors[name] == 0.25).all()
