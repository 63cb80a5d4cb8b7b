"""The factors of a layer, which are parameters of the layer itself: by name, and as single matrices."""

from __future__ import annotations

import copy
from collections.abc import Iterator, MutableMapping
from typing import Any, Final
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.tracing import is_plain_type

FACTORS: Final = "factors"


def parameter_name(factor: str) -> str:
    """Name of a factor among the parameters of its layer."""
    return f"{FACTORS}.{factor}"


class Factors(nn.ParameterDict):
    """The factors of a layer by name: a view of the layer's own parameters.

    Some tools compute a parameter from others, such as parametrizations and pruning, and store more than a parameter in
    its place. While such a tool is used on this view, the view is a module of the layer and holds the factors.
    """

    def __init__(self, layer: nn.Module, held: dict[str, Any]) -> None:
        """`held` has the factors by parameter name: the layer's `_parameters`, or its attributes."""
        super().__init__()
        self.become_view(layer, held)

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, nn.Parameter) and name in self._keys):
            self.become_module()
        super().__setattr__(name, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter; one that is not a factor makes this a module of the layer."""
        if name not in self._keys:
            self.become_module()
        super().register_parameter(name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register a buffer, which makes this a module of the layer."""
        self.become_module()
        super().register_buffer(name, tensor, persistent)

    def become_module(self) -> None:
        """Make this a module of the layer, which then holds the factors."""
        modules = vars(self).pop("_modules_of_layer", None)
        if modules is not None:
            own = dict(self._parameters)
            self._parameters.clear()
            vars(self)["_parameters"] = own
            modules[FACTORS] = self

    def become_view(self, layer: nn.Module, held: dict[str, Any]) -> None:
        """Make this a view of the factors in `held`, which holds them from now on."""
        # Not `_parameters = …`, which would count as a change of the module.
        vars(self).update(_modules_of_layer=layer._modules, _parameters=_Part(held))
        self._keys.update(dict.fromkeys(self._parameters))

    @property
    def is_view(self) -> bool:
        """Whether a layer holds the factors."""
        return isinstance(self._parameters, _Part)

    def is_view_of(self, held: dict[str, Any]) -> bool:
        """Whether this is a view of the factors in `held`, rather than a module or a view of another layer."""
        return isinstance(self._parameters, _Part) and self._parameters.is_part_of(held)

    @property
    def is_plain(self) -> bool:
        """Whether all factors are here as parameters, and nothing else is; parametrizations change the class."""
        parameters = self._parameters
        return (
            type(self) is Factors
            and not (self._buffers or self._modules)
            and set(parameters) == set(self._keys)
            and all(isinstance(parameter, nn.Parameter) for parameter in parameters.values())
        )


class _Part(MutableMapping[str, Any]):
    """The factors among the parameters of a layer, by their own names."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._all = parameters

    def is_part_of(self, parameters: dict[str, Any]) -> bool:
        return self._all is parameters

    def __getitem__(self, name: str) -> Any:
        return self._all[parameter_name(name)]

    def __setitem__(self, name: str, value: Any) -> None:
        self._all[parameter_name(name)] = value

    def __delitem__(self, name: str) -> None:
        del self._all[parameter_name(name)]

    def __iter__(self) -> Iterator[str]:
        prefix = parameter_name("")
        return iter([name.removeprefix(prefix) for name in self._all if name.startswith(prefix)])

    def __len__(self) -> int:
        return len(list(iter(self)))


class FactorMatrix(nn.Parameter):
    """One matrix of a factor, (fan_out, fan_in), as `nn.Linear` stores its weight; it and its gradient are views.

    It is for optimizers: stepping it or setting its gradient changes those of the factor.
    """

    _factor: nn.Parameter
    _index: int
    _place: tuple[ReferenceType[nn.Module], str] | None

    def __new__(
        cls, factor: nn.Parameter, index: int, place: tuple[ReferenceType[nn.Module], str] | None = None
    ) -> FactorMatrix:
        """The matrix of this index, counted through all leading axes of the factor.

        `place` is the layer that has the factor, and its name there.
        """
        matrix: FactorMatrix = super().__new__(cls, _matrices(factor.detach())[index], factor.requires_grad)
        matrix._factor, matrix._index, matrix._place = factor, index, place
        return matrix

    @property
    def grad(self) -> Tensor | None:
        """The matrix's part of the factor's gradient, or None; setting None removes the whole gradient.

        Raises:
            LayerError: if the layer has moved or replaced the factor, so that steps of the matrix would be lost.
        """
        self._refuse_stale()
        whole = self._factor.grad
        return None if whole is None else _matrices(whole)[self._index]

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is None:
            self._factor.grad = None
            return
        self._refuse_stale()
        if self._factor.grad is None:
            self._factor.grad = torch.zeros_like(self._factor)
        _matrices(self._factor.grad)[self._index].copy_(value)

    def _refuse_stale(self) -> None:
        factor, layer, name = self._factor, None, ""
        if self._place is not None:
            layer, name = self._place[0](), self._place[1]
        is_replaced = layer is not None and _parameter(layer, name) is not factor
        if is_replaced or factor.dtype is not self.dtype or _memory(factor) != _memory(self):
            raise LayerError(
                f"a matrix of parameter {name or FACTORS}: the layer has moved or replaced this factor since, and steps "
                "of the matrix would be lost",
                remedy="make matrices and optimizer after moves, loading with assign=True and sharding",
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> FactorMatrix:
        """The matrix of the copied factor."""
        if id(self) not in memo:
            layer = None if self._place is None else memo.get(id(self._place[0]()))
            place = None if self._place is None or layer is None else (ref(layer), self._place[1])
            memo[id(self)] = FactorMatrix(copy.deepcopy(self._factor, memo), self._index, place)
        return memo[id(self)]  # type: ignore[no-any-return]

    def __reduce_ex__(self, _: Any) -> Any:
        """Pickle the factor, of which the loaded matrix is a view again."""
        return FactorMatrix, (self._factor, self._index)


def matrices_of(layer: nn.Module, name: str, factor: Tensor) -> tuple[FactorMatrix, ...]:
    """All matrices of a factor (…, fan_in, fan_out); raise LayerError if there is no memory to share with them."""
    if not (is_plain_type(factor) and isinstance(factor, nn.Parameter) and factor.is_contiguous()):
        raise LayerError(
            f"matrices of parameter {name}, {'not contiguous' if is_plain_type(factor) else type(factor).__name__}: "
            "they are views of a plain parameter",
            remedy="use a model that is not sharded and has no parametrizations",
        )
    place = (ref(layer), name)
    return tuple(FactorMatrix(factor, index, place) for index in range(len(_matrices(factor))))


def _matrices(tensor: Tensor) -> Tensor:
    return tensor.view(-1, *tensor.shape[-2:]).mT


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _parameter(layer: nn.Module, name: str) -> Any:
    """The parameter of a factor, even if it is in a module of its own."""
    found = layer._parameters.get(name)
    return getattr(layer.factors, name.removeprefix(parameter_name("")), None) if found is None else found
