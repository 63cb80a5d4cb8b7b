"""The order in which a structured layer reads and writes features, as part of what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor, nn

from einsearch_cli.errors import EinsearchError, LayerError
from einsearch_cli.layers.plans.plan import Plan
from einsearch_cli.layers.plans.planner import stored_plan
from einsearch_cli.structures import FeatureOrder, SizedStructure, Structure, standard_order

FAST: Final = "fast"
STANDARD: Final = "standard"
_KEY: Final = "einsearch_order"
"""Of a layer's order among the metadata that torch keeps with a state."""


def sized_for(structure: Structure, d_in: int, d_out: int, order: FeatureOrder | str | None) -> SizedStructure:
    """Sizes for these widths, with the order of features that was asked for.

    Args:
        structure: its own order, that of an equation, is taken if `order` is None.
        d_in: width of the input.
        d_out: width of the output.
        order: `fast` leaves it open, `standard` is the documented one, else a `FeatureOrder` or its text.

    Raises:
        SizeError: if the structure does not fit the widths.
        StructureError: for an order of other indices.
    """
    sized = structure.at(d_in, d_out)
    if order is None:
        return sized
    if order == FAST:
        return sized.ordered(None)
    if order == STANDARD:
        return sized.ordered(standard_order(structure))
    return sized.ordered(FeatureOrder.of_text(order) if isinstance(order, str) else order)


class OrderedModule(nn.Module):
    """A module with factors that meet features in some order, which goes along with its state.

    A state that torch writes holds the order among its metadata, where `load_state_dict` looks for it: a layer
    whose order is open takes it over, and one with another order refuses the state. Other
    ways of storing tensors, such as safetensors, need it beside them: `str(layer.order)`.
    """

    in_features: int
    out_features: int
    structure: Structure
    sized: SizedStructure
    plan: Plan

    @property
    def order(self) -> FeatureOrder:
        """Which index counts slowest along input and output, and along the axes of the stored factors.

        Setting it reads the same parameters in another order: `fast`, `standard`, a `FeatureOrder` or its text.
        """
        axes = {step.factor: step.axes for step in self.plan.steps}
        factors = tuple(axes[factor] for factor in self.sized.factors)
        return FeatureOrder(self.plan.input_order, self.plan.output_order, factors)

    @order.setter
    def order(self, order: FeatureOrder | str | None) -> None:
        sized = sized_for(self.structure, self.in_features, self.out_features, order)
        self.plan = stored_plan(sized)
        self.sized = sized
        self._order_changed()

    @property
    def is_order_open(self) -> bool:
        """Whether the layer chose the order of its features for speed."""
        return self.sized.order is None

    def _order_changed(self) -> None:
        """Drop what was made for the order before."""

    def _order_shown(self) -> str:
        """For `extra_repr`: nothing where the structure alone says it."""
        is_default = self.sized == self.structure.at(self.in_features, self.out_features)
        return "" if is_default else f", order={str(self.sized.order or FAST)!r}"

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if metadata is not None:
            metadata[_KEY] = str(self.order)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, local_metadata: dict[str, Any], *others: Any
    ) -> None:
        error_msgs: list[str] = others[-1]
        text = local_metadata.get(_KEY)
        if text is not None and text != str(self.order) and any(key.startswith(prefix) for key in state_dict):
            self._take_over(text, prefix[:-1], error_msgs)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)

    def _take_over(self, text: str, name: str, error_msgs: list[str]) -> None:
        if self.is_order_open:
            try:
                self.order = text
            except EinsearchError as error:
                error_msgs.append(f"{name or 'the layer'}: {error.problem}")
        else:
            error_msgs.append(
                f"{name or 'the layer'} has the order of features {self.order}, the state was written with {text}: "
                f"build the layer with order={text!r}"
            )


def layer_orders(model: nn.Module) -> dict[str, str]:
    """The order of every structured layer by module name, as text, for files that hold tensors alone.

    >>> from einsearch_cli.layers import EinsumLinear
    >>> layer_orders(nn.Sequential(EinsumLinear(16, 16, "low-rank:r=2"), nn.ReLU()))
    {'0': 'XA/YB/XA,AB/AB,YB'}
    """
    return {name: str(module.order) for name, module in model.named_modules() if isinstance(module, OrderedModule)}


def set_layer_orders_(model: nn.Module, orders: Mapping[str, str]) -> None:
    """Give the structured layers of a model the orders that `layer_orders` found; others stay as they are.

    Raises:
        LayerError: if a name is not that of a structured layer.
        StructureError: if an order is not one of the layer's indices.
    """
    modules = dict(model.named_modules())
    for name, text in orders.items():
        module = modules.get(name)
        if not isinstance(module, OrderedModule):
            raise LayerError(
                f"order of features for {name!r}: the model has no structured layer of that name",
                remedy="give the model that the orders were written with",
            )
        if str(module.order) != text:
            module.order = text
