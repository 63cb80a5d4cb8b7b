"""Find modules and parameters that a model holds through plain Python objects, where `model.modules()` ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final

import torch
from torch import Tensor, nn

from einsearch_cli.layers.learning_rates import StructuredLayer

_OF_EVERY_MODULE: Final = vars(nn.Module()).keys()
_CONTAINERS: Final = (list, tuple, deque, set, frozenset)
# Optimizers are made after a swap, so their earlier contents do not matter.
_ENDS: Final = (str, bytes, bytearray, int, float, complex, type, ModuleType, torch.optim.Optimizer)


@dataclass(frozen=True, slots=True)
class Reference:
    """A module or a parameter that something other than a module's registers holds."""

    path: str
    """Path in Python from the model: `blocks.0.layers[1]`."""
    target: nn.Module | Tensor
    origin: nn.Module
    """The module of the model at which the path leaves the registers."""


def plain_references(model: nn.Module) -> Iterator[Reference]:
    """All modules and trainable tensors behind lists, dicts, functions and other objects; each once.

    >>> model = nn.Sequential()
    >>> model.layers = [nn.Linear(2, 2)]
    >>> [reference.path for reference in plain_references(model)]
    ['layers[0]', 'layers[0].weight', 'layers[0].bias']
    """
    registered = set(model.modules())
    seen: set[int] = set()
    for name, module in model.named_modules():
        if not isinstance(module, StructuredLayer):
            yield from _behind(module, name, registered, seen)


def unreachable(model: nn.Module, references: Iterable[Reference]) -> dict[str, str]:
    """Descriptions by path of everything that the model's registers do not list; contents are not listed again."""
    known: set[object] = {*model.modules(), *model.parameters()}
    found = {}
    for reference in references:
        target = reference.target
        if target in known:
            continue
        if isinstance(target, nn.Module):
            known |= {*target.modules(), *target.parameters()}
        found[reference.path] = _described(target)
    return found


def _described(target: nn.Module | Tensor) -> str:
    if isinstance(target, Tensor):
        return f"{type(target).__name__} of {target.numel():,} entries"
    params = sum(p.numel() for p in target.parameters() if not nn.parameter.is_lazy(p))
    return f"{type(target).__name__}, {params:,} parameters"


def _behind(origin: nn.Module, name: str, registered: set[nn.Module], seen: set[int]) -> Iterator[Reference]:
    # Breadth first, so that a holder comes before its contents; a queue, as chains of objects may be long.
    queue = deque(_attributes(origin, name))
    while queue:
        path, held = queue.popleft()
        if held is None or held is origin or isinstance(held, _ENDS) or id(held) in seen:
            continue
        seen.add(id(held))
        if isinstance(held, Tensor):
            if isinstance(held, nn.Parameter) or (held.requires_grad and held.is_leaf):
                yield Reference(path, held, origin)
        elif isinstance(held, nn.Module):
            yield Reference(path, held, origin)
            if held not in registered:
                queue.extend(_attributes(held, path))
                registers = (*held._modules.items(), *held._parameters.items())
                queue.extend((f"{path}.{name}", value) for name, value in registers)
        else:
            queue.extend(_parts(held, path))


def _attributes(module: nn.Module, path: str) -> Iterator[tuple[str, Any]]:
    """Contents of a module, or its class, other than parameters, buffers, submodules and hooks."""
    own = {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}
    of_class = {
        name: value
        for kind in type(module).__mro__
        if not kind.__module__.startswith("torch.")
        for name, value in vars(kind).items()
        if isinstance(value, (*_CONTAINERS, dict, nn.Module))
    }
    yield from ((f"{path}.{name}".lstrip("."), value) for name, value in {**of_class, **own}.items())


def _parts(held: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The objects that a plain object holds, with their paths."""
    if isinstance(held, dict):
        yield from ((f"{path}[{key!r}]", value) for key, value in list(held.items()))
    elif isinstance(held, _CONTAINERS):
        yield from ((f"{path}[{place}]", value) for place, value in enumerate(held))
    elif isinstance(held, partial):
        yield from ((path, part) for part in (held.func, held.args, held.keywords))
    elif isinstance(held, MethodType):
        yield f"{path}.__self__", held.__self__
    elif isinstance(held, FunctionType):
        names = held.__code__.co_freevars
        yield from ((f"{path}:{name}", value) for name, value in zip(names, _cells(held), strict=True))
        yield from ((path, part) for part in (held.__defaults__, held.__kwdefaults__))
    else:
        yield from ((f"{path}.{name}", value) for name, value in _fields(held))


def _cells(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            yield None


def _fields(held: Any) -> Iterator[tuple[str, Any]]:
    """Attributes and slots of an object, read without running its properties."""
    try:
        own = object.__getattribute__(held, "__dict__")
    except AttributeError:
        own = {}
    if isinstance(own, dict):
        yield from list(own.items())
    for kind in type(held).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            is_private = name.startswith("__") and not name.endswith("__")
            try:
                yield name, object.__getattribute__(held, f"_{kind.__name__.lstrip('_')}{name}" if is_private else name)
            except AttributeError:  # empty
                continue
