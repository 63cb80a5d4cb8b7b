"""One update of the parameters, shared by proxy and full runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from einsearch_cli.errors import DivergedError
from einsearch_cli.guided import SelfGuide
from einsearch_cli.moe import AuxiliaryLoss
from einsearch_cli.training.groups import set_learning_rates

_UNWATCHED: Final = nullcontext()


@dataclass(frozen=True, kw_only=True)
class GuideStep:
    """The state of the guides in one step."""

    weight: float
    """The mixing weight a, from 1 to 0."""
    evaluate: bool
    """Whether the guides are computed at all."""


def _alone(last: bool) -> AbstractContextManager[object]:  # noqa: ARG001
    return _UNWATCHED


@dataclass(frozen=True, kw_only=True)
class Update:
    """Changes parameters by the losses of a batch's parts."""

    optimizer: Optimizer
    """Optimizer whose groups hold their peak learning rates under `peak_lr`."""
    parameters: Collection[Tensor]
    """Parameters whose gradients are clipped together."""
    clip_norm: float
    """Norm to which larger gradients are scaled down."""
    auxiliary: AuxiliaryLoss
    """Listens to the routers and adds its loss to that of each part."""
    guide: SelfGuide | None = None
    """The guides of a self-guided network."""
    exchange: Callable[[bool], AbstractContextManager[object]] = _alone
    """Context of one part, given whether it is the last: processes exchange gradients only in the last one."""

    def step(
        self,
        losses: Sequence[Callable[[], Tensor]],
        fraction: float,
        *,
        guide: GuideStep | None = None,
        watch: AbstractContextManager[object] = _UNWATCHED,
    ) -> tuple[Tensor, Tensor]:
        """One update; returns the mean loss before it and the norm of its gradient, both as scalars.

        Args:
            losses: compute the mean losses of equal parts of the batch, one after another, to save memory.
            fraction: fraction of the peak learning rates.
            guide: the state of the guides; None leaves them as they are.
            watch: context of the forward and backward passes.
        """
        if self.guide is not None and guide is not None:
            self.guide.set_weight(guide.weight, guide.evaluate)
        set_learning_rates(self.optimizer, fraction)
        self.optimizer.zero_grad()
        with watch:
            loss = self._gradients(losses)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        return loss, norm

    def _gradients(self, losses: Sequence[Callable[[], Tensor]]) -> Tensor:
        """Sum the gradients of all parts; returns the mean of their losses."""
        parts = len(losses)
        found = []
        for number, compute in enumerate(losses):
            with self.exchange(number == parts - 1), self.auxiliary:
                loss = compute()
                ((loss + self.auxiliary.loss()) / parts).backward()
            found.append(loss.detach())
        return sum(found[1:], start=found[0]) / parts


@dataclass(frozen=True, kw_only=True)
class Course:
    """Facts about a run for the message that it diverged."""

    steps: int
    run: str
    """Description of the run that follows the number of steps."""
    learning_rate: float
    rate_name: str = "the learning rate"
    warmup_name: str = "the warm-up"

    def finite(self, loss: float, kind: str, step: int) -> float:
        """Return the loss of a step (1-based); DivergedError if it is NaN or infinite."""
        if math.isfinite(loss):
            return loss
        raise DivergedError(
            f"{kind} loss became {loss} at step {step:,} of {self.steps:,} {self.run}",
            remedy=f"lower {self.rate_name}, e.g. to {self.learning_rate / 3:.2g}, or lengthen {self.warmup_name}",
        )
