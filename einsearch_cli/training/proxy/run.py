"""One proxy run, from a structure to a loss."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from einsearch_cli.data import Batch
from einsearch_cli.layers import AuxiliaryLoss
from einsearch_cli.models import StructuredNetwork
from einsearch_cli.structures import RoutingStatistics
from einsearch_cli.training.groups import grouped
from einsearch_cli.training.optimizers import find_optimizer
from einsearch_cli.training.proxy.cost import RunCost, cost_of
from einsearch_cli.training.proxy.run_settings import ProxyRun, RunOutcome
from einsearch_cli.training.schedule import lr_fraction, validation_marks
from einsearch_cli.training.update import Course, Update


@dataclass(frozen=True, slots=True)
class StepDone:
    """What is known after a step."""

    step: int
    """Steps done."""
    steps: int
    """Steps in all."""
    loss: float
    """Training loss before the step."""
    routing: Callable[[], tuple[RoutingStatistics, ...]]
    """What the routers did with the batch of the step; computed when called, before the next step only."""


_UNWATCHED: Final = nullcontext()


@dataclass(frozen=True)
class RunSpeed:
    """How fast a run is on this machine."""

    cost: RunCost
    step_s: float
    """Seconds of one step: the median of a few."""
    fixed_s: float
    """Seconds for building the network and for all validations, however many steps there are."""

    def seconds(self, budget_flops: float) -> float:
        """Wall time of the run on another budget."""
        return self.fixed_s + budget_flops / self.cost.train_flops_per_step * self.step_s


def train(run: ProxyRun, on_progress: Callable[[StepDone], None] | None = None) -> RunOutcome:
    """Train one network from scratch until the budget is spent.

    On one thread the result is the same to the last bit for the same run; torch's global random state is
    left as it was. Runs on the CPU with the threads that torch is set to.

    Args:
        run: what to train.
        on_progress: called after every step.

    Raises:
        DivergedError: a loss became NaN or infinite.
        SpecError: the budget is too small.
        DataError: the task's data cannot be read.
    """
    run.task.prepare()
    started_s = time.perf_counter()
    trainer = Trainer(run)
    cost = trainer.cost
    marks = validation_marks(cost.steps, run.optimizer.validations)
    curve: list[tuple[float, float]] = []
    counter = FlopCounterMode(display=False)
    for step in range(1, cost.steps + 1):
        loss = trainer.step(counter if step == 1 else _UNWATCHED)
        if on_progress is not None:
            on_progress(StepDone(step, cost.steps, loss, trainer.auxiliary.statistics))
        if step in marks:
            curve.append((float(step * cost.train_flops_per_step), trainer.validate()))
    return RunOutcome(
        loss=curve[-1][1],
        curve=tuple(curve),
        params=cost.params,
        train_flops=float(cost.steps * cost.train_flops_per_step),
        total_flops=float(cost.steps * cost.total_flops_per_step),
        executed_flops=float(cost.steps * trainer.executed_flops(counter)),
        steps=cost.steps,
        learning_rate=trainer.learning_rate,
        elapsed_s=time.perf_counter() - started_s,
        routing=trainer.auxiliary.statistics(),
    )


def probe(run: ProxyRun, steps: int = 5) -> RunSpeed:
    """Time a few steps of a run on this machine, after two to warm up, and everything else it has to do."""
    run.task.prepare()
    started_s = time.perf_counter()
    trainer = Trainer(run)
    setup_s = time.perf_counter() - started_s
    times_s: list[float] = []
    for _ in range(steps + 2):
        started_s = time.perf_counter()
        trainer.step()
        times_s.append(time.perf_counter() - started_s)
    started_s = time.perf_counter()
    trainer.validate()
    validations_s = run.optimizer.validations * (time.perf_counter() - started_s)
    return RunSpeed(trainer.cost, statistics.median(times_s[2:]), setup_s + validations_s)


class Trainer:
    """Network, optimizer and data of a run in progress."""

    def __init__(self, run: ProxyRun) -> None:
        self.run = run
        settings = run.optimizer
        task_settings = run.task.settings
        self.learning_rate: float = (
            task_settings.learning_rate if settings.learning_rate is None else settings.learning_rate
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            self.model: StructuredNetwork = run.task.build_model(run.structure, run.width)
        self.cost = cost_of(run, self.model.count())
        kind = find_optimizer(settings.name)
        options = kind.options(
            self.model,
            base_width=task_settings.base_width,
            learning_rate=self.learning_rate,
            weight_decay=settings.weight_decay,
        )
        self.auxiliary = AuxiliaryLoss(self.model, settings.auxiliary_weight)
        self.update = Update(
            optimizer=kind.make(grouped(self.model, options), settings),
            parameters=tuple(self.model.parameters()),
            clip_norm=settings.clip_norm,
            auxiliary=self.auxiliary,
        )
        self.course = Course(
            steps=self.cost.steps,
            run=f"(structure {run.structure}, width {run.width}, seed {run.seed}, "
            f"base learning rate {self.learning_rate:g})",
            learning_rate=self.learning_rate,
        )
        self.batches = run.task.batches(run.seed)
        self.held_out: tuple[Batch, ...] = run.task.validation()
        self.done = 0

    def step(self, watch: AbstractContextManager[object] = _UNWATCHED) -> float:
        """One optimizer update; gives the training loss before it. `watch` sees the forward and the backward pass."""
        settings, batch = self.run.optimizer, next(self.batches)
        fraction = lr_fraction(self.done, self.cost.steps, warmup=settings.warmup, final=settings.final)
        loss, _ = self.update.step([lambda: self.run.task.loss(self.model, batch)], fraction, watch=watch)
        self.done += 1
        return self.course.finite(loss.item(), "training", self.done)

    def executed_flops(self, counter: FlopCounterMode) -> int:
        """FLOPs of the step that a counter has watched; attention, which it misses on a CPU, as the network counts it."""
        counted = counter.get_flop_counts()["Global"]
        products = sum(flops for operation, flops in counted.items() if "attention" not in str(operation))
        return products + self.model.training_flops_per_token().attention * self.run.task.tokens_per_batch

    @torch.no_grad()
    def validate(self) -> float:
        """Mean loss over the held-out batches; `auxiliary` then knows what the routers did with them."""
        self.model.eval()
        with self.auxiliary:
            losses = [self.run.task.loss(self.model, batch).item() for batch in self.held_out]
        self.model.train()
        return self.course.finite(statistics.fmean(losses), "validation", self.done)
