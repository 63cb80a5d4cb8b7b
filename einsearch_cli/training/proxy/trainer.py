"""Trainers hold runs in progress: one run by its layers' own passes, or several as a program."""

# Axes in this file: R runs, P parameters of a run.

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from einsearch_cli.data import Batch
from einsearch_cli.models import StructuredNetwork
from einsearch_cli.moe import AuxiliaryLoss
from einsearch_cli.structures import RoutingStatistics
from einsearch_cli.training.flat_update import FlatLayout
from einsearch_cli.training.groups import Options, grouped
from einsearch_cli.training.optimizers import find_optimizer
from einsearch_cli.training.precision import autocast
from einsearch_cli.training.proxy.cost import cost_of
from einsearch_cli.training.proxy.graphs import StepGraph
from einsearch_cli.training.proxy.packing import fix_routes
from einsearch_cli.training.proxy.program import product_flops, step_program
from einsearch_cli.training.proxy.run_settings import ProxyRun
from einsearch_cli.training.schedule import lr_fraction
from einsearch_cli.training.update import Course, Update

_UNWATCHED: Final = nullcontext()


class Trainer(ABC):
    """Runs of one task, structure, width and budget in progress; they differ in seed and learning rate.

    `run_state` contains everything that a step of a run depends on. Another trainer continues from it exactly, whatever
    other runs train with it.
    """

    def __init__(self, runs: Sequence[ProxyRun]) -> None:
        self.runs = tuple(runs)
        first = runs[0]
        self.task, self.settings = first.task, first.optimizer
        self.device, self.precision = torch.device(first.device), first.precision
        self.learning_rates = tuple(_learning_rate(run) for run in runs)
        self.models = [_start(run) for run in runs]
        self.cost = cost_of(first, self.models[0].count())
        self.courses = tuple(
            Course(
                steps=self.cost.steps,
                run=f"(structure {run.structure}, width {run.width}, seed {run.seed}, base learning rate {rate:g})",
                learning_rate=rate,
            )
            for run, rate in zip(runs, self.learning_rates, strict=True)
        )
        self.batches: Iterator[Batch] = self.task.joint_batches([run.seed for run in runs], self.device)
        """Batches with the runs as first axis."""
        self.held_out = tuple(Batch(*(tensor.to(self.device) for tensor in batch)) for batch in self.task.validation())
        self.done = 0
        """Number of steps taken."""

    @abstractmethod
    def advance(self) -> Tensor:
        """One optimizer update of every run; returns the training losses before it, without waiting for them."""

    def step(self) -> list[float]:
        """One optimizer update of every run; returns the training losses before it."""
        losses: list[float] = self.advance().tolist()
        return losses

    @abstractmethod
    def validate(self, number: int) -> float:
        """The mean loss of a run over the held-out batches."""

    @abstractmethod
    def stop(self, number: int) -> None:
        """Stop a run: it takes no more steps, and its losses mean nothing from then on."""

    @property
    @abstractmethod
    def executed_flops(self) -> int:
        """FLOPs of a step of one run as this machine executes them."""

    @abstractmethod
    def _update_state(self, number: int) -> dict[str, Any]: ...

    @abstractmethod
    def _load_update_state(self, number: int, state: Mapping[str, Any]) -> None: ...

    def routing(self) -> tuple[RoutingStatistics, ...]:
        """The routers' statistics for the latest batch; empty without experts."""
        return ()

    def run_state(self, number: int) -> dict[str, Any]:
        """Parameters, moments and number of steps of a run; tensors are not copied."""
        return {"done": self.done, "kind": type(self).__name__, **self._update_state(number)}

    def takes(self, state: Mapping[str, Any]) -> bool:
        """Whether the trainer can continue from a state; each kind of trainer writes and reads its own."""
        own = type(self).__name__
        return bool(state.get("kind", own) == own)

    def load_run_states(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Continue from states of all runs after the same number of steps; only before this trainer's first step."""
        [done] = {state["done"] for state in states}
        for number, state in enumerate(states):
            self._load_update_state(number, state)
        for _ in range(done):
            next(self.batches)
        self.done = done

    @property
    def most_unread(self) -> int:
        """The most steps whose losses may stay unread: a GPU runs ahead of this process, which must wait now and then."""
        return 1 if self.device.type == "cpu" else 50

    def _fraction(self) -> float:
        return lr_fraction(self.done, self.cost.steps, warmup=self.settings.warmup, final=self.settings.final)

    def _options(self, number: int) -> dict[str, Options]:
        return find_optimizer(self.settings.name).options(
            self.models[number],
            base_width=self.task.settings.base_width,
            learning_rate=self.learning_rates[number],
            weight_decay=self.settings.weight_decay,
        )

    def _with_attention(self, products: int) -> int:
        """FLOPs with attention by the network's own formula, as torch's counter misses attention on a CPU."""
        return products + self.models[0].training_flops_per_token().attention * self.task.tokens_per_batch

    def loss(self, model: StructuredNetwork, batch: Batch) -> Tensor:
        """The task's loss, with products in the precision of the runs."""
        with autocast(self.precision, self.device):
            return self.task.loss(model, batch)

    @torch.no_grad()
    def _held_out_loss(self, model: StructuredNetwork) -> float:
        model.eval()
        losses = [self.loss(model, batch).item() for batch in self.held_out]
        model.train()
        return statistics.fmean(losses)


class SingleTrainer(Trainer):
    """One run of any network and optimizer, by the passes that its layers choose themselves."""

    def __init__(self, run: ProxyRun) -> None:
        super().__init__([run])
        self.model = self.models[0]
        self.auxiliary = AuxiliaryLoss(self.model, self.settings.auxiliary_weight)
        kind, options = find_optimizer(self.settings.name), self._options(0)
        layout = FlatLayout.of(self.model, options)
        self._flat = kind.flat_steps(layout, layout.rows([self.model]), [options], self.settings)
        if self._flat is None:
            self._update = Update(
                optimizer=kind.make(grouped(self.model, options), self.settings),
                parameters=tuple(self.model.parameters()),
                clip_norm=self.settings.clip_norm,
                auxiliary=self.auxiliary,
            )
        else:
            layout.show_(self._flat.values_RP[0], self.model)
            self._parameters = [self.model.get_parameter(name) for name in layout.names]
            self._gradients_P = self._flat.gradients_RP[0, : sum(layout.sizes[:-1])]
        self._executed_flops = 0

    def advance(self) -> Tensor:
        """One optimizer update; torch's counter of FLOPs watches the first one."""
        counter = None if self.done else FlopCounterMode(display=False)
        advance = self._usual_step if self._flat is None else self._flat_step
        batch = Batch(*(tensor[0] for tensor in next(self.batches)))
        loss = advance(batch, self._fraction(), _UNWATCHED if counter is None else counter)
        if counter is not None:
            self._executed_flops = self._with_attention(product_flops(counter))
        self.done += 1
        return loss[None]

    def _usual_step(self, batch: Batch, fraction: float, watch: AbstractContextManager[object]) -> Tensor:
        return self._update.step([lambda: self.loss(self.model, batch)], fraction, watch=watch)[0]

    def _flat_step(self, batch: Batch, fraction: float, watch: AbstractContextManager[object]) -> Tensor:
        assert self._flat is not None
        with watch, self.auxiliary:
            loss = self.loss(self.model, batch)
            gradients = torch.autograd.grad(loss + self.auxiliary.loss(), self._parameters)
        torch.cat([gradient.flatten() for gradient in gradients], out=self._gradients_P)
        self._flat.step(fraction)
        return loss.detach()

    def validate(self, number: int) -> float:  # noqa: ARG002
        """Mean loss over the held-out batches; `auxiliary` then holds the routers' statistics."""
        with self.auxiliary:
            return self._held_out_loss(self.model)

    def stop(self, number: int) -> None:
        """Do nothing: the only run has ended."""

    def routing(self) -> tuple[RoutingStatistics, ...]:
        """The routers' statistics for the latest batch."""
        return self.auxiliary.statistics()

    @property
    def executed_flops(self) -> int:
        """FLOPs as counted in the first step."""
        return self._executed_flops

    def _update_state(self, number: int) -> dict[str, Any]:
        update = self._update.optimizer.state_dict() if self._flat is None else self._flat.run_state(number)
        return {"executed_flops": self._executed_flops, "update": update, "model": self.model.state_dict()}

    def _load_update_state(self, number: int, state: Mapping[str, Any]) -> None:
        self._executed_flops = state["executed_flops"]
        self.model.load_state_dict(state["model"])
        if self._flat is None:
            self._update.optimizer.load_state_dict(state["update"])
        else:
            self._flat.load_run_state(number, state["update"])


class PackTrainer(Trainer):
    """Runs that one program trains at once, each with its own data, clipping, learning rates and end.

    A run's losses do not depend on its pack; a single run is a pack of one.

    Raises:
        NotAProgramError: the task's loss cannot be recorded as a program.
    """

    def __init__(self, runs: Sequence[ProxyRun]) -> None:
        super().__init__(runs)
        options = [self._options(number) for number in range(len(runs))]
        self._layout = FlatLayout.of(self.models[0], options[0])
        values_RP = self._layout.rows(self.models)
        del self.models[1:]
        fix_routes(self.models[0])
        update = find_optimizer(self.settings.name).flat_steps(self._layout, values_RP, options, self.settings)
        assert update is not None  # see `trains_as_program`
        self._update = update
        first = runs[0]
        example = next(self.task.joint_batches([run.seed for run in runs], self.device))
        self._program = step_program(
            (type(self.task), self.task.settings.model_dump_json(), str(first.structure), first.width, self.precision),
            self.loss,
            self.models[0],
            self._layout,
            values_RP,
            example,
        )
        self._graph: StepGraph | None = None

    @torch.no_grad()
    def advance(self) -> Tensor:
        """One optimizer update of every run; on a GPU as a CUDA graph."""
        batch = next(self.batches)
        if self.device.type == "cpu":
            losses_R = self._step(self._fraction(), *batch)
        else:
            if self._graph is None:
                self._graph = StepGraph(self._step, self._update.state(), batch)
            losses_R = self._graph.run(self._fraction(), batch)
        self.done += 1
        return losses_R

    def _step(self, fraction: float | Tensor, *batch: Tensor) -> Tensor:
        losses_R, gradients_RP = self._program.compute(self._update.values_RP, *batch)
        self._update.gradients_RP.copy_(gradients_RP)
        self._update.step(fraction)
        return losses_R

    def validate(self, number: int) -> float:
        """The mean loss of a run over the held-out batches, by the network's own passes."""
        self._layout.show_(self._update.values_RP[number], self.models[0])
        return self._held_out_loss(self.models[0])

    def stop(self, number: int) -> None:
        """Stop updating a run, on a CPU; it is still computed, as leaving it out needs another program."""
        self._update.stop(number)

    @property
    def executed_flops(self) -> int:
        """FLOPs as counted in the program."""
        products = self._program.product_flops
        return self._with_attention(products) if self._program.has_attention else products

    def _update_state(self, number: int) -> dict[str, Any]:
        return {"update": self._update.run_state(number)}

    def _load_update_state(self, number: int, state: Mapping[str, Any]) -> None:
        self._update.load_run_state(number, state["update"])


def _learning_rate(run: ProxyRun) -> float:
    given = run.optimizer.learning_rate
    return float(run.task.settings.learning_rate if given is None else given)


def _start(run: ProxyRun) -> StructuredNetwork:
    """The network of a run before its first step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return run.task.build_model(run.structure, run.width).to(run.device)
