"""The order in which structured layers read and write features, as models, files and states record it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import Tensor, nn
from torch.nn import functional

from einsearch_cli.errors import EinsearchError, LayerError
from einsearch_cli.layers.factored_module import FactoredModule
from einsearch_cli.layers.plans.plan import Plan
from einsearch_cli.layers.plans.planner import stored_plan
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.structures import FeatureOrder, Structure, standard_order

FAST: Final = "fast"
STANDARD: Final = "standard"
_KEY: Final = "einsearch_order"
"""Key of a layer's order in the metadata that torch stores with a state."""
_VERSION: Final = 2
"""Version of a layer's state in these metadata. States of version 1 record no order and have the fast one."""


def sized_for(structure: Structure, d_in: int, d_out: int, order: FeatureOrder | str | None) -> SizedStructure:
    """Sizes of a structure at these widths, with an order of features as `EinsumLinear` describes.

    Raises:
        SizeError: if the structure does not fit the widths.
        StructureError: for an order of other indices.
    """
    sized = structure.at(d_in, d_out)
    if order is None:
        return sized
    if order == FAST:
        return sized.ordered(None)
    if isinstance(order, str):
        order = standard_order(structure) if order == STANDARD else FeatureOrder.of_text(order)
    return sized.ordered(order)


class OrderedModule(FactoredModule):
    """A module of factors that reads and writes features in an order, which its state records.

    The metadata of a torch state dict contain the order, and `load_state_dict` reads it: a layer whose order is open
    takes it, and one with another order refuses the state. A state of version 1 records no order and has the fast one:
    a layer with the order of an equation then takes the fast one, and a layer that was built with `order=` refuses the
    state. Formats without these metadata, such as safetensors, need `str(layer.order)` stored next to the tensors.
    """

    _version = _VERSION

    def padded(self, x: Tensor) -> Tensor:
        """Features padded with zeros to the product of the sizes of the input indices."""
        padding = self.plan.padded_in - self.in_features
        return functional.pad(x, (0, padding)) if padding else x

    def _padded_bias(self, bias: Tensor | None) -> Tensor | None:
        padding = self.plan.padded_out - self.out_features
        return functional.pad(bias, (0, padding)) if padding and bias is not None else bias

    def cut(self, y: Tensor) -> Tensor:
        """The features without the padding of the output."""
        return y[..., : self.out_features].contiguous() if self.plan.padded_out > self.out_features else y

    @property
    def order(self) -> FeatureOrder:
        """The index that counts slowest along input and output, and along the axes of the stored factors.

        Setting it reads the same parameters in another order: `fast`, `standard`, a `FeatureOrder` or its text.
        """
        return _whole_order(self.plan, self.sized.factors)

    @order.setter
    def order(self, order: FeatureOrder | str | None) -> None:
        sized = sized_for(self.structure, self.in_features, self.out_features, order)
        self.plan, self.sized = stored_plan(sized), sized
        self._note_factors()
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
        """The order as text for `extra_repr`; empty if the structure alone gives it."""
        return "" if self._is_order_default else f", order={str(self.sized.order or FAST)!r}"

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if metadata is not None:
            metadata[_KEY] = str(self.order)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, local_metadata: dict[str, Any], *others: Any
    ) -> None:
        *_, error_msgs = others
        if any(key.startswith(prefix) for key in state_dict):
            is_old = _KEY not in local_metadata and local_metadata.get("version", _VERSION) < _VERSION
            self._take_over(local_metadata.get(_KEY), is_old, prefix[:-1] or "the layer", error_msgs)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)

    def _take_over(self, recorded: str | None, is_old: bool, name: str, error_msgs: list[str]) -> None:
        own = str(self.order)
        text = (
            str(_whole_order(stored_plan(self.sized.ordered(None)), self.sized.factors)) if is_old else recorded or own
        )
        if text == own:
            return
        wanted = FAST if is_old else text
        if not (self.is_order_open or (is_old and self._is_order_default)):
            error_msgs.append(
                f"{name} has the order of features {own}, the state was written with {text}: "
                f"build the layer with order={wanted!r}"
            )
            return
        try:
            self.order = wanted
        except EinsearchError as error:
            error_msgs.append(f"{name}: {error.problem}")


def _whole_order(plan: Plan, factors: Sequence[str]) -> FeatureOrder:
    axes = {step.factor: step.axes for step in plan.steps}
    return FeatureOrder(plan.input_order, plan.output_order, tuple(axes[factor] for factor in factors))


def layer_orders(model: nn.Module) -> dict[str, str]:
    """Order of every structured layer by module name, as text, for files that contain only tensors.

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
    """Give a model the orders that a file records; layers without a record get the fast order.

    Files of versions without orders record none, as they were written in the fast order.

    Raises:
        LayerError: if a name is not that of a structured layer.
        StructureError: if an order is not one of the layer's indices.
    """
    for module in model.modules():
        if isinstance(module, OrderedModule) and not module.is_order_open:
            module.order = FAST
    set_layer_orders_(model, orders)
