"""What a swap does to a model, as values, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from einsearch_cli.structures import LayerSpec, layer_of_json


@dataclass(frozen=True, slots=True)
class Costs:
    """Parameters, and forward FLOPs per token of linear layers, before and after.

    2 FLOPs per multiply-add. Every linear layer counts once, however often the model calls it.
    """

    params_before: int
    params_after: int
    flops_before: int
    flops_after: int

    def __str__(self) -> str:
        params = f"{self.params_before:,} -> {self.params_after:,} parameters"
        return f"{params}, {self.flops_before:,} -> {self.flops_after:,} FLOPs per token"


@dataclass(frozen=True, slots=True)
class Swap:
    """One linear layer that becomes an `EinsumLinear` or a `StructuredMoE`."""

    name: str
    kind: str
    """What holds the weight: Linear, Conv1D or MultiheadAttention."""
    aliases: tuple[str, ...]
    """Other names under which the model holds the same module."""
    tied_to: str | None
    """The layer that holds the factors this one shares, if the weights were tied."""
    in_features: int
    out_features: int
    costs: Costs
    """Of this layer, bias and gain left out; of experts all parameters, and the FLOPs of those that a token uses."""
    relative_error: float | None = None
    """‖W − structured W‖ / ‖W‖ (Frobenius) where the old weight was projected; None where the layer starts anew."""

    def __str__(self) -> str:
        also = "".join(f", also {alias}" for alias in self.aliases)
        tied = f", factors shared with {self.tied_to}" if self.tied_to else ""
        error = "" if self.relative_error is None else f", relative error {self.relative_error:.4f}"
        widths = f"{self.in_features} -> {self.out_features}"
        return f"{self.name}{also}  {widths}: {self.costs}{error}{tied}{self._warning()}"

    @property
    def grows(self) -> tuple[str, ...]:
        """Which of parameters and FLOPs the structure has more of than the dense layer."""
        return tuple(
            what
            for what, before, after in (
                ("parameters", self.costs.params_before, self.costs.params_after),
                ("FLOPs", self.costs.flops_before, self.costs.flops_after),
            )
            if after > before
        )

    def _warning(self) -> str:
        return f" (more {' and '.join(self.grows)} than dense)" if self.grows else ""


@dataclass(frozen=True, slots=True)
class SwapReport:
    """What a swap does to a model, what it leaves, and why.

    >>> from torch import nn
    >>> from einsearch_cli.layers import plan_swaps
    >>> report = plan_swaps(nn.Sequential(nn.Linear(64, 64)), "monarch")
    >>> report.total
    Costs(params_before=4096, params_after=1024, flops_before=8192, flops_after=2048)
    >>> SwapReport.from_json(report.to_json()) == report
    True
    """

    structure: LayerSpec
    applied: bool
    """False for a plan, True once it is carried out."""
    replaced: tuple[Swap, ...]
    skipped: dict[str, str]
    """Name of a linear layer that stays → the reason."""
    model: Costs
    """The whole model: all its parameters, biases and gains included, and the FLOPs of all its linear layers."""

    @property
    def total(self) -> Costs:
        """The replaced layers together, biases and gains left out; tied factors count once, their FLOPs each time."""
        own = [swap.costs for swap in self.replaced if swap.tied_to is None]
        all_ = [swap.costs for swap in self.replaced]
        return Costs(
            sum(costs.params_before for costs in own),
            sum(costs.params_after for costs in own),
            sum(costs.flops_before for costs in all_),
            sum(costs.flops_after for costs in all_),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back to an equal report, which `apply_swaps` takes."""
        return {
            "structure": self.structure.to_json(),
            "applied": self.applied,
            "total": asdict(self.total),
            "model": asdict(self.model),
            "replaced": [{**asdict(swap), "aliases": list(swap.aliases)} for swap in self.replaced],
            "skipped": dict(self.skipped),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> SwapReport:
        return cls(
            layer_of_json(document["structure"]),
            document["applied"],
            tuple(
                Swap(**{**swap, "aliases": tuple(swap["aliases"]), "costs": Costs(**swap["costs"])})
                for swap in document["replaced"]
            ),
            dict(document["skipped"]),
            Costs(**document["model"]),
        )

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        found = len(self.replaced) + len(self.skipped)
        yield str(self.structure)
        yield (
            f"{'replaced' if self.applied else 'would replace'} {len(self.replaced)} of {found} linear layers: "
            f"{self.total}"
        )
        yield f"whole model: {self.model} in linear layers"
        if grown := sum(bool(swap.grows) for swap in self.replaced):
            yield f"{grown} of the replaced layers {'has' if grown == 1 else 'have'} more parameters or FLOPs than dense"
        yield from (f"  {swap}" for swap in self.replaced)
        if self.skipped:
            yield f"left {len(self.skipped)}:"
            yield from (f"  {name}: {reason}" for name, reason in self.skipped.items())
