"""Candidates that become the same network at a width, such as thirds and quarters of 64; they are trained once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from einsearch_cli.layers.plans.plan import Plan
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.structures import LayerSpec
from einsearch_cli.tasks import AnyTask
from einsearch_cli.training.proxy.trial import Trial, TrialResult

if TYPE_CHECKING:  # a study's folder is looked at before torch is loaded
    from torch import nn

    from einsearch_cli.models import StructuredNetwork


@dataclass(frozen=True, slots=True)
class EqualNetworks:
    """Which candidates are one network, width by width."""

    keys: Mapping[tuple[LayerSpec, int], Hashable]
    """Equal for (structure, width) whose networks are the same."""

    @classmethod
    def among(cls, task: AnyTask, structures: Iterable[LayerSpec], widths: Sequence[int]) -> EqualNetworks:
        """Look at the network of every structure at every width, without allocating it.

        >>> from einsearch_cli.tasks import open_task
        >>> from einsearch_cli.structures import parse_structure
        >>> third, quarter = (parse_structure(f"XA^{e} XAB^{f} YB^{f} YAB^{e}") for e, f in (("1/3", "2/3"), ("1/4", "3/4")))
        >>> [width for width, _ in EqualNetworks.among(open_task("teacher"), (third, quarter), (64, 120)).groups()]
        [64]
        """
        import torch

        keys = {}
        with torch.device("meta"):
            for structure in structures:
                for width in widths:
                    keys[structure, width] = _network_key(task.build_model(structure, width))
        return cls(keys)

    def groups(self) -> list[tuple[int, tuple[LayerSpec, ...]]]:
        """(width, structures that are one network there) wherever there are at least two, narrow widths first."""
        found: dict[tuple[int, Hashable], list[LayerSpec]] = {}
        for (structure, width), key in self.keys.items():
            found.setdefault((width, key), []).append(structure)
        several = [(width, tuple(members)) for (width, _), members in found.items() if len(members) > 1]
        return sorted(several, key=lambda group: group[0])

    def distinct(self, width: int) -> int:
        """Number of different networks at a width."""
        return len({key for (_, at), key in self.keys.items() if at == width})

    def trained_as(self, trial: Trial, structures: Sequence[LayerSpec]) -> Trial:
        """The trial whose run stands for this one: that of the first of these structures with the same network."""
        key = self.keys[trial.structure, trial.width]
        return replace(trial, structure=next(s for s in structures if self.keys[s, trial.width] == key))

    def copies(
        self, results: Iterable[TrialResult], trials: Iterable[Trial], structures: Sequence[LayerSpec]
    ) -> list[TrialResult]:
        """Results of the trials that were not trained themselves."""
        known = {result.trial: result for result in results}
        pairs = ((trial, self.trained_as(trial, structures)) for trial in trials)
        return [
            replace(known[source], trial=trial, trained_as=source.structure)
            for trial, source in pairs
            if source != trial and source in known
        ]


def _network_key(model: StructuredNetwork) -> Hashable:
    """Equal for networks of one task and width that have the same layers under the same names."""
    return tuple((name, _layer_key(layer)) for name, layer in model.structured_layers().items())


def _layer_key(layer: nn.Module) -> Hashable:
    from einsearch_cli.layers import EinsumLinear, FeedForwardMoE, StructuredMoE

    if isinstance(layer, EinsumLinear):
        return _matrix_key(layer.sized, layer.plan)
    assert isinstance(layer, (StructuredMoE, FeedForwardMoE))
    parts = (layer.experts,) if isinstance(layer, StructuredMoE) else (layer.up, layer.down)
    return (layer.mixture.experts, layer.mixture.top, *(_matrix_key(part.sized, part.plan) for part in parts))


def _matrix_key(sized: SizedStructure, plan: Plan) -> Hashable:
    """What a layer computes: its sizes and orders, with factors named by the order in which they meet the input.

    The start and the learning rates of a factor follow from these sizes, whatever exponents they were chosen for.
    """
    names = {step.factor: chr(ord("A") + number) for number, step in enumerate(plan.steps)}

    def renamed(carriers: str) -> str:
        return "".join(sorted(names.get(tensor, tensor) for tensor in carriers))

    sizes = frozenset((renamed(carriers), size) for carriers, size in sized.sizes if size > 1)
    orders = tuple(tuple(map(renamed, order)) for order in (plan.input_order, plan.output_order))
    return sized.d_in, sized.d_out, len(names), sizes, orders
