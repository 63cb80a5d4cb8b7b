"""`weight` of a layer that has no such parameter: its matrix, computed from the factors, for reading alone.

Code that writes into the weight of a linear layer would write into a copy, so every write raises an error instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.tracing import is_looked_at

_WEIGHT = "weight"


def refuse_write() -> NoReturn:
    """
    Raises:
        LayerError: always.
    """
    raise LayerError(
        "a write to the weight of a structured layer: it is computed from layer.factors and layer.gain, and what is "
        "written to it would be lost",
        remedy="change layer.factors, put a matrix into them with einsearch_cli.layers.project_(layer, matrix), or make "
        "the layer an nn.Linear first: einsearch_cli.export.dense_copy(model)",
    )


class ComputedWeight(Tensor):
    """The matrix of a layer, and every tensor that shares its memory. Reading is as of any tensor; writing raises.

    >>> from einsearch_cli import EinsumLinear
    >>> layer = EinsumLinear(16, 16, "btt:r=2")
    >>> (layer.weight + 1).shape
    torch.Size([16, 16])
    >>> layer.weight.data.zero_()  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    einsearch_cli.errors.LayerError: a write to the weight of a structured layer: ...
    """

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs a function of torch, then looks whether it wrote; its results are of this kind where they share memory."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if is_looked_at():
                return func(*args, **kwargs)
            mine = [tensor for tensor in _flat([args, kwargs]) if isinstance(tensor, cls)]
            if args and args[0] is mine[0] and _is_write(getattr(func, "__name__", "")):
                refuse_write()
            before = [_state(tensor) for tensor in mine]
            result = func(*args, **kwargs)
            if before != [_state(tensor) for tensor in mine]:
                refuse_write()
            return _marked(result, {tensor.untyped_storage()._cdata for tensor in mine})

    def set_(self, *_: Any, **__: Any) -> NoReturn:  # torch does not ask `__torch_function__`
        refuse_write()

    @property
    def _is_param(self) -> bool:
        return False

    @_is_param.setter
    def _is_param(self, _: bool) -> None:
        """`nn.Parameter(layer.weight)` marks its tensor so: it is a parameter of its own, which may be written."""
        self.__class__ = nn.Parameter  # type: ignore[assignment]

    def __deepcopy__(self, _: Any) -> Tensor:
        """A plain tensor."""
        return self.as_subclass(Tensor).clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A plain tensor too, which loads without this package."""
        return self.as_subclass(Tensor).__reduce_ex__(protocol)


def computed_weight(compute: Callable[[], Tensor]) -> Tensor:
    """The matrix as a `ComputedWeight`, through which gradients flow; as it is for compilers, tracers and transforms."""
    if is_looked_at():
        return compute()
    has_grad = torch.is_grad_enabled()
    # Tensors of the inference mode have no versions, by which writes are found.
    with torch.inference_mode(mode=False), torch.set_grad_enabled(has_grad):
        return _computed(compute())


def _computed(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(ComputedWeight) if type(tensor) is Tensor else tensor


class WithoutWeight(dict[str, Any]):
    """Parameters of a layer by name. Old tools such as `weight_norm` take `weight` from here, past the layer."""

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


class BuffersWithoutWeight(WithoutWeight):
    """Buffers of a layer by name. Parametrizations look here for what they are to replace, and at parameters after."""

    def __contains__(self, name: object) -> bool:
        if name == _WEIGHT:
            refuse_write()
        return super().__contains__(name)


def _flat(value: Any) -> Iterator[Any]:
    """What is in nested lists and mappings."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, dict):
        yield from _flat(list(value.values()))
    else:
        yield value


def _is_write(name: str) -> bool:
    """Whether a method changes its tensor: by its name, as some of these raise no version.

    >>> [_is_write(name) for name in ("__set__", "apply_", "requires_grad_", "__get__", "clone")]
    [True, True, False, False, False]
    """
    return name == "__set__" or (name.endswith("_") and not name.endswith("__") and name != "requires_grad_")


def _state(tensor: Tensor) -> tuple[int, int]:
    """What a write changes: the version, or the memory."""
    return tensor._version, tensor.untyped_storage()._cdata


def _marked(result: Any, storages: set[int]) -> Any:
    """Tensors in these storages as `ComputedWeight`, also in a tuple or a list; arrays of NumPy read-only."""
    if isinstance(result, np.ndarray):
        result.flags.writeable = False
    elif type(result) in (list, tuple):
        return type(result)(_marked(item, storages) for item in result)
    elif type(result) is Tensor and result.untyped_storage()._cdata in storages:
        return _computed(result)
    return result
