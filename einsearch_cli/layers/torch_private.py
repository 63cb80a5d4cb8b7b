"""The private names of torch that the layers need, with stand-ins for versions without them.

Every stand-in is correct but may be slower: most send calls to the reference. Names are looked up once, because an
attribute of a module costs 0.05 of the 6 µs of a small layer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

Function = TypeVar("Function", bound=Callable[..., Any])


def _found(path: str, stand_in: Any) -> Any:
    """`torch.path`, or the stand-in."""
    value: Any = torch
    for name in path.split("."):
        value = getattr(value, name, None)
        if value is None:
            return stand_in
    return value


are_transforms_active: Callable[[], bool] = _found("_C._are_functorch_transforms_active", lambda: True)
"""Whether a transform of `torch.func` is active. Stand-in: always, so every call uses the reference."""
tracing_state: Callable[[], Any] = _found("_C._get_tracing_state", lambda: _found("jit.is_tracing", None)() or None)
"""The state of `torch.jit.trace`; None unless it runs."""
is_batch_of_gradients: Callable[[Tensor], bool] = _found("_C._functorch.is_legacy_batchedtensor", lambda _: True)
"""Whether a gradient stands for several (`is_grads_batched=True`). Stand-in: always, so gradients use the reference."""
is_batched: Callable[[Tensor], bool] = _found("_C._functorch.is_batchedtensor", lambda _: False)
"""Whether a tensor belongs to `torch.func.vmap`. Without it, errors are torch's own, not ours."""
is_wrapped: Callable[[Tensor], bool] = _found("_C._functorch.is_functorch_wrapped_tensor", lambda _: False)
"""Whether a transform of `torch.func` has wrapped a tensor. Without it, writes inside transforms are not noticed."""
unwrapped: Callable[[Tensor], Tensor] = _found("_C._functorch.get_unwrapped", lambda tensor: tensor)
"""The tensor inside a transform's wrapper."""
unwrap_if_dead: Callable[[Tensor], Tensor] = _found("_C._functorch.unwrap_if_dead", lambda tensor: tensor)
"""The tensor itself, if the transform that wrapped it is over. Without it, such tensors raise torch's error."""
is_any_autocast: Callable[[], bool] = _found("_C._is_any_autocast_enabled", lambda: True)
"""Whether autocast is on for any device. Without it, every call asks for its own device."""
saving_hooks: Callable[[bool], Any] = _found("_C._autograd._top_saved_tensors_default_hooks", lambda _: ())
"""Hooks that see tensors saved for the backward pass, or None. Stand-in: always hooks, so nothing is kept."""
graph_task: Callable[[], int] = _found("_C._current_graph_task_id", lambda: -1)
"""The number of the backward pass; -1 outside. Without it, checkpointing's recomputations are counted twice."""
without_torch_function: Callable[[], AbstractContextManager[Any]] = _found(
    "_C.DisableTorchFunctionSubclass", _found("_C.DisableTorchFunction", None)
)
"""A context in which torch functions do not call `__torch_function__`; all versions have one of the two."""


def is_forward_mode() -> bool:
    """Whether forward-mode derivatives run. Stand-in: always, so every call uses the reference."""
    return bool(getattr(forward_ad, "_current_level", 0) >= 0)


def is_exporting() -> bool:
    """Whether a program is exported: by the flag, as the compiler up to torch 2.11 treats `is_exporting()` as true."""
    return bool(getattr(torch.compiler, "_is_exporting_flag", True))


def is_traced_by_module() -> bool:
    """Whether `torch.jit.trace` has begun to record a module. Stand-in: never; torch then refuses names with dots."""
    return getattr(getattr(torch.jit, "_trace", None), "_trace_module_map", None) is not None


def is_compiled_in_place(module: nn.Module) -> bool:
    """Whether `module.compile()` was called. Stand-in: no."""
    return getattr(module, "_compiled_call_impl", None) is not None


def has_gradient_hooks(tensor: Tensor) -> bool:
    """Whether a parameter has hooks that see its gradient. Stand-in: no."""
    return any(getattr(tensor, name, None) for name in ("_backward_hooks", "_post_accumulate_grad_hooks"))


def is_replica(module: nn.Module) -> bool:
    """Whether `nn.DataParallel` made this copy of a module, which has plain tensors in place of parameters. Stand-in: no."""
    return hasattr(module, "_is_replica")


def parameters_of(module: nn.Module) -> Mapping[str, Tensor | None]:
    """The parameters by name, also of a replica. Stand-in: those of any module; a replica then has none."""
    former: Mapping[str, Tensor | None] | None = vars(module).get("_former_parameters")
    return former or module._parameters


def jagged_axis(x: Tensor) -> int:
    """The axis in which parts of a nested tensor differ. Stand-in: by its size, where the compiler breaks its graph."""
    axis: int | None = getattr(x, "_ragged_idx", None)
    return next(a for a, size in enumerate(x.shape) if not isinstance(size, int)) if axis is None else axis


def storage_of(tensor: Tensor) -> int:
    """A number for the storage in which a tensor lies. Stand-in: its memory, which is 0 for all tensors without any."""
    storage = tensor.untyped_storage()
    address: int | None = getattr(storage, "_cdata", None)
    return storage.data_ptr() if address is None else address


def norms(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """The norms of all tensors, without waiting for a GPU."""
    together = _found("_foreach_norm", None)
    if together is None:
        return torch.stack([torch.linalg.vector_norm(tensor, dtype=dtype) for tensor in tensors])
    return torch.stack(together(tensors, dtype=dtype))


def constant_when_compiled(function: Function) -> Function:
    """Mark a function as `torch.compiler.assume_constant_result` does, without its import of the compiler (1.5 s)."""
    vars(function)["_dynamo_marked_constant"] = True
    return function


def never_compiled(function: Function) -> Function:
    """Apply `torch.compiler.disable` once the compiler is loaded; the mark makes it break its graph at calls."""
    disabled: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*words: Any, **named: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return function(*words, **named)
        if not disabled:
            disabled.append(torch.compiler.disable(function))
        return disabled[0](*words, **named)

    vars(call)["_torchdynamo_disable"] = True
    return cast("Function", call)
