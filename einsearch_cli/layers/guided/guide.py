"""Self-guided training of a whole model."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.optim import Optimizer

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.einsum_linear import EinsumLinear
from einsearch_cli.layers.guided.layer import GUIDE, SelfGuidedLinear
from einsearch_cli.layers.moe.feed_forward import FeedForwardMoE
from einsearch_cli.layers.moe.layer import StructuredMoE


class SelfGuide:
    """The guided layers of a model, steered together; made by `guide_layers`.

    Steer it before every step, and drop it when the guided part is over:

    >>> model = nn.Sequential(EinsumLinear(64, 64, "monarch"), nn.ReLU(), nn.Linear(64, 8))
    >>> from einsearch_cli.layers import guide_is_evaluated, guide_layers, guide_weight
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
        """Give every guide the weight a; with `evaluate` false this step is that of the structured model.

        Raises:
            LayerError: for a weight outside of 0 to 1.
        """
        if not 0 <= weight <= 1:
            raise LayerError(
                f"guide weight {weight}: the output is a · guide + (1 - a) · structured, with a from 0 to 1",
                remedy="use guide_weight(step, guided_steps)",
            )
        for layer in self.layers.values():
            layer.set_weight(weight, evaluate)

    def drop(self, optimizer: Optimizer | None = None) -> None:
        """Put plain structured layers in place of the guided ones; nothing refers to the guides after that.

        Parameters and their names are those that the model had before. A model
        wrapped in `DistributedDataParallel` has to be wrapped anew, as the wrapper
        keeps a list of parameters.

        Args:
            optimizer: forgets the guides and what it keeps for them.
        """
        guides = set(self.parameters().values())
        _replace(self._model, {layer: layer.structured for layer in self.layers.values()})
        if optimizer is not None:
            _forget(optimizer, guides)


def guide_layers(model: nn.Module, names: Iterable[str] | None = None) -> SelfGuide:
    """Give the structured layers of a model dense guides, in place.

    The model gives the same output as before, whatever weight the guides have.
    Make the optimizer, and wrap or compile the model, afterwards.

    Args:
        model: holds `EinsumLinear` layers and is not one itself.
        names: the layers to guide; all structured ones if None, without those
            whose structure is dense, which would have themselves as guides.

    Raises:
        LayerError: if a name is none of a structured layer, if a layer of experts
            is among them, or if there is nothing to guide.
    """
    layers = dict(model.named_modules())
    chosen = list(layers) if names is None else list(names)
    guided: dict[EinsumLinear, SelfGuidedLinear] = {}
    guides: dict[Tensor, nn.Parameter] = {}
    for name in chosen:
        layer = layers.get(name)
        _refuse_experts(name, layer)
        if isinstance(layer, EinsumLinear) and (names is not None or not layer.plan.is_dense):
            _refuse_root_and_guided(name, layer, model)
            # Layers with tied factors share the gain too, and then the guide.
            guided[layer] = SelfGuidedLinear(layer, guides.get(layer.gain))
            guides[layer.gain] = guided[layer]._parameters[GUIDE]  # type: ignore[assignment]
        elif names is not None:
            found = "no module" if layer is None else f"{type(layer).__name__}"
            known = [name for name, layer in layers.items() if isinstance(layer, EinsumLinear)]
            raise LayerError(
                f"layer {name!r} to be guided: {found} has that name, an EinsumLinear is needed",
                remedy=f"one of {', '.join(known) or 'none: swap_linear(model, structure) first'}",
            )
    if not guided:
        raise LayerError(
            f"{type(model).__name__} has no structured layer to guide",
            remedy="build it with a structure other than dense, or swap_linear(model, structure) first",
        )
    _replace(model, guided)
    return SelfGuide(model)


def _refuse_experts(name: str, layer: nn.Module | None) -> None:
    if isinstance(layer, StructuredMoE | FeedForwardMoE):
        raise LayerError(
            f"{name or 'the model'} is a {type(layer).__name__}: only layers without experts can be guided",
            remedy="guide_layers(model, names) with other layers, or a structure without experts",
        )


def _refuse_root_and_guided(name: str, layer: EinsumLinear, model: nn.Module) -> None:
    if layer is model:
        raise LayerError(
            "the model itself is an EinsumLinear: a module cannot be replaced inside itself",
            remedy="wrap it, nn.Sequential(layer), or use SelfGuidedLinear(layer)",
        )
    if isinstance(layer, SelfGuidedLinear):
        raise LayerError(f"layer {name!r} has a guide already", remedy="drop() the first SelfGuide before")


def _replace(
    model: nn.Module, news: dict[EinsumLinear, SelfGuidedLinear] | dict[SelfGuidedLinear, EinsumLinear]
) -> None:
    """Put new layers in place of old ones under all names that the model has for them."""
    for module in list(model.modules()):
        for slot, child in list(module._modules.items()):  # not named_children, which gives a child once
            if child in news:
                setattr(module, slot, news[child])  # type: ignore[index]


def _forget(optimizer: Optimizer, parameters: set[nn.Parameter]) -> None:
    for group in optimizer.param_groups:
        group["params"] = [value for value in group["params"] if value not in parameters]
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    for value in parameters:
        optimizer.state.pop(value, None)
