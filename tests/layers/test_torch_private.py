"""Layers compute the same without any private name of torch; and nothing starts the compiler."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
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


def test_no_other_file_uses_private_names() -> None:
    layers, private = Path(torch_private.__file__).parent, re.compile(r"torch(\.\w+)*\._(?!_version)|forward_ad\._")
    rooms = [layers, *(layers.with_name(name) for name in ("moe", "guided", "projection", "swap", "compression"))]
    users = [path.name for room in rooms for path in room.rglob("*.py") if private.search(path.read_text())]
    assert users == ["torch_private.py"]


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
