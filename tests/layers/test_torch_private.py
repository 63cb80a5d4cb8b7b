"""Layers compute the same without any private name of torch; and nothing starts the compiler."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from einsearch_cli.layers import EinsumLinear, torch_private
from einsearch_cli.layers.tracing import is_plain
from einsearch_cli.moe import StructuredMoE

NAMES = {
    "are_transforms_active": "_C._are_functorch_transforms_active",
    "tracing_state": "_C._get_tracing_state",
    "is_batch_of_gradients": "_C._functorch.is_legacy_batchedtensor",
    "is_batched": "_C._functorch.is_batchedtensor",
    "is_wrapped": "_C._functorch.is_functorch_wrapped_tensor",
    "unwrapped": "_C._functorch.get_unwrapped",
    "unwrap_if_dead": "_C._functorch.unwrap_if_dead",
    "is_any_autocast": "_C._is_any_autocast_enabled",
    "saving_hooks": "_C._autograd._top_saved_tensors_default_hooks",
    "graph_task": "_C._current_graph_task_id",
    "without_torch_function": "_C.DisableTorchFunctionSubclass",
    "norms": "_foreach_norm",
}


def _owner(path: str) -> tuple[Any, str]:
    *owners, name = path.split(".")
    owner: Any = torch
    for part in owners:
        owner = getattr(owner, part)
    return owner, name


def _without(path: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it is without this name of torch."""
    spec = spec_from_file_location("copy_of_torch_private", torch_private.__file__)
    assert spec is not None
    assert spec.loader is not None
    copy = module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.delattr(*_owner(path))
        spec.loader.exec_module(copy)
    return copy


def _results(layer: torch.nn.Module, x: Tensor) -> list[Tensor]:
    with torch.enable_grad():
        y = layer(x)
    assert isinstance(y, Tensor)
    found = [y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()], materialize_grads=True)]
    return [*found, layer.weight + 1.0] if isinstance(layer, EinsumLinear) else found


@pytest.mark.parametrize("name", NAMES)
def test_layers_compute_the_same_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, private = _owner(NAMES[name])
    assert hasattr(owner, private), "this version of torch has it no more: the stand-in is in use"
    torch.manual_seed(0)
    layers = [
        EinsumLinear(16, 16, "btt:r=2"),
        EinsumLinear(16, 16, "dense"),
        StructuredMoE(16, 16, "monarch moe:experts=2,top=1"),
    ]
    x = torch.randn(5, 16, requires_grad=True)
    expected = [_results(layer, x) for layer in layers]
    stand_in = getattr(_without(NAMES[name], monkeypatch), name)
    original = getattr(torch_private, name)
    assert stand_in is not original
    users = [module for key, module in sys.modules.items() if key.startswith("einsearch_cli.")]
    places = [(module, key) for module in users for key, value in list(vars(module).items()) if value is original]
    assert places
    for module, key in places:
        monkeypatch.setattr(module, key, stand_in)
    for layer, wanted in zip(layers, expected, strict=True):
        torch.testing.assert_close(_results(layer, x), wanted)


def test_stand_ins_send_calls_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The safe answer of each stand-in that has two answers."""
    x = torch.ones(2)
    answers: dict[str, Any] = {
        name: getattr(_without(NAMES[name], monkeypatch), name)
        for name in NAMES
        if name not in ("norms", "without_torch_function")
    }
    assert answers["are_transforms_active"]() is True
    assert answers["tracing_state"]() is None
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        traced = torch.jit.trace(lambda y: y + float(answers["tracing_state"]() is not None), x, check_trace=False)
    assert traced(x).tolist() == [2, 2]
    assert answers["is_batch_of_gradients"](x) is True
    assert answers["saving_hooks"](True) is not None
    assert answers["is_any_autocast"]() is True
    assert answers["graph_task"]() == -1
    assert not answers["is_batched"](x)
    assert not answers["is_wrapped"](x)
    assert answers["unwrapped"](x) is answers["unwrap_if_dead"](x) is x


def test_norms_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = torch.randn(3), torch.randn(2, 2)
    expected = torch_private.norms(tensors, torch.float64)
    monkeypatch.delattr(torch, "_foreach_norm")
    torch.testing.assert_close(torch_private.norms(tensors, torch.float64), expected)


def test_without_the_level_of_forward_mode_and_the_flag_of_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(2)
    assert is_plain(x)
    assert not torch_private.is_exporting()
    monkeypatch.delattr(forward_ad, "_current_level")
    monkeypatch.delattr(torch.compiler, "_is_exporting_flag")
    assert not is_plain(x)
    assert torch_private.is_exporting()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of widths, which are to be constants
def test_traces_of_modules_are_recognised_by_their_map(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = EinsumLinear(16, 16, "btt:r=2"), torch.randn(3, 16)
    torch.testing.assert_close(torch.jit.trace(layer, x)(x), layer(x))
    assert not torch_private.is_traced_by_module()
    monkeypatch.delattr(torch.jit._trace, "_trace_module_map")
    assert not torch_private.is_traced_by_module()


def test_storages_with_and_without_their_addresses() -> None:
    def without(tensor: Tensor) -> Any:
        return SimpleNamespace(untyped_storage=lambda: SimpleNamespace(data_ptr=tensor.untyped_storage().data_ptr))

    x, other = torch.ones(4), torch.ones(4)
    for given in (lambda tensor: tensor, without):
        first, *others = (torch_private.storage_of(given(tensor)) for tensor in (x, x[1:], other))
        assert [number == first for number in others] == [True, False]


def test_storages_that_have_no_memory_are_several() -> None:
    layer = EinsumLinear(16, 16, "btt:r=2", device="meta")
    layer.weight.clone().zero_()
    assert torch_private.storage_of(layer.gain) != torch_private.storage_of(layer.factors["A"])


def test_replicas_with_and_without_their_marks() -> None:
    layer = EinsumLinear(16, 16, "btt:r=2")
    replica: Any = layer._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
    assert (torch_private.is_replica(replica), torch_private.is_replica(layer)) == (True, False)
    replica._former_parameters = {"gain": layer.gain}
    assert [*torch_private.parameters_of(replica)] == ["gain"]
    assert torch_private.parameters_of(layer) is layer._parameters
    del replica._is_replica, replica._former_parameters
    assert not torch_private.is_replica(replica)
    assert torch_private.parameters_of(replica) is replica._parameters


@pytest.mark.parametrize("axis", [1, 2])
def test_the_axis_of_jagged_tensors(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(5, 3)], layout=torch.jagged)
    x = x if axis == 1 else x.transpose(1, 2)
    assert torch_private.jagged_axis(x) == axis
    with monkeypatch.context() as patch:
        patch.delattr(x, "_ragged_idx")
        assert torch_private.jagged_axis(x) == axis


def test_modules_that_are_compiled_and_parameters_with_hooks() -> None:
    module = nn.Linear(2, 2)
    assert not torch_private.is_compiled_in_place(module)
    module._compiled_call_impl = module.forward  # as `module.compile()` sets it
    assert torch_private.is_compiled_in_place(module)
    assert not torch_private.has_gradient_hooks(module.weight)
    module.weight.register_hook(lambda grad: grad)
    module.bias.register_post_accumulate_grad_hook(lambda _: None)
    assert torch_private.has_gradient_hooks(module.weight)
    assert torch_private.has_gradient_hooks(module.bias)
    assert not torch_private.is_compiled_in_place(nn.Module.__new__(nn.Module))


REGISTERS = {
    "_parameters", "_keys", "_buffers", "_non_persistent_buffers_set", "_modules", "_metadata", "_version",
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
}  # fmt: skip
"""Names under which modules, states and tensors of all versions of torch keep facts about themselves."""
OTHERS = {"_is_expert_parallel"}
"""Names of transformers."""


def _is_private(name: str) -> bool:
    return re.fullmatch(r"_[A-Za-z]\w*", name) is not None


def _defined(tree: ast.AST) -> Iterator[str]:
    """Names of functions, classes, variables, keywords and attributes of `self` and `cls` that a file gives."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(attr=name, value=ast.Name(id="self" | "cls"), ctx=ast.Store()):
                yield name
            case ast.keyword(arg=str(name)):
                yield name


def _used(tree: ast.AST) -> Iterator[str]:
    """Attributes, names as text in calls (`getattr(module, "_name")`), and what is imported from torch."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name):
                yield name
            case ast.Call(args=words):
                yield from (word.value for word in words if isinstance(word, ast.Constant) and type(word.value) is str)
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] == "torch":
                yield from [*module.split("."), *(alias.name for alias in names)]
            case ast.Import(names=names):
                yield from (part for alias in names for part in alias.name.split("."))


def test_no_other_file_uses_private_names() -> None:
    layers = Path(torch_private.__file__).parent
    rooms = [layers, *(layers.with_name(name) for name in ("moe", "guided", "projection", "swap", "compression"))]
    trees = {path: ast.parse(path.read_text()) for room in rooms for path in room.rglob("*.py")}
    known = REGISTERS | OTHERS | {name for tree in trees.values() for name in _defined(tree)}
    users = {path.name: {name for name in _used(tree) if _is_private(name)} - known for path, tree in trees.items()}
    assert {name for name, found in users.items() if found} == {"torch_private.py"}, users


@pytest.mark.parametrize(
    "text",
    [
        "from torch.nn.modules.conv import _ConvNd",
        "from torch._dynamo import config",
        "import torch._dynamo",
        "storage._cdata",
        "torch._foreach_norm(x)",
        "hasattr(module, '_is_replica')",
        "vars(module).get('_former_parameters')",
    ],
)
def test_a_private_name_is_found(text: str) -> None:
    assert any(_is_private(name) for name in _used(ast.parse(text)))


def test_the_compiler_is_loaded_by_compiled_code_alone() -> None:
    """The compiler takes 1.5 s of the 3 s in which a command with layers starts."""
    text = """
import sys, torch
from einsearch_cli.guided import SelfGuidedLinear
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.moe import StructuredMoE
from einsearch_cli.swap import swap_linear
EinsumLinear(16, 16, "btt:r=2")(torch.ones(2, 16, requires_grad=True)).sum().backward()
print(*[name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == ""
