"""The read-only `weight` of a structured layer: its dense matrix, computed from the factors at each access.

Code that writes into the weight of a linear layer would change only a copy, so a write raises an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, NoReturn, Self

import numpy as np
import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.torch_private import is_wrapped, storage_of, unwrapped, without_torch_function
from einsearch_cli.layers.tracing import is_traced

_WEIGHT = "weight"


def refuse_write() -> NoReturn:
    """Raise LayerError: the weight of a structured layer cannot be written."""
    raise LayerError(
        "a write to the weight of a structured layer: it is computed from layer.factors and layer.gain, and what is "
        "written to it would be lost",
        remedy="change layer.factors, put a matrix into them with einsearch_cli.projection.project_(layer, matrix), or make "
        "the layer an nn.Linear first: einsearch_cli.export.dense_copy(model)",
    )


class ComputedWeight(Tensor):
    """The dense matrix of a layer, or a view of it: it reads like any tensor, and a write raises an error.

    >>> from einsearch_cli import EinsumLinear
    >>> layer = EinsumLinear(16, 16, "btt:r=2")
    >>> (layer.weight + 1).shape
    torch.Size([16, 16])
    >>> layer.weight.data.zero_()  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    einsearch_cli.errors.LayerError: a write to the weight of a structured layer: ...
    """

    _is_hf_initialized = True
    """Always true: blocks of transformers initialise their layers' weights, but skip those with this mark."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a torch function, raise if it wrote, and mark results that share memory as `ComputedWeight`."""
        kwargs = kwargs or {}
        with without_torch_function():
            if is_traced():
                return func(*args, **kwargs)
            mine = [tensor for tensor in _flat([args, kwargs]) if isinstance(tensor, cls)]
            if args and args[0] is mine[0] and _is_write(getattr(func, "__name__", "")):
                refuse_write()
            before = [_state(tensor) for tensor in mine]
            result = func(*args, **kwargs)
            if before != [_state(tensor) for tensor in mine]:
                refuse_write()
            return _marked(result, {_storage(tensor) for tensor in mine})

    def set_(self, *_: Any, **__: Any) -> NoReturn:  # torch does not call `__torch_function__` for these
        refuse_write()

    @property
    def _is_param(self) -> bool:
        return False

    @_is_param.setter
    def _is_param(self, _: bool) -> None:
        """Become a plain parameter: `nn.Parameter(layer.weight)` sets this, and that parameter may be written."""
        super().__setattr__("__class__", nn.Parameter)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to change the class, which is the first step of `torch.utils.swap_tensors`."""
        if name == "__class__":
            refuse_write()
        super().__setattr__(name, value)

    def __dlpack__(self, **_: Any) -> NoReturn:
        """Raise LayerError, as writes through DLPack cannot be detected."""
        raise LayerError(
            "the weight of a structured layer through DLPack: it is computed, and a write to the shared memory "
            "would be lost",
            remedy="share a copy: layer.weight.detach().clone()",
        )

    def __deepcopy__(self, _: Any) -> Tensor:
        """Return a plain tensor."""
        return self.as_subclass(Tensor).clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as a plain tensor, which loads without this package."""
        return self.as_subclass(Tensor).__reduce_ex__(protocol)


def computed_weight(compute: Callable[[], Tensor]) -> Tensor:
    """Compute the matrix as a `ComputedWeight` with gradients; compilers and tracers get a plain tensor."""
    if is_traced():
        return compute()
    has_grad = torch.is_grad_enabled()
    # Tensors of the inference mode have no version counters, by which writes are detected.
    with torch.inference_mode(mode=False), torch.set_grad_enabled(has_grad):
        return _computed(compute())


def _computed(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(ComputedWeight) if type(tensor) is Tensor else tensor


class WithoutWeight(dict[str, Any]):
    """Parameters of a layer by name, without `weight`: old tools such as `weight_norm` look it up here."""

    def __missing__(self, name: str) -> NoReturn:
        if name == _WEIGHT:
            refuse_write()
        raise KeyError(name)

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith(_WEIGHT):  # `weight_orig` and `weight_g` stand for it
            refuse_write()
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        if name == _WEIGHT:
            refuse_write()
        super().__delitem__(name)

    # By way of `__setitem__`, which a dict's own methods bypass.
    setdefault, update = MutableMapping.setdefault, MutableMapping.update

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]  # dict overloads it
        self.update(other)
        return self


class BuffersWithoutWeight(WithoutWeight):
    """Buffers of a layer by name, without `weight`: parametrizations look it up here, then among the parameters."""

    def __contains__(self, name: object) -> bool:
        if name == _WEIGHT:
            refuse_write()
        return super().__contains__(name)


def _flat(value: Any) -> Iterator[Any]:
    """Yield all values in nested lists and mappings."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, dict):
        yield from _flat(list(value.values()))
    else:
        yield value


def _is_write(name: str) -> bool:
    """Whether a method of this name changes its tensor; needed because some of these do not raise the version.

    >>> [_is_write(name) for name in ("__set__", "apply_", "requires_grad_", "__get__", "clone")]
    [True, True, False, False, False]
    """
    return name == "__set__" or (name.endswith("_") and not name.endswith("__") and name != "requires_grad_")


def _state(tensor: Tensor) -> tuple[int, int]:
    """Version and memory of a tensor: a write changes at least one of them."""
    return _innermost(tensor)._version, _storage(tensor)


def _storage(tensor: Tensor) -> int:
    return storage_of(_innermost(tensor))


def _innermost(tensor: Tensor) -> Tensor:
    """The tensor inside the wrappers of `torch.func`; without transforms, the tensor itself."""
    while is_wrapped(tensor):
        tensor = unwrapped(tensor)
    return tensor


def _marked(result: Any, storages: set[int]) -> Any:
    """Mark tensors in these storages as `ComputedWeight`, also in a tuple or a list, and arrays as read-only."""
    if isinstance(result, np.ndarray):
        result.flags.writeable = False
    elif type(result) in (list, tuple):
        return type(result)(_marked(item, storages) for item in result)
    elif type(result) is Tensor and _storage(result) in storages:
        return _computed(result)
    return result
