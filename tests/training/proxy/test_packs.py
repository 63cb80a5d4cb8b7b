"""Runs that train at once: each as it would alone, to the last bit."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from einsearch_cli.data import Batch
from einsearch_cli.errors import DivergedError
from einsearch_cli.layers.torch_private import is_batched
from einsearch_cli.machine import return_memory
from einsearch_cli.models import StructuredNetwork
from einsearch_cli.structures import parse_layer
from einsearch_cli.tasks import AnyTask, open_task
from einsearch_cli.tasks.teacher import TeacherTask
from einsearch_cli.training import OptimizerSettings, ProxyRun, RunOutcome, StepDone, train
from einsearch_cli.training.proxy import program, run as run_module
from einsearch_cli.training.proxy.keeping import RunProgress
from einsearch_cli.training.proxy.packing import packs_of, trains_as_program
from einsearch_cli.training.proxy.recording import NotAProgramError
from einsearch_cli.training.proxy.run import train_pack
from einsearch_cli.training.proxy.run_state import read_run_state, save_run_state
from einsearch_cli.training.proxy.trainer import PackTrainer, SingleTrainer, Trainer
from tests.training.proxy.tasks import run_of, small_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

STRUCTURES = ("dense", "monarch", "btt:r=2", "low-rank", "kronecker", "tt:r=d^1/4")
SMALL_TEXT = {"context": 32, "batch": 4, "layers": 1, "validation_blocks": 4}
PLACES = ((0, 0.02), (1, 0.04), (0, 0.01))
"""Seeds and learning rates of a pack."""


def several(task: AnyTask, structure: str, steps: int = 25, width: int = 32, **optimizer: object) -> list[ProxyRun]:
    layer = parse_layer(structure)
    budget = steps * task.count(layer, width).training.body * task.tokens_per_batch
    return [
        ProxyRun(
            task=task,
            structure=layer,
            width=width,
            budget_flops=float(budget),
            seed=seed,
            optimizer=OptimizerSettings(learning_rate=rate, validations=3, **optimizer),  # type: ignore[arg-type]
        )
        for seed, rate in PLACES
    ]


def trained(runs: Sequence[ProxyRun]) -> list[RunOutcome | DivergedError]:
    ends: dict[int, RunOutcome | DivergedError] = {}

    def note(number: int, end: RunOutcome | DivergedError) -> None:
        assert number not in ends
        ends[number] = end

    train_pack(runs, None, note)
    return [ends[number] for number in range(len(runs))]


def same(one: RunOutcome | DivergedError, other: RunOutcome | DivergedError) -> bool:
    """Whether outcomes are equal except for the time."""
    if isinstance(one, DivergedError) or isinstance(other, DivergedError):
        return str(one) == str(other)
    return replace(one, elapsed_s=0.0) == replace(other, elapsed_s=0.0)


@pytest.mark.parametrize("width", [32, 46, 81, 90])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_run_does_not_depend_on_its_pack(tmp_path: Path, structure: str, width: int) -> None:
    """This includes matrices that end within a cache line, so that those of the next run would begin there."""
    runs = several(small_teacher(tmp_path), structure, width=width, weight_decay=0.1)
    together = trained(runs)
    assert all(same(end, train(run)) for end, run in zip(together, runs, strict=True))
    assert len({end.loss for end in together if isinstance(end, RunOutcome)}) == 3


@pytest.mark.parametrize("structure", ["dense", "btt:r=2"])
def test_a_run_on_text_does_not_depend_on_its_pack(structure: str) -> None:
    runs = several(open_task("text", SMALL_TEXT), structure)
    together = trained(runs)
    assert same(together[1], train(runs[1]))
    assert same(together[2], train(runs[2]))


@pytest.mark.parametrize("task", ["teacher", "text"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_program_steps_as_the_layers_themselves(tmp_path: Path, task: str, structure: str) -> None:
    """The reference is autograd through the network's own passes, one run after another."""
    runs = several(small_teacher(tmp_path) if task == "teacher" else open_task("text", SMALL_TEXT), structure)
    together, alone = PackTrainer(runs), [SingleTrainer(run) for run in runs]
    for _ in range(4):
        losses = [trainer.step()[0] for trainer in alone]
        assert together.step() == pytest.approx(losses, rel=2e-5)
    for number, trainer in enumerate(alone):
        assert together.validate(number) == pytest.approx(trainer.validate(0), rel=2e-5)


def test_a_program_is_written_down_again_for_another_order_of_the_parameters(tmp_path: Path) -> None:
    """Weight decay makes more groups of parameters, which are stored in other places."""
    for decay in (0.0, 0.1):
        runs = several(small_teacher(tmp_path), "low-rank", weight_decay=decay)
        together, alone = PackTrainer(runs), SingleTrainer(runs[0])
        for _ in range(3):
            assert together.step()[0] == pytest.approx(alone.step()[0], rel=2e-5)


class Spoiled(TeacherTask):
    """The teacher task with one NaN in the data of seed 1."""

    def batches(self, seed: int) -> Iterator[Batch]:
        for step, batch in enumerate(super().batches(seed), start=1):
            yield Batch(batch.inputs, batch.targets * (math.nan if (seed, step) == (1, 7) else 1))


def test_a_run_that_diverges_leaves_the_others_alone(tmp_path: Path) -> None:
    sound = small_teacher(tmp_path)
    runs = several(Spoiled(sound.settings, tmp_path), "monarch")
    together = trained(runs)
    assert isinstance(together[1], DivergedError)
    assert "training loss became nan at step 7 of 25" in str(together[1])
    assert "seed 1, base learning rate 0.04" in str(together[1])
    with pytest.raises(DivergedError) as alone:
        train(runs[1])
    assert same(together[1], alone.value)
    expected = several(sound, "monarch")
    assert [same(together[n], train(expected[n])) for n in (0, 2)] == [True, True]


def test_losses_that_are_read_late_are_those_of_their_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, the process reads losses some steps late."""

    def ends_and_steps() -> tuple[list[RunOutcome | DivergedError], list[tuple[int, int, float]]]:
        steps: list[tuple[int, int, float]] = []
        runs = several(Spoiled(small_teacher(tmp_path).settings, tmp_path), "monarch")
        ends: dict[int, RunOutcome | DivergedError] = {}
        train_pack(runs, lambda number, done: steps.append((number, done.step, done.loss)), ends.__setitem__)
        return [ends[number] for number in range(3)], steps

    ends, steps = ends_and_steps()
    calls: list[int] = []
    read = run_module._Progress._read
    monkeypatch.setattr(
        run_module._Progress, "_read", lambda progress: (calls.append(progress.trainer.done), read(progress))
    )
    monkeypatch.setattr(Trainer, "most_unread", 6)
    late_ends, late_steps = ends_and_steps()
    assert calls == [6, 8, 14, 17, 23, 25], "after six steps, and before every validation"
    assert all(map(same, ends, late_ends))
    assert late_steps == steps
    assert "at step 7 of 25" in str(late_ends[1])


def test_packs_are_as_large_as_the_memory_of_a_gpu_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run needs 3 GB, and 80% of 10 GB may be used, so 5 runs train in three parts."""

    class OneStep:
        def __init__(self, runs: Sequence[ProxyRun]) -> None:
            assert len(runs) == 1

        def step(self) -> None: ...

    monkeypatch.setattr(run_module, "PackTrainer", OneStep)
    for name, value in (
        ("memory_allocated", 1 << 30),
        ("max_memory_allocated", 4 << 30),
        ("mem_get_info", (10 << 30, 0)),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    run = run_of(open_task("teacher"), width=32)
    runs = [replace(run, seed=seed, device="cuda") for seed in range(5)]
    assert run_module._parts_that_fit(runs, [0, 1, 2, 3, 4]) == [[0, 1, 2, 3, 4]], "so small that nothing is tried"
    monkeypatch.setattr(run_module, "_ROUGH_BYTES", 1e9)
    assert run_module._parts_that_fit(runs, [0, 1, 2, 3, 4]) == [[0, 3], [1, 4], [2]]
    assert run_module._parts_that_fit([run] * 5, [0, 1, 2, 3, 4]) == [[0, 1, 2, 3, 4]], "a CPU takes all"


def test_a_validation_loss_that_is_not_finite_ends_its_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = PackTrainer.validate
    monkeypatch.setattr(
        PackTrainer, "validate", lambda trainer, number: math.inf if number == 2 else validate(trainer, number)
    )
    ends = trained(several(small_teacher(tmp_path), "low-rank"))
    assert "validation loss became inf at step 8 of 25" in str(ends[2])
    assert isinstance(ends[0], RunOutcome)
    assert isinstance(ends[1], RunOutcome)


def test_progress_is_of_each_run(tmp_path: Path) -> None:
    runs = several(small_teacher(tmp_path), "dense", steps=12)
    told: list[tuple[int, StepDone]] = []
    train_pack(runs, lambda number, done: told.append((number, done)), lambda *_: None)
    for number, run in enumerate(runs):
        alone: list[StepDone] = []
        train(run, alone.append)
        mine = [(done.step, done.steps, done.loss) for place, done in told if place == number]
        assert mine == [(done.step, done.steps, done.loss) for done in alone]
        assert len(mine) == 12


def test_the_time_of_a_run_is_its_share_of_the_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock says 10 at the start and 40 at the end."""
    clock = iter([10.0, *[40.0] * 100])
    monkeypatch.setattr(run_module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    ends = trained(several(small_teacher(tmp_path), "dense", steps=10))
    assert [end.elapsed_s for end in ends if isinstance(end, RunOutcome)] == [10.0, 10.0, 10.0]


@pytest.mark.parametrize("structure", ["btt:r=2", "btt-moe:experts=4,top=2"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_trainer_goes_on_from_a_state(tmp_path: Path, structure: str, optimizer: str) -> None:
    run = run_of(small_teacher(tmp_path), structure, width=32, budget_flops=3e8, name=optimizer)
    is_program = trains_as_program(run)
    assert is_program == ((structure, optimizer) == ("btt:r=2", "adamw"))

    def trainer() -> Trainer:
        return PackTrainer([run, replace(run, seed=1)]) if is_program else SingleTrainer(run)

    whole, first, second = trainer(), trainer(), trainer()
    losses = [whole.step() for _ in range(8)]
    assert [first.step() for _ in range(5)] == losses[:5]
    save_run_state(tmp_path / "run", "me", 5, first.run_state(len(first.runs) - 1))
    state = read_run_state(tmp_path / "run", "me", pytest.fail)
    assert state is not None
    if is_program:  # with another run, or alone: states belong to runs, not to packs
        alone = PackTrainer([replace(run, seed=1)])
        alone.load_run_states([state])
        assert [alone.step()[0] for _ in range(3)] == [losses[n][1] for n in range(5, 8)]
    second.load_run_states([first.run_state(0), state] if is_program else [state])
    assert second.done == 5
    assert second.executed_flops == first.executed_flops > 0
    assert second.validate(0) == first.validate(0)
    assert [second.step() for _ in range(3)] == losses[5:]
    if is_program:
        second.stop(0)
        last, other = (second.run_state(number)["update"]["values"].clone() for number in range(2))
        second.step()
        assert torch.equal(second.run_state(0)["update"]["values"], last), "the stopped run takes no more steps"
        assert not torch.equal(second.run_state(1)["update"]["values"], other)


def test_which_runs_train_as_a_program(tmp_path: Path) -> None:
    """With 128 samples per step, they do up to width 1024, but not with experts or another optimizer."""
    task = small_teacher(tmp_path)
    assert trains_as_program(run_of(task, "monarch", width=1024))
    assert not trains_as_program(run_of(task, "monarch", width=1025))
    assert not trains_as_program(run_of(task, "dense-moe:experts=4,top=2", width=32))
    assert not trains_as_program(run_of(task, "monarch", width=32, name="muon"))
    assert trains_as_program(replace(run_of(task, "monarch", width=1025), device="cuda"))
    assert packs_of([replace(run_of(task, width=1026, seed=seed), device="cuda") for seed in range(3)]) == [[0, 1, 2]]
    narrow, wide = ([run_of(task, width=width, seed=seed) for seed in range(3)] for width in (32, 1028))
    assert packs_of(narrow) == [[0, 1, 2]]
    assert packs_of(wide) == [[0], [1], [2]]


class Looking(TeacherTask):
    """A loss that branches on a value, which no fixed program can."""

    def loss(self, model: StructuredNetwork, batch: Batch) -> Tensor:
        found = super().loss(model, batch)
        return found * 1 if found > 0 else found


def test_a_loss_that_looks_at_values_trains_one_by_one(tmp_path: Path) -> None:
    plain = small_teacher(tmp_path)
    runs = several(Looking(plain.settings, tmp_path), "monarch", steps=10)
    with pytest.raises(NotAProgramError, match="data-dependent control flow"):
        PackTrainer(runs)
    ends = trained(runs)
    for end, run in zip(ends, runs, strict=True):
        expected = SingleTrainer(replace(run, task=plain))
        for _ in range(10):
            expected.step()
        assert isinstance(end, RunOutcome)
        assert end.loss == expected.validate(0)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"),
    ],
    ids=["device", "python", "allocator"],
)
def test_a_pack_that_memory_does_not_suffice_for_is_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Memory suffices for two runs. Of three, one and two start again; a run that has diverged before does not."""
    advance, sizes = PackTrainer.advance, list[int]()

    def scarce(trainer: PackTrainer) -> Tensor:
        if trainer.done == 8:
            sizes.append(len(trainer.runs))
            if len(trainer.runs) > 2:
                raise error
        return advance(trainer)

    monkeypatch.setattr(PackTrainer, "advance", scarce)
    sound = small_teacher(tmp_path)
    for task, expected in ((sound, [3, 1, 2]), (Spoiled(sound.settings, tmp_path), [3, 1, 1])):
        sizes.clear()
        ends = trained(several(task, "monarch", steps=12))
        assert sizes == expected
        alone = [trained([run])[0] for run in several(task, "monarch", steps=12)]
        assert [same(*pair) for pair in zip(ends, alone, strict=True)] == [True] * 3


def test_a_pack_that_memory_does_not_suffice_for_while_it_is_written_down_is_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tensors of a step are alive during recording. A single run fails, and is not trained in another way."""
    loss, sizes = TeacherTask.loss, list[int]()

    class Scarce(TeacherTask):
        def loss(self, model: StructuredNetwork, batch: Batch) -> Tensor:
            if is_batched(batch.inputs) and sizes[-1] > most:
                raise torch.OutOfMemoryError("no room")
            return loss(self, model, batch)

    init = PackTrainer.__init__

    def noted(trainer: PackTrainer, runs: Sequence[ProxyRun]) -> None:
        sizes.append(len(runs))
        init(trainer, runs)

    monkeypatch.setattr(PackTrainer, "__init__", noted)
    sound = small_teacher(tmp_path)
    runs = several(Scarce(sound.settings, tmp_path), "btt:r=3", steps=10, width=36)
    most = 2
    ends = trained(runs)
    assert sizes == [3, 1, 2]
    monkeypatch.undo()
    alone = [trained([run])[0] for run in several(sound, "btt:r=3", steps=10, width=36)]
    assert [same(*pair) for pair in zip(ends, alone, strict=True)] == [True] * 3
    monkeypatch.setattr(PackTrainer, "__init__", noted)
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        trained(several(Scarce(sound.settings, tmp_path), "btt:r=3", steps=10, width=40)[:1])


def test_a_run_begins_again_where_its_state_is_of_the_other_kind_of_trainer(tmp_path: Path) -> None:
    """A run may continue from a GPU on a CPU, which trains wide networks by their own passes."""
    run = several(small_teacher(tmp_path), "monarch", steps=12)[0]
    single, pack = SingleTrainer(run), PackTrainer([run])
    for _ in range(5):
        single.step()
        pack.step()
    assert not pack.takes(single.run_state(0))
    assert not single.takes(pack.run_state(0))

    class Kept:
        is_due = False

        def read(self, _: int) -> RunProgress:
            return {"trainer": single.run_state(0), "curve": [], "elapsed_s": 0.0}

    steps: list[int] = []
    ends: list[RunOutcome | DivergedError] = []
    train_pack([run], lambda _, done: steps.append(done.step), lambda _, end: ends.append(end), Kept())  # type: ignore[arg-type]
    assert steps == list(range(1, 13))
    assert same(ends[0], train(run))


def test_a_single_run_that_memory_does_not_suffice_for_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(_: PackTrainer) -> Tensor:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(PackTrainer, "advance", scarce)
    with pytest.raises(torch.OutOfMemoryError):
        trained(several(small_teacher(tmp_path), "dense")[:1])


def test_an_error_that_is_not_of_memory_halves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def broken(trainer: PackTrainer) -> Tensor:
        tried.append(len(trainer.runs))
        raise RuntimeError("broken")

    monkeypatch.setattr(PackTrainer, "advance", broken)
    with pytest.raises(RuntimeError, match="broken"):
        trained(several(small_teacher(tmp_path), "dense"))
    assert tried == [3]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_programs_that_are_not_kept_leave_no_memory_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.jit.trace` would keep 4 MB for each of them until the process ends."""
    task = small_teacher(tmp_path)
    monkeypatch.setattr(program, "_KEPT", 1)

    def resident_mb() -> float:
        gc.collect()
        return_memory()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def write_down(times: int) -> float:
        for _ in range(times):
            for structure in ("monarch", "kronecker"):
                PackTrainer([run_of(task, structure, width=32, seed=seed) for seed in range(2)]).step()
        return resident_mb()

    before = write_down(3)
    assert write_down(8) - before < 16
