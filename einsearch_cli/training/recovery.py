"""Recovery: a compressed model is trained to reproduce the outputs of the dense one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from einsearch_cli.compression.compressing import call_model
from einsearch_cli.compression.sensitivity import difference, output_of
from einsearch_cli.compression.stages import Call
from einsearch_cli.errors import DataError, DivergedError
from einsearch_cli.training.groups import optimizer_groups


def recover(
    model: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Any],
    steps: int,
    lr: float = 3e-4,
    call: Call = call_model,
    watch: Callable[[int, float], object] = lambda _, __: None,
) -> list[float]:
    """Train a compressed model for a few steps with the dense model as its teacher.

    The loss is the Kullback-Leibler divergence of the model's logits from the teacher's, in nats per token (Hinton et
    al. 2015, arXiv 1503.02531). For models whose results have no `logits`, it is the squared distance of their first
    tensors, divided by the squared norm. The optimizer is AdamW with the groups of `optimizer_groups`, without decay;
    the rate falls linearly to zero. Factors that do not require a gradient stay unchanged.

    Args:
        model: the compressed model, trained in place; its mode is kept.
        teacher: the dense model in evaluation mode; it stays unchanged.
        batches: one per step, as in `compress`; after the last comes the first again.
        steps: number of updates.
        lr: learning rate of a dense layer at the start.
        call: as in `compress`.
        watch: called with the number of every step and its loss.

    Returns:
        The loss of every step, before its update.

    Raises:
        DataError: if there are no batches.
        SpecError: for a negative or infinite rate, or a model without parameters that require a gradient.
        DivergedError: if the loss is NaN or infinite.

    >>> import copy
    >>> from einsearch_cli import swap_linear
    >>> dense = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> small = copy.deepcopy(dense)
    >>> _ = swap_linear(small, "low-rank:r=4", project=True)
    >>> losses = recover(small, dense, [torch.randn(64, 16) for _ in range(4)], steps=100, lr=3e-3)
    >>> losses[-1] < losses[0]
    True
    """
    if not batches:
        raise DataError("no batches to recover with", remedy="give at least one")
    optimizer = torch.optim.AdamW(optimizer_groups(model, lr, 0.0))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    teacher.eval()
    losses = []
    for step in range(steps):
        batch = batches[step % len(batches)]
        with torch.no_grad():
            expected = output_of(call(teacher, batch))
        loss = difference(call(model, batch), expected)
        losses.append(loss.item())
        if not loss.isfinite():
            raise DivergedError(
                f"the loss of step {step + 1} is {losses[-1]}", remedy=f"a smaller rate, such as lr={lr / 10:g}"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        watch(step + 1, losses[-1])
    return losses
