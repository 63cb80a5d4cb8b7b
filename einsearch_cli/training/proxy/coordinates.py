"""Coordinate check: the size of every layer's outputs at the start, and how far a few steps move them.

A learning rate carries over to a wider network if both stay the same. This is the test of muP by Yang et al. 2022
(arXiv 2203.03466, appendix D.1).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from einsearch_cli.training.proxy.run_settings import ProxyRun
from einsearch_cli.training.proxy.trainer import SingleTrainer
from einsearch_cli.training.proxy.width_trends import LayerCoordinates

STEPS: Final = (1, 10)
"""Optimizer steps after which the change is measured."""


def coordinates(run: ProxyRun) -> tuple[LayerCoordinates, ...]:
    """The coordinate check of one network: `STEPS` optimizer steps, regardless of the budget of `run`.

    Raises:
        DivergedError: a loss became NaN or infinite within these steps.
    """
    steady = run.optimizer.model_copy(update={"warmup": 0.0, "final": 1.0})
    trainer = SingleTrainer(replace(run, optimizer=steady))
    start, changes = _outputs(trainer), []
    for step in range(1, STEPS[-1] + 1):
        (loss,) = trainer.step()
        trainer.courses[0].finite(loss, "training", step)
        if step in STEPS:
            now = _outputs(trainer)
            changes.append({name: _rms(now[name] - start[name]) for name in start})
    return tuple(
        LayerCoordinates(run.structure, run.width, name, _rms(output), tuple(moved[name] for moved in changes))
        for name, output in start.items()
    )


@torch.no_grad()
def _outputs(trainer: SingleTrainer) -> dict[str, Tensor]:
    """The outputs of every linear layer and embedding for the first held-out batch, by name."""
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
        trainer.loss(model, trainer.held_out[0])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())
