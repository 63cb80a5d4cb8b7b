"""The factors of a layer, which are parameters of the layer itself: by name, and as single matrices."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, Final

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
    its place. Once such a tool is used on this view, the view becomes a module of the layer and holds the factors.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        # Replicas of `nn.DataParallel` have plain tensors instead of parameters.
        held = vars(layer).get("_former_parameters") or layer._parameters
        # Not `_parameters = …`, which would count as a change of the module.
        vars(self).update(_modules_of_layer=layer._modules, _parameters=_Part(held))
        self._keys.update(dict.fromkeys(self._parameters))

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


class _Part(MutableMapping[str, Any]):
    """The factors among the parameters of a layer, by their own names."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._all = parameters

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

    def __new__(cls, factor: nn.Parameter, index: int) -> FactorMatrix:
        """The matrix of this index, counted through all leading axes of the factor."""
        matrix: FactorMatrix = super().__new__(cls, _matrices(factor.detach())[index], factor.requires_grad)
        matrix._factor, matrix._index = factor, index
        return matrix

    @property
    def grad(self) -> Tensor | None:
        """The matrix's part of the factor's gradient, or None; setting None removes the whole gradient."""
        whole = self._factor.grad
        return None if whole is None else _matrices(whole)[self._index]

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is None:
            self._factor.grad = None
            return
        if self._factor.grad is None:
            self._factor.grad = torch.zeros_like(self._factor)
        _matrices(self._factor.grad)[self._index].copy_(value)


def matrices_of(name: str, factor: Tensor) -> tuple[FactorMatrix, ...]:
    """All matrices of a factor (…, fan_in, fan_out); raise LayerError if there is no memory to share with them."""
    if not (is_plain_type(factor) and isinstance(factor, nn.Parameter) and factor.is_contiguous()):
        raise LayerError(
            f"matrices of parameter {name}, {'not contiguous' if is_plain_type(factor) else type(factor).__name__}: "
            "they are views of a plain parameter",
            remedy="make the optimizer before the model is sharded, and without parametrizations",
        )
    return tuple(FactorMatrix(factor, index) for index in range(len(_matrices(factor))))


def _matrices(tensor: Tensor) -> Tensor:
    return tensor.view(-1, *tensor.shape[-2:]).mT
