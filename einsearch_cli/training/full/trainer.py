"""One full run: steps, validation, metrics, checkpoints, and resuming after an interruption."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Final, Protocol, Self

import torch
from filelock import FileLock, Timeout

from einsearch_cli.data.tokens import TokenData, held_out_batches
from einsearch_cli.errors import OutputError
from einsearch_cli.files import write_error
from einsearch_cli.layers.feature_orders import layer_orders, set_recorded_orders_
from einsearch_cli.training.full.checkpoint import Checkpoint, RunState, read_newest, save_checkpoint
from einsearch_cli.training.full.lengthening import is_longer, refuse_other
from einsearch_cli.training.full.metrics import MetricsFile, StepMetrics
from einsearch_cli.training.full.network import Network
from einsearch_cli.training.full.phases import phases_of
from einsearch_cli.training.full.result import RunResult, read_result, refuse_other_data
from einsearch_cli.training.full.trackers import TrackedRun, Tracker, open_trackers
from einsearch_cli.training.full.train_spec import TrainSpec
from einsearch_cli.training.full.world import World
from einsearch_cli.training.schedule import lr_fraction, validation_marks
from einsearch_cli.training.update import Course

RANDOM_STATE: Final = "random:cpu"
"""Name of torch's random state among the optimizer's tensors."""


class Listener(Protocol):
    """Receives the progress of a run, in the first process only."""

    def on_step(self, metrics: StepMetrics, steps: int) -> None:
        """Called after every step, with the number of all steps."""

    def say(self, text: str) -> None:
        """Called with warnings and news in words."""


class Silent:
    """A listener that ignores everything."""

    def on_step(self, metrics: StepMetrics, steps: int) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""


def train_full(
    spec: TrainSpec, data: TokenData, run: Path, world: World, listener: Listener | None = None
) -> RunResult:
    """Train a transformer as its spec says, or continue where an earlier call was interrupted.

    On one CPU process, the final weights are the same to the last bit, however often the run was interrupted. A
    finished run is not trained again; with more steps than before and a constant schedule, it is continued.

    Args:
        spec: the run.
        data: its tokens.
        run: folder for checkpoints, metrics and the result; created if missing.
        world: the processes that share the work.
        listener: receives the progress of the run.

    Raises:
        KeyboardInterrupt: stopped by SIGINT or SIGTERM, after a checkpoint.
        DivergedError: a loss became NaN or infinite.
        CheckpointError: the folder holds another run, or one on other data, or only damaged checkpoints.
        OutputError: the folder cannot be written, or another process holds it.
        SpecError, SizeError, DataError: a spec, network or data that do not fit each other.
    """
    told = listener if listener is not None and world.is_first else Silent()
    with _locked(run) if world.is_first else nullcontext():
        finished = read_result(run)
        if finished is not None and not is_longer(finished.spec, spec):
            refuse_other(run, finished.spec, spec)
            refuse_other_data(run, finished.data_digest, data.digest)
            return finished
        with torch.random.fork_rng(devices=[]), _Run(spec, data, run, world, told) as running:
            return running.finish()


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Lock the folder for this process."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run / ".lock").acquire(timeout=0)
    except Timeout:
        raise OutputError(
            f"the run folder {run} is in use: one process works on a run at a time",
            remedy="wait for it, or give another --out",
        ) from None
    except OSError as error:
        raise write_error(str(run), error, otherwise="give another --out") from error
    with lock:
        yield


class _StopRequest:
    """The first Ctrl-C or SIGTERM sets `wanted`, so the run stops after a step; the second one interrupts it at once."""

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            signal.default_int_handler(number, frame)
        self.wanted = True


class _Run:
    """A run in progress."""

    def __init__(self, spec: TrainSpec, data: TokenData, run: Path, world: World, listener: Listener) -> None:
        self.spec, self.data, self.folder, self.world, self.listener = spec, data, run, world, listener
        self.config = spec.config(data.vocabulary)
        self.phases = phases_of(spec, self.config)
        context = self.config.context
        self.sampler = data.sampler(
            block=context, batch=spec.batch, seed=spec.seed, rank=world.rank, world_size=world.size
        )
        rows = max(1, spec.batch // spec.accumulation // world.size)
        self.held_out = held_out_batches(data.held_out, block=context, batch=rows, blocks=spec.validation.blocks)
        self.marks = validation_marks(self.phases.steps, spec.validation.points)
        rate = spec.optimizer.learning_rate
        self.course = Course(
            steps=self.phases.steps,
            run=f"of {spec.name} (learning rate {rate:g})",
            learning_rate=rate,
            rate_name="optimizer.learning_rate",
            warmup_name="schedule.warmup",
        )
        self.done = self.flops = 0
        self.earlier_s = 0.0
        self.started_s = time.perf_counter()
        self.metrics: MetricsFile | None = None
        self.trackers: list[Tracker] = []

    def __enter__(self) -> _Run:
        torch.manual_seed(self.spec.seed)
        checkpoint = read_newest(self.folder, self.listener.say)
        if checkpoint is not None:
            refuse_other(self.folder, checkpoint.state.spec, self.spec)
            refuse_other_data(self.folder, checkpoint.state.data_digest, self.data.digest)
            self.done, self.flops = checkpoint.state.step, checkpoint.state.flops
            self.earlier_s = checkpoint.state.elapsed_s
        guided = self.phases.guide(self.done) is not None
        self.network = Network(self.spec, self.config, self.world, guided=guided)
        if checkpoint is not None:
            self._load(checkpoint)
        if self.world.is_first:
            tracked = TrackedRun(
                folder=self.folder,
                title=self.spec.name,
                settings=self.spec.model_dump(mode="json"),
                step=self.done,
            )
            self.trackers = open_trackers(self.spec.metrics.trackers, tracked)
            self.metrics = MetricsFile(self.folder, self.done)
        return self

    def __exit__(self, *_: object) -> None:
        for tracker in self.trackers:
            tracker.close()
        if self.metrics is not None:
            self.metrics.close()

    def _load(self, checkpoint: Checkpoint) -> None:
        optimizer = dict(checkpoint.optimizer)
        torch.set_rng_state(optimizer.pop(RANDOM_STATE))
        set_recorded_orders_(self.network.model, checkpoint.state.orders)
        self.network.load(checkpoint.model, optimizer)
        self.listener.say(f"going on from {checkpoint.path}: step {self.done:,} of {self.phases.steps:,}")

    def finish(self) -> RunResult:
        """Train all remaining steps."""
        loss = math.nan
        with _StopRequest() as stop:
            while self.done < self.phases.steps:
                loss, stopped = self._step(stop)
                if stopped or self.done == self.phases.steps or self.done % self.spec.checkpoint.every == 0:
                    self._save()
                if stopped and self.done < self.phases.steps:
                    raise KeyboardInterrupt
        if math.isnan(loss):  # killed after the last checkpoint, before the result was written
            loss = self._validate()
        return self._result(loss)

    def _step(self, stop: _StopRequest) -> tuple[float, bool]:
        """One update; returns the held-out loss, if it was measured, and whether a process was asked to stop.

        A single process notices a request at once; several processes agree on it when they exchange losses.
        """
        step = self.done
        fraction = self._fraction(step)
        guide = self.phases.guide(step)
        batch = self.sampler.batch_at(self.phases.data_step(step))
        started_s = time.perf_counter()
        own_loss, norm = self.network.step(batch, guide, fraction)
        loss_sum, stops = self.world.sums(own_loss, float(stop.wanted))
        elapsed_s = time.perf_counter() - started_s
        self.done += 1
        self.flops += self.phases.flops_of(step)
        loss = self.course.finite(loss_sum / self.world.size, "training", self.done)
        if self.network.guide is not None and self.phases.guide(self.done) is None:
            self.network = self.network.without_guide()
            self.listener.say(f"step {self.done:,}: the guides are over and gone")
        held_out = smallest_load = None
        if self.done in self.marks:
            held_out = self._validate()
            routing = self.network.auxiliary.statistics()
            smallest_load = min((layer.smallest_load for layer in routing), default=None)
        metrics = StepMetrics(
            step=self.done,
            tokens=self.done * self.phases.tokens_per_step,
            flops=self.flops,
            total_flops=self.flops + self.done * self.phases.head_flops,
            loss=loss,
            learning_rate=self.spec.optimizer.learning_rate * fraction,
            gradient_norm=norm,
            tokens_per_s=self.phases.tokens_per_step / elapsed_s,
            guide_weight=0.0 if guide is None else guide.weight,
            validation_loss=held_out,
            smallest_load=smallest_load,
        )
        self._note(metrics)
        stopped = stop.wanted if self.world.size == 1 else stops > 0
        return math.nan if held_out is None else held_out, stopped

    def _fraction(self, step: int) -> float:
        settings = self.spec.schedule
        return lr_fraction(step, self.phases.steps, warmup=settings.warmup, final=settings.final, shape=settings.shape)

    def _note(self, metrics: StepMetrics) -> None:
        self.listener.on_step(metrics, self.phases.steps)
        is_logged = metrics.step % self.spec.metrics.every == 0 or metrics.validation_loss is not None
        if self.metrics is None or not is_logged:
            return
        self.metrics.write(metrics)
        values = {key: float(value) for key, value in metrics.to_json().items() if key != "step"}
        for tracker in self.trackers:
            tracker.log(metrics.step, values)

    def _validate(self) -> float:
        """The mean held-out loss, with the guides' weight of the last step; `auxiliary` then holds the experts' loads."""
        network, world = self.network, self.world
        if network.guide is not None:
            guide = self.phases.guide(self.done)
            network.guide.set_weight(0.0 if guide is None else guide.weight, evaluate=True)
        network.model.eval()
        own = count = 0.0
        # Sharded models need all processes in every pass, so processes without a batch of their own repeat one.
        with network.auxiliary:
            for first in range(0, len(self.held_out), world.size):
                index = first + world.rank
                loss = network.loss(self.held_out[min(index, len(self.held_out) - 1)])
                if index < len(self.held_out):
                    own, count = own + loss, count + 1
        network.model.train()
        total, batches = world.sums(own, count)
        return self.course.finite(total / batches, "held-out", self.done)

    def _save(self) -> None:
        if self.world.size > 1 and self.spec.parallel == "ddp" and not self.world.is_first:
            return
        model, optimizer = self.network.model_tensors(), self.network.optimizer_tensors()
        if self.metrics is None:
            return
        self.metrics.sync()
        save_checkpoint(self.folder, self._state(), model, {**optimizer, RANDOM_STATE: torch.get_rng_state()})

    def _state(self) -> RunState:
        guide = self.phases.guide(self.done)
        tokenizer = self.data.tokenizer
        return RunState(
            step=self.done,
            flops=self.flops,
            elapsed_s=self._elapsed_s(),
            guided=guide is not None,
            guide_weight=0.0 if guide is None else guide.weight,
            spec=self.spec.same_run(),
            config=self.config.model_dump(mode="json"),
            tokenizer=None if tokenizer is None else tokenizer.to_json(),
            data_digest=self.data.digest,
            orders=layer_orders(self.network.model),
        )

    def _elapsed_s(self) -> float:
        return self.earlier_s + time.perf_counter() - self.started_s

    def _result(self, loss: float) -> RunResult:
        result = RunResult(
            name=self.spec.name,
            structure=self.config.structure,
            loss=loss,
            params=self.phases.params,
            steps=self.phases.steps,
            guided_steps=self.phases.guided_steps,
            repeated_steps=self.phases.repeated_steps,
            tokens=self.done * self.phases.tokens_per_step,
            flops=self.flops,
            total_flops=self.flops + self.done * self.phases.head_flops,
            elapsed_s=self._elapsed_s(),
            spec=self.spec.same_run(),
            data_digest=self.data.digest,
        )
        if self.world.is_first:
            result.save(self.folder)
        return result
