"""Coordinate check: how large the outputs of every layer are at the start, and how far a few steps move them.

A learning rate carries over from one width to another if both stay the same while the network becomes wider: the test of
muP by Yang et al. 2022 (arXiv 2203.03466, appendix D.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn

from einsearch_cli.structures import LayerSpec
from einsearch_cli.training.proxy.run import Trainer
from einsearch_cli.training.proxy.run_settings import ProxyRun

STEPS: Final = (1, 10)
"""Optimizer steps after which the change is measured."""


@dataclass(frozen=True, slots=True)
class LayerCoordinates:
    """Root mean squares of one layer's outputs on held-out data, over samples and features."""

    structure: LayerSpec
    width: int
    layer: str
    start: float
    """Of the outputs of the untrained network."""
    changes: tuple[float, ...]
    """Of the difference to these after 1 and 10 steps at the full learning rate, without warm-up."""


@dataclass(frozen=True, slots=True)
class WidthTrend:
    """How the outputs of one layer change while the network becomes wider: exponents of the width, 0 is ideal."""

    structure: LayerSpec
    layer: str
    start: float
    """rms at the start, at the widest network."""
    change: float
    """rms of the change after the last step, at the widest network."""
    start_slope: float | None
    """None where an output starts at zero, as that of the head does."""
    change_slope: float | None


def coordinates(run: ProxyRun) -> tuple[LayerCoordinates, ...]:
    """The coordinate check of one network: `STEPS` optimizer steps, whatever the budget of `run` pays for.

    Raises:
        DivergedError: a loss became NaN or infinite within these steps.
    """
    steady = run.optimizer.model_copy(update={"warmup": 0.0, "final": 1.0})
    trainer = Trainer(replace(run, optimizer=steady))
    start, changes = _outputs(trainer), []
    for step in range(1, STEPS[-1] + 1):
        trainer.step()
        if step in STEPS:
            now = _outputs(trainer)
            changes.append({name: _rms(now[name] - start[name]) for name in start})
    return tuple(
        LayerCoordinates(run.structure, run.width, name, _rms(output), tuple(moved[name] for moved in changes))
        for name, output in start.items()
    )


@torch.no_grad()
def _outputs(trainer: Trainer) -> dict[str, Tensor]:
    """What every linear layer and embedding gives for the first held-out batch, by name."""
    model, found = trainer.model, {}

    def keep(name: str) -> object:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            found[name] = output.detach().clone()

        return hook

    layers = {
        **{name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Embedding)},
        **model.structured_layers(),
    }
    hooks = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]  # type: ignore[arg-type]
    try:
        trainer.run.task.loss(model, trainer.held_out[0])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def width_trends(found: Iterable[LayerCoordinates]) -> tuple[WidthTrend, ...]:
    """Slopes of log rms over log width by least squares, for layers that were checked at two widths or more.

    >>> from einsearch_cli.structures import parse_structure
    >>> dense = parse_structure("dense")
    >>> narrow, wide = (LayerCoordinates(dense, width, "0", 1.0, (0.1, width / 640)) for width in (64, 128))
    >>> [trend] = width_trends([narrow, wide])
    >>> (trend.start_slope, trend.change_slope)
    (0.0, 1.0)
    """
    grouped: dict[tuple[LayerSpec, str], list[LayerCoordinates]] = {}
    for item in found:
        grouped.setdefault((item.structure, item.layer), []).append(item)
    trends = []
    for (structure, layer), items in grouped.items():
        items.sort(key=lambda item: item.width)
        if items[0].width < items[-1].width:
            start = [(item.width, item.start) for item in items]
            change = [(item.width, item.changes[-1]) for item in items]
            ends = items[-1].start, items[-1].changes[-1]
            trends.append(WidthTrend(structure, layer, *ends, _slope(start), _slope(change)))
    return tuple(trends)


def _slope(points: list[tuple[int, float]]) -> float | None:
    import numpy as np

    if min(value for _, value in points) <= 0:
        return None
    x, y = zip(*((math.log(width), math.log(value)) for width, value in points), strict=True)
    return round(float(np.polyfit(x, y, 1)[0]), 6)
