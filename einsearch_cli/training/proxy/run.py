"""Proxy runs, from structures to losses: one alone, or several at once."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from einsearch_cli.errors import DivergedError
from einsearch_cli.structures import RoutingStatistics
from einsearch_cli.training.proxy.cost import RunCost, run_cost
from einsearch_cli.training.proxy.keeping import RunProgress, StateKeeper
from einsearch_cli.training.proxy.packing import packs_of, trains_as_program
from einsearch_cli.training.proxy.recording import NotAProgramError, is_out_of_memory
from einsearch_cli.training.proxy.run_settings import ProxyRun, RunOutcome
from einsearch_cli.training.proxy.trainer import PackTrainer, SingleTrainer, Trainer
from einsearch_cli.training.schedule import validation_marks

_LONGEST_WAIT_S: Final = 0.5
"""The longest time that this process may wait for a GPU; if it takes longer, fewer steps are sent ahead."""
_FILLED: Final = 0.8
"""Share of a GPU's free memory that a pack may use by its estimate.

With several workers on one GPU this may still be too much; the pack is then halved.
"""
_ROUGH_BYTES: Final = 80
"""Bytes for each parameter and each result of a product: twenty numbers, including gradients, moments and copies."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """Facts about a step that has just ended."""

    step: int
    """Number of steps done."""
    steps: int
    """Number of all steps."""
    loss: float
    """Training loss before the step."""
    routing: Callable[[], tuple[RoutingStatistics, ...]]
    """A function that returns the routers' statistics of the latest batch; valid until the next step."""


@dataclass(frozen=True)
class RunSpeed:
    """The speed of a run on this machine."""

    cost: RunCost
    step_s: float
    """Seconds of one step: the median of a few."""
    fixed_s: float
    """Seconds for building the network and for all validations, independent of the number of steps."""
    shared_s: float = 0.0
    """The part of a step that a pack spends once for all its runs."""

    def seconds(self, budget_flops: float, together: int = 1) -> float:
        """Wall time of the run on another budget; if several train at once, its share of theirs."""
        step_s = self.step_s - self.shared_s * (1 - 1 / together)
        return self.fixed_s + budget_flops / self.cost.train_flops_per_step * step_s


def train(run: ProxyRun, on_progress: Callable[[StepDone], None] | None = None) -> RunOutcome:
    """Train one network from scratch until the budget is spent.

    On one thread, the same run gives the same result to the last bit, also among others in `train_pack`. torch's global
    random state is restored. On the CPU, runs use the threads that torch is set to.

    Args:
        run: what to train.
        on_progress: called for every step; on a GPU for several at a time.

    Raises:
        DivergedError: a loss became NaN or infinite.
        SpecError: the budget is too small.
        DataError: the task's data cannot be read.
    """
    ends: list[RunOutcome | DivergedError] = []
    told = None if on_progress is None else (lambda _, done: on_progress(done))
    train_pack([run], told, lambda _, end: ends.append(end))
    if isinstance(ends[0], DivergedError):
        raise ends[0]
    return ends[0]


def train_pack(
    runs: Sequence[ProxyRun],
    on_progress: Callable[[int, StepDone], None] | None,
    on_end: Callable[[int, RunOutcome | DivergedError], None],
    keeper: StateKeeper | None = None,
) -> None:
    """Train runs of one task, structure, width and budget at once; they differ in seed and learning rate.

    Each run has its own data, clipping and learning rate, and diverges alone. Results equal those of each run alone,
    except for `elapsed_s`: the time of the pack until the run ended, divided by the number of runs.

    Args:
        runs: what to train; several only where `packing.packs_of` puts them together. A pack that memory does not
            suffice for is halved, and its runs begin again.
        on_progress: called for every step of every run, with the place of the run; on a GPU for several steps at a time.
        on_end: called once for every run with its outcome.
        keeper: stores the states of the runs from time to time, and provides those from which they go on.

    Raises:
        SpecError: the budget is too small.
        DataError: the task's data cannot be read.
    """
    runs[0].task.prepare()
    states = [None if keeper is None else keeper.read(number) for number in range(len(runs))]
    for numbers in _equally_far(states):
        for part in _parts_that_fit(runs, numbers):
            waiting = [part]
            while waiting:
                waiting[:0] = _train_at_once(runs, waiting.pop(0), on_progress, on_end, states, keeper)


def _equally_far(states: Sequence[RunProgress | None]) -> list[list[int]]:
    """The numbers of runs that have done the same number of steps."""
    groups: dict[int, list[int]] = {}
    for number, state in enumerate(states):
        groups.setdefault(0 if state is None else state["trainer"]["done"], []).append(number)
    return list(groups.values())


def _parts_that_fit(runs: Sequence[ProxyRun], numbers: list[int]) -> list[list[int]]:
    """Parts of equal size that fit into the memory of a GPU; on a CPU, all at once.

    One step is tried where a rough estimate does not rule out that memory is too small; trying takes a second.
    """
    run = runs[numbers[0]]
    device = torch.device(run.device)
    if device.type == "cpu" or len(numbers) == 1:
        return [numbers]
    cost = run_cost(run)
    torch.cuda.empty_cache()  # memory cached by earlier packs does not count as free
    free, _ = torch.cuda.mem_get_info(device)
    activations = cost.total_flops_per_step / (6 * run.width)  # results of all products, each as large as its width
    if len(numbers) * _ROUGH_BYTES * (cost.params + activations) < _FILLED * free:
        return [numbers]
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with suppress(NotAProgramError):
        PackTrainer([run]).step()
    needed = max(1, torch.cuda.max_memory_allocated(device) - before)
    parts = math.ceil(len(numbers) / max(1, int(_FILLED * free / needed)))
    return [numbers[start::parts] for start in range(parts)]


def _train_at_once(
    runs: Sequence[ProxyRun],
    numbers: Sequence[int],
    on_progress: Callable[[int, StepDone], None] | None,
    on_end: Callable[[int, RunOutcome | DivergedError], None],
    states: Sequence[RunProgress | None],
    keeper: StateKeeper | None,
) -> list[list[int]]:
    """Train runs that have done the same number of steps, by number.

    Returns the numbers of those that have to start again, each alone or in two halves.
    """
    started_s, going = time.perf_counter(), list(numbers)
    first, *others = numbers
    try:
        trainer = PackTrainer([runs[number] for number in numbers]) if others else trainer_of(runs[first])
        progress = _Progress(trainer, started_s, numbers, on_progress, on_end, keeper)
        going = progress.going
        progress.go(states)
    except NotAProgramError:
        return [[number] for number in numbers]
    except (RuntimeError, MemoryError) as error:
        if not others or not is_out_of_memory(error):
            raise
        half = len(going) // 2
        return [part for part in (going[:half], going[half:]) if part]
    return []


def trainer_of(run: ProxyRun) -> Trainer:
    """A program for a run that has one, else the network's own passes."""
    if trains_as_program(run):
        with suppress(NotAProgramError):
            return PackTrainer([run])
    return SingleTrainer(run)


class _Progress:
    """The course of a trainer's runs from their first step to their ends."""

    def __init__(
        self,
        trainer: Trainer,
        started_s: float,
        names: Sequence[int],
        on_progress: Callable[[int, StepDone], None] | None,
        on_end: Callable[[int, RunOutcome | DivergedError], None],
        keeper: StateKeeper | None,
    ) -> None:
        self.trainer, self.started_s, self.names = trainer, started_s, names
        self.on_progress, self.on_end = on_progress, on_end
        self.keeper = keeper
        self.marks = validation_marks(trainer.cost.steps, trainer.settings.validations)
        self.curves: list[list[tuple[float, float]]] = [[] for _ in trainer.runs]
        self.going = list(names)
        """Numbers of the runs that have not ended."""
        self.unread: list[Tensor] = []
        """Losses of the latest steps that have not been read."""
        self.most_unread = trainer.most_unread

    def go(self, states: Sequence[RunProgress | None]) -> None:
        """Train to the end, from these states of the pack's runs, by name."""
        self._go_on_from([state for name in self.names if (state := states[name]) is not None])
        steps = self.trainer.cost.steps
        while self.going and self.trainer.done < steps:
            self.unread.append(self.trainer.advance())
            step = self.trainer.done
            if step in self.marks or len(self.unread) >= self.most_unread:
                self._read()
            if step in self.marks:
                for place in self._places():
                    self._validate(place)
            if self.keeper is not None and self.keeper.is_due and step < steps:
                self._read()
                self._save(self.keeper)

    def _read(self) -> None:
        """Read the losses of the latest steps, if any are unread; this waits for the device."""
        if not self.unread:
            return
        started_s = time.perf_counter()
        losses_SR: list[list[float]] = torch.stack(self.unread).tolist()
        if time.perf_counter() - started_s > _LONGEST_WAIT_S:  # a process that is asked to end saves within seconds
            self.most_unread = max(1, self.most_unread // 2)
        first, steps = self.trainer.done - len(self.unread) + 1, self.trainer.cost.steps
        self.unread.clear()
        for step, losses_R in enumerate(losses_SR, first):
            for place in self._places():
                is_finite = self._is_finite(place, losses_R[place], "training", step)
                if is_finite and self.on_progress is not None:
                    self.on_progress(self.names[place], StepDone(step, steps, losses_R[place], self.trainer.routing))

    def _places(self) -> list[int]:
        """Places in the trainer of the runs that have not ended."""
        return [place for place, name in enumerate(self.names) if name in self.going]

    def _go_on_from(self, states: Sequence[RunProgress]) -> None:
        if not states or not all(self.trainer.takes(state["trainer"]) for state in states):
            return
        self.trainer.load_run_states([state["trainer"] for state in states])
        self.curves = [[(flops, loss) for flops, loss in state["curve"]] for state in states]
        self.started_s -= sum(state["elapsed_s"] for state in states)

    def _save(self, keeper: StateKeeper) -> None:
        with keeper.saving():
            for place, name in enumerate(self.names):
                if name in self.going:
                    state, curve = self.trainer.run_state(place), self.curves[place]
                    keeper.save(name, {"trainer": state, "curve": curve, "elapsed_s": self._elapsed_s()})

    def _elapsed_s(self) -> float:
        return (time.perf_counter() - self.started_s) / len(self.trainer.runs)

    def _validate(self, place: int) -> None:
        """Add a point to the curve of a run; the last point is its end."""
        cost, step, loss = self.trainer.cost, self.trainer.done, self.trainer.validate(place)
        if not self._is_finite(place, loss, "validation", step):
            return
        self.curves[place].append((float(step * cost.train_flops_per_step), loss))
        if step == cost.steps:
            self._end(place, self._outcome(place))

    def _is_finite(self, place: int, loss: float, kind: str, step: int) -> bool:
        """Whether the loss is finite; if not, the run has diverged and ends."""
        try:
            self.trainer.courses[place].finite(loss, kind, step)
        except DivergedError as error:
            self.trainer.stop(place)
            self._end(place, error)
            return False
        return True

    def _end(self, place: int, end: RunOutcome | DivergedError) -> None:
        self.going.remove(self.names[place])
        self.on_end(self.names[place], end)

    def _outcome(self, place: int) -> RunOutcome:
        trainer, cost = self.trainer, self.trainer.cost
        return RunOutcome(
            loss=self.curves[place][-1][1],
            curve=tuple(self.curves[place]),
            params=cost.params,
            train_flops=float(cost.steps * cost.train_flops_per_step),
            total_flops=float(cost.steps * cost.total_flops_per_step),
            executed_flops=float(cost.steps * trainer.executed_flops),
            steps=cost.steps,
            learning_rate=trainer.learning_rates[place],
            elapsed_s=self._elapsed_s(),
            routing=trainer.routing(),
        )


def probe(run: ProxyRun, steps: int = 5, pack: int = 1) -> RunSpeed:
    """Time a few steps of a run on this machine, after two warm-up steps, and everything else that it does.

    Args:
        run: what to time.
        steps: number of timed steps.
        pack: runs that may train at once; with more than one, such a pack is timed too.
    """
    run.task.prepare()
    trainer_of(run)  # records the program, which later runs of the same network reuse
    started_s = time.perf_counter()
    trainer = trainer_of(run)
    setup_s = time.perf_counter() - started_s
    step_s = _step_seconds(trainer, steps)
    trainer.validate(0)  # the first step loads kernels
    started_s = time.perf_counter()
    trainer.validate(0)
    validations_s = run.optimizer.validations * (time.perf_counter() - started_s)
    shared_s = 0.0
    together = [replace(run, seed=run.seed + number) for number in range(pack)]
    if pack > 1 and len(packs_of(together)) == 1:
        try:
            together_s = _step_seconds(PackTrainer(together), steps)
            shared_s = min(step_s, max(0.0, (step_s - together_s / pack) / (1 - 1 / pack)))
        except NotAProgramError:
            pass
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
    return RunSpeed(trainer.cost, step_s, setup_s + validations_s, shared_s)


def _step_seconds(trainer: Trainer, steps: int) -> float:
    """The median of a few steps, after two warm-up steps."""
    times_s: list[float] = []
    for _ in range(steps + 2):
        started_s = time.perf_counter()
        trainer.step()  # wait for a GPU
        times_s.append(time.perf_counter() - started_s)
    return statistics.median(times_s[2:])
