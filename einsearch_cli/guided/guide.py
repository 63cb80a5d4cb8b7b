"""Self-guided training of a whole model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from einsearch_cli.errors import LayerError
from einsearch_cli.guided.layer import GUIDE, SelfGuidedLinear
from einsearch_cli.layers.einsum_linear import EinsumLinear
from einsearch_cli.layers.learning_rates import StructuredLayer


class SelfGuide:
    """The guided layers of a model, steered together; `guide_layers` makes it.

    Steer it before every step, and drop it when the guided part is over:

    >>> model = nn.Sequential(EinsumLinear(64, 64, "monarch"), nn.ReLU(), nn.Linear(64, 8))
    >>> from einsearch_cli.guided import guide_is_evaluated, guide_layers, guide_weight
    >>> guide = guide_layers(model)
    >>> for step in range(10):
    ...     weight = guide_weight(step, guided_steps=10)
    ...     guide.set_weight(weight, evaluate=guide_is_evaluated(step, weight, seed=0))
    >>> guide.drop()
    >>> [type(layer).__name__ for layer in model]
    ['EinsumLinear', 'ReLU', 'Linear']
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    @property
    def layers(self) -> dict[str, SelfGuidedLinear]:
        """The guided layers by their names in the model."""
        return {name: layer for name, layer in self._model.named_modules() if isinstance(layer, SelfGuidedLinear)}

    @property
    def flops_per_token(self) -> int:
        """2 × multiply-adds of all guides per token, in a forward pass that evaluates them."""
        return sum(layer.guide_flops_per_token for layer in self.layers.values())

    def parameters(self) -> dict[str, nn.Parameter]:
        """The guides by their names in the model."""
        guides = {layer.guide for layer in self.layers.values()}
        return {name: value for name, value in self._model.named_parameters() if value in guides}

    def set_weight(self, weight: float, evaluate: bool = True) -> None:
        """Give every guide the weight a; with `evaluate` false, the step is that of the structured model.

        Raises:
            LayerError: for a weight below 0 or above 1.
        """
        if not 0 <= weight <= 1:
            raise LayerError(
                f"guide weight {weight}: the output is a · guide + (1 - a) · structured, with a from 0 to 1",
                remedy="use guide_weight(step, guided_steps)",
            )
        for layer in self.layers.values():
            layer.set_weight(weight, evaluate)

    def drop(self, optimizer: Optimizer | None = None) -> None:
        """Replace guided layers by plain structured ones; nothing refers to the guides afterwards.

        Parameters and their names are again those from before. A model in `DistributedDataParallel` has to be wrapped
        again, as the wrapper keeps a list of parameters.

        Args:
            optimizer: an optimizer that forgets the guides and their state.
        """
        guides = set(self.parameters().values())
        _replace(self._model, {layer: layer.structured for layer in self.layers.values()})
        if optimizer is not None:
            for group in optimizer.param_groups:
                group["params"] = [value for value in group["params"] if value not in guides]
            optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
            for guide in guides:
                optimizer.state.pop(guide, None)


def guide_layers(model: nn.Module, names: Iterable[str] | None = None) -> SelfGuide:
    """Give the structured layers of a model dense guides, in place.

    The output stays the same, whatever weight the guides have. Make the optimizer, and wrap or compile the model,
    afterwards.

    Args:
        model: a module that contains `EinsumLinear` layers and is not one itself.
        names: the layers to guide; None means all structured ones except those whose structure is dense, which
            would guide themselves.

    Raises:
        LayerError: if a name is not that of a structured layer, a layer of experts is among them, or nothing is left.
    """
    layers = dict(model.named_modules())
    guided: dict[EinsumLinear, SelfGuidedLinear] = {}
    guides: dict[Tensor, nn.Parameter] = {}
    if names is None:
        names = [name for name, layer in layers.items() if isinstance(layer, StructuredLayer) and not _is_dense(layer)]
    for name in names:
        layer = _checked(name, layers.get(name), model)
        # Layers with tied factors share the gain too, and therefore the guide.
        guided[layer] = SelfGuidedLinear(layer, guides.get(layer.gain))
        guides[layer.gain] = guided[layer]._parameters[GUIDE]  # type: ignore[assignment]
    if not guided:
        raise LayerError(
            f"{type(model).__name__} has no structured layer to guide",
            remedy="build it with a structure other than dense, or swap_linear(model, structure) first",
        )
    _replace(model, guided)
    return SelfGuide(model)


def _is_dense(layer: nn.Module) -> bool:
    return isinstance(layer, EinsumLinear) and layer.plan.is_dense


def _checked(name: str, layer: nn.Module | None, model: nn.Module) -> EinsumLinear:
    """The layer, if it can be guided; else LayerError."""
    if isinstance(layer, StructuredLayer) and not isinstance(layer, EinsumLinear):
        raise LayerError(
            f"{name or 'the model'} is a {type(layer).__name__}: only layers without experts can be guided",
            remedy="guide_layers(model, names) with other layers, or a structure without experts",
        )
    if not isinstance(layer, EinsumLinear):
        found = "no module" if layer is None else type(layer).__name__
        known = [name for name, layer in model.named_modules() if isinstance(layer, EinsumLinear)]
        raise LayerError(
            f"layer {name!r} to be guided: {found} has that name, an EinsumLinear is needed",
            remedy=f"one of {', '.join(known) or 'none: swap_linear(model, structure) first'}",
        )
    if layer is model:
        raise LayerError(
            "the model itself is an EinsumLinear: a module cannot be replaced inside itself",
            remedy="wrap it, nn.Sequential(layer), or use SelfGuidedLinear(layer)",
        )
    if isinstance(layer, SelfGuidedLinear):
        raise LayerError(f"layer {name!r} has a guide already", remedy="drop() the first SelfGuide before")
    return layer


def _replace(model: nn.Module, news: Mapping[Any, nn.Module]) -> None:
    """Put new layers in place of old ones under all names that the model has for them."""
    for module in list(model.modules()):
        for slot, child in list(module._modules.items()):  # not named_children, which lists a child once
            if child in news:
                setattr(module, slot, news[child])
