"""The order in which a structured layer reads and writes features, as part of what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import Tensor, nn

from einsearch_cli.errors import EinsearchError, LayerError
from einsearch_cli.layers.plans.plan import Plan
from einsearch_cli.layers.plans.planner import stored_plan
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.structures import FeatureOrder, Structure, standard_order

FAST: Final = "fast"
STANDARD: Final = "standard"
_KEY: Final = "einsearch_order"
"""Key of a layer's order in the metadata that torch keeps with a state."""
_VERSION: Final = 2
"""Version of a layer's state in these metadata. States of version 1 record no order and are in the fast one."""


def sized_for(structure: Structure, d_in: int, d_out: int, order: FeatureOrder | str | None) -> SizedStructure:
    """Sizes of a structure at these widths, with the requested order of features.

    Args:
        structure: if `order` is None, its own order is used, which an equation has.
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
    """A module whose factors read and write features in an order, which its state records.

    The metadata of a torch state dict hold the order, and `load_state_dict` reads it there: a layer
    whose order is open takes it over, and one with another order refuses the state. A state of version 1
    records no order and is in the fast one: a layer that has its order from an equation takes the fast one then,
    and a layer that was built with `order=` refuses the state. Formats without these metadata, such as safetensors, need
    `str(layer.order)` stored next to the tensors.
    """

    _version = _VERSION

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
        return _whole_order(self.plan, self.sized.factors)

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

    @property
    def _is_order_default(self) -> bool:
        """Whether the layer has the order that its structure gives."""
        return self.sized == self.structure.at(self.in_features, self.out_features)

    def _order_changed(self) -> None:
        """Drop everything that was computed for the previous order."""

    def _order_shown(self) -> str:
        """The order as text for `extra_repr`; empty where the structure alone gives it."""
        return "" if self._is_order_default else f", order={str(self.sized.order or FAST)!r}"

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if metadata is not None:
            metadata[_KEY] = str(self.order)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, local_metadata: dict[str, Any], *others: Any
    ) -> None:
        error_msgs: list[str] = others[-1]
        if any(key.startswith(prefix) for key in state_dict):
            if _KEY not in local_metadata and local_metadata.get("version", _VERSION) < _VERSION:
                self._take_over(self._fast_order(), prefix[:-1], error_msgs, is_old=True)
            else:
                self._take_over(local_metadata.get(_KEY, str(self.order)), prefix[:-1], error_msgs)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)

    def _fast_order(self) -> str:
        return str(_whole_order(stored_plan(self.sized.ordered(None)), self.sized.factors))

    def _take_over(self, text: str, name: str, error_msgs: list[str], is_old: bool = False) -> None:
        if text == str(self.order):
            return
        if self.is_order_open or (is_old and self._is_order_default):
            try:
                self.order = FAST if is_old else text
            except EinsearchError as error:
                error_msgs.append(f"{name or 'the layer'}: {error.problem}")
        else:
            error_msgs.append(
                f"{name or 'the layer'} has the order of features {self.order}, the state was written with {text}: "
                f"build the layer with order={(FAST if is_old else text)!r}"
            )


def _whole_order(plan: Plan, factors: Sequence[str]) -> FeatureOrder:
    axes = {step.factor: step.axes for step in plan.steps}
    return FeatureOrder(plan.input_order, plan.output_order, tuple(axes[factor] for factor in factors))


def layer_orders(model: nn.Module) -> dict[str, str]:
    """Order of every structured layer by module name, as text, for files that hold tensors alone.

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


def set_recorded_orders_(model: nn.Module, orders: Mapping[str, str]) -> None:
    """Give a model the orders that a file records; a layer without a record gets the fast order.

    Files of versions without orders record none, and they were written in the fast order.

    Raises:
        LayerError: if a name is not that of a structured layer.
        StructureError: if an order is not one of the layer's indices.
    """
    for module in model.modules():
        if isinstance(module, OrderedModule) and not module.is_order_open:
            module.order = FAST
    set_layer_orders_(model, orders)
