"""Candidates that become the same network at a width, such as thirds and quarters of 64, which are trained once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

from einsearch_cli.layers.plans.plan import Plan
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.structures import LayerSpec
from einsearch_cli.tasks import AnyTask

if TYPE_CHECKING:  # a study's folder is checked before torch is loaded
    from torch import nn

    from einsearch_cli.models import StructuredNetwork


class EqualNetworks:
    """Finds which structures are one network at which width; networks are built when they are needed.

    Args:
        key_of: a function of (structure, width) with equal values for equal networks.
    """

    def __init__(self, key_of: Callable[[LayerSpec, int], Hashable]) -> None:
        self._key_of = key_of
        self._keys: dict[tuple[LayerSpec, int], Hashable] = {}

    @classmethod
    def of_task(cls, task: AnyTask) -> EqualNetworks:
        """Look at the networks that a task builds, without allocating them.

        >>> from einsearch_cli.tasks import open_task
        >>> from einsearch_cli.structures import parse_structure
        >>> third, quarter = (parse_structure(f"XA^{e} XAB^{f} YB^{f} YAB^{e}") for e, f in (("1/3", "2/3"), ("1/4", "3/4")))
        >>> networks = EqualNetworks.of_task(open_task("teacher"))
        >>> [width for width, _ in networks.groups((third, quarter), (64, 120))]
        [64]
        """

        def key_of(structure: LayerSpec, width: int) -> Hashable:
            import torch

            with torch.device("meta"):
                return _network_key(task.build_model(structure, width))

        return cls(key_of)

    def key(self, structure: LayerSpec, width: int) -> Hashable:
        """A key that is equal for structures with the same network at this width."""
        if (structure, width) not in self._keys:
            self._keys[structure, width] = self._key_of(structure, width)
        return self._keys[structure, width]

    def groups(self, structures: Iterable[LayerSpec], widths: Sequence[int]) -> list[tuple[int, tuple[LayerSpec, ...]]]:
        """Pairs (width, structures that are one network there) of at least two structures, narrow widths first."""
        found: dict[tuple[int, Hashable], list[LayerSpec]] = {}
        for structure in structures:
            for width in widths:
                found.setdefault((width, self.key(structure, width)), []).append(structure)
        several = [(width, tuple(members)) for (width, _), members in found.items() if len(members) > 1]
        return sorted(several, key=lambda group: group[0])

    def distinct(self, structures: Iterable[LayerSpec], width: int) -> int:
        """The number of different networks at a width."""
        return len({self.key(structure, width) for structure in structures})


def _network_key(model: StructuredNetwork) -> Hashable:
    """A key that is equal for networks of one task and width with the same layers under the same names."""
    return tuple((name, _layer_key(layer)) for name, layer in model.structured_layers().items())


def _layer_key(layer: nn.Module) -> Hashable:
    from einsearch_cli.layers import EinsumLinear
    from einsearch_cli.moe import FeedForwardMoE, StructuredMoE

    if isinstance(layer, EinsumLinear):
        return _matrix_key(layer.sized, layer.plan)
    assert isinstance(layer, (StructuredMoE, FeedForwardMoE))
    parts = (layer.experts,) if isinstance(layer, StructuredMoE) else (layer.up, layer.down)
    return (layer.mixture.experts, layer.mixture.top, *(_matrix_key(part.sized, part.plan) for part in parts))


def _matrix_key(sized: SizedStructure, plan: Plan) -> Hashable:
    """A key of what a layer computes: sizes and orders, with factors named by the order in which they meet the input.

    The start and the learning rates of a factor follow from these sizes, whatever exponents they came from.
    """
    names = {step.factor: chr(ord("A") + number) for number, step in enumerate(plan.steps)}

    def renamed(carriers: str) -> str:
        return "".join(sorted(names.get(tensor, tensor) for tensor in carriers))

    sizes = frozenset((renamed(carriers), size) for carriers, size in sized.sizes if size > 1)
    orders = tuple(tuple(map(renamed, order)) for order in (plan.input_order, plan.output_order))
    return sized.d_in, sized.d_out, len(names), sizes, orders
