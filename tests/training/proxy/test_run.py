import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from einsearch_cli.data import Batch
from einsearch_cli.errors import DivergedError, Exit, SpecError
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.models import StructuredNetwork
from einsearch_cli.structures import LayerSpec, RoutingStatistics, parse_layer, parse_structure
from einsearch_cli.tasks import open_task
from einsearch_cli.tasks.teacher import TeacherTask
from einsearch_cli.tasks.text import TextSettings, TextTask
from einsearch_cli.training import (
    ProxyRun,
    RunOutcome,
    RunSpeed,
    StepDone,
    minimal_budget,
    probe,
    run_cost,
    train,
)
from einsearch_cli.training.proxy import run as run_module
from einsearch_cli.training.proxy.trainer import SingleTrainer
from tests.training.proxy.tasks import run_of, small_teacher

pytestmark = pytest.mark.usefixtures("one_thread")


def without_clock(outcome: RunOutcome) -> dict[str, object]:
    return {name: value for name, value in vars(outcome).items() if name != "elapsed_s"}


def test_the_teacher_task_is_learned(tmp_path: Path) -> None:
    """On the real teacher, with a pool of 16,384, 3e9 FLOPs reduce the loss from 1 to below 0.3; linear leaves 0.6."""
    settings = {"pool_size": 16_384, "validation_size": 2048}
    task = open_task("teacher", settings, tmp_path)
    for structure in ("dense", "monarch"):
        outcome = train(run_of(task, structure, budget_flops=3e9))
        assert outcome.loss < 0.3, structure
        assert outcome.curve[0][1] > 1.3 * outcome.loss


def test_the_text_task_is_learned() -> None:
    """On the standard library, the loss falls from log(128) = 4.85 nats to below 3.0 in 60 steps of 512 characters."""
    task = TextTask(TextSettings(context=64, batch=8, layers=1, learning_rate=0.02, validation_blocks=16))
    run = ProxyRun(task=task, structure=parse_structure("monarch"), width=64, budget_flops=0.0)
    per_step = 3 * 512 * plan_flops(task)
    outcome = train(ProxyRun(**(vars(run) | {"budget_flops": 60 * per_step})))
    assert outcome.steps == 60
    assert outcome.loss < 3.0
    assert outcome.curve[0][1] < math.log(128)


def plan_flops(task: TextTask) -> int:
    return task.build_model(parse_structure("monarch"), 64).flops_per_token().body


@pytest.mark.parametrize("structure", ["dense", "btt:r=2", "kronecker"])
def test_the_same_run_twice_is_the_same_to_the_last_bit(tmp_path: Path, structure: str) -> None:
    first = train(run_of(small_teacher(tmp_path), structure, budget_flops=1e8, seed=3))
    torch.rand(17)  # the caller's random state has no influence
    second = train(run_of(small_teacher(tmp_path), structure, budget_flops=1e8, seed=3))
    assert without_clock(first) == without_clock(second)
    other = train(run_of(small_teacher(tmp_path), structure, budget_flops=1e8, seed=4))
    assert other.loss != first.loss


def test_the_callers_random_state_is_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(run_of(small_teacher(tmp_path), budget_flops=5e7))
    assert torch.equal(torch.get_rng_state(), before)


def test_flops_and_steps_add_up(tmp_path: Path) -> None:
    """Width 64, depth 3, batch 128, by hand: 128 x 2 x (2 x 8 x 64 + 3 x 64 x 64 [+ 3 x 64]); samples take no gradient."""
    outcome = train(run_of(small_teacher(tmp_path), budget_flops=1e8, validations=4))
    per_step = 128 * 2 * (2 * 8 * 64 + 3 * 64 * 64)
    assert outcome.steps == int(1e8 // per_step) == 29
    assert outcome.train_flops == 29 * per_step <= 1e8 < 30 * per_step
    assert outcome.total_flops == 29 * (per_step + 3 * 128 * 2 * 64)
    assert [flops for flops, _ in outcome.curve] == [step * per_step for step in (7, 14, 22, 29)]
    assert outcome.loss == outcome.curve[-1][1]
    # weights, biases, two gains; the dense input layer is a plain one
    assert outcome.params == 8 * 64 + 64 + 64 * 64 + 64 + 1 + 64 + 1


def test_the_plan_agrees_with_the_run(tmp_path: Path) -> None:
    run = run_of(small_teacher(tmp_path), "btt:r=2", budget_flops=1e8)
    plan, outcome = run_cost(run), train(run)
    assert (plan.steps, plan.params) == (outcome.steps, outcome.params)
    assert plan.steps * plan.train_flops_per_step == outcome.train_flops
    assert plan.steps * plan.total_flops_per_step == outcome.total_flops


@pytest.mark.parametrize("structure", ["dense", "low-rank"])
def test_executed_flops_of_the_factors_own_sequence_are_those_counted(tmp_path: Path, structure: str) -> None:
    outcome = train(run_of(small_teacher(tmp_path), structure, budget_flops=1e8))
    assert outcome.executed_flops == outcome.total_flops


def test_executed_flops_of_a_single_trainer_are_those_of_its_first_step(tmp_path: Path) -> None:
    trainer = SingleTrainer(run_of(small_teacher(tmp_path), "monarch", budget_flops=1e8))
    for layer in trainer.model.structured_layers().values():
        layer.route = "(xA)B"
    for _ in range(2):
        trainer.step()
        assert trainer.executed_flops == trainer.cost.total_flops_per_step


class Merging(TeacherTask):
    """The teacher task with layers that multiply their factors with each other in every step."""

    def build_model(self, structure: LayerSpec, width: int) -> StructuredNetwork:
        model = super().build_model(structure, width)
        for layer in model.modules():
            if isinstance(layer, EinsumLinear):
                layer.route = "x(AB)"
        return model


def test_executed_flops_are_those_of_the_route_that_was_taken(tmp_path: Path) -> None:
    """Width 64, batch 128, one hidden layer: a dense product, and the merge of two factors with a bond of 4, three times each."""
    task = Merging(small_teacher(tmp_path).settings, tmp_path)
    outcome = train(run_of(task, "btt:r=4", budget_flops=1e8))
    first, head, merge = 2 * 2 * 8 * 64 * 128, 3 * 2 * 64 * 128, 2 * 8 * 8 * 8 * 8 * 4
    assert outcome.executed_flops == outcome.steps * (first + head + 3 * (2 * 64 * 64 * 128 + merge))
    assert outcome.executed_flops != outcome.total_flops


def test_executed_flops_of_a_transformer_include_attention() -> None:
    task = open_task("text", {"context": 32, "batch": 4, "layers": 1, "validation_blocks": 4})
    outcome = train(ProxyRun(task=task, structure=parse_structure("dense"), width=32, budget_flops=2e8))
    assert outcome.executed_flops == outcome.total_flops


def test_counting_the_first_step_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched, unwatched = (SingleTrainer(run_of(small_teacher(tmp_path), "tt:r=4", budget_flops=1e8)) for _ in range(2))
    losses = [watched.step() for _ in range(3)]
    monkeypatch.setattr(FlopCounterMode, "__enter__", lambda counter: counter)
    monkeypatch.setattr(FlopCounterMode, "__exit__", lambda *_: None)
    monkeypatch.setattr(FlopCounterMode, "get_flop_counts", lambda _: {"Global": {}})
    assert [unwatched.step() for _ in range(3)] == losses
    assert unwatched.executed_flops == 0 < watched.executed_flops


def test_a_plan_allocates_no_network(tmp_path: Path) -> None:
    """A matrix of 400 GB is planned, but not allocated."""
    plan = run_cost(run_of(small_teacher(tmp_path), width=320_000, budget_flops=1e30))
    assert plan.params > 1e11


def test_progress_is_reported_after_every_step(tmp_path: Path) -> None:
    told: list[StepDone] = []
    outcome = train(run_of(small_teacher(tmp_path), budget_flops=1e8), told.append)
    assert [done.step for done in told] == list(range(1, outcome.steps + 1))
    assert {done.steps for done in told} == {outcome.steps}
    assert told[-1].loss < 0.8 * told[0].loss
    assert told[0].routing() == (), "a network without experts has no routers"


def test_progress_has_the_routers_statistics_of_the_step() -> None:
    """Routers start at zero: all tokens of the first step go to the same two experts."""
    task = open_task("text", {"context": 32, "batch": 4, "layers": 1, "validation_blocks": 4})
    run = ProxyRun(task=task, structure=parse_layer("btt-moe:experts=4,top=2"), width=32, budget_flops=3e8)
    told: list[tuple[RoutingStatistics, ...]] = []
    outcome = train(run, lambda done: told.append(done.routing()))
    names = [*(f"attention.{name}" for name in ("query", "key", "value", "output")), "ffn.up", "ffn.down"]
    assert [layer.layer for layer in told[0]] == [f"blocks.0.{name}" for name in names]
    assert all(sorted(layer.load) == [0.0, 0.0, 0.5, 0.5] for layer in told[0])
    assert told[-1] != told[0]
    assert told[-1] != outcome.routing, "the latter is of held-out data"


def test_a_budget_too_small_names_the_least(tmp_path: Path) -> None:
    task = small_teacher(tmp_path)
    least = 10 * 128 * 2 * (2 * 8 * 64 + 3 * 64 * 64)
    with pytest.raises(SpecError) as caught:
        train(run_of(task, budget_flops=least - 1))
    assert str(caught.value) == (
        "a budget of 3.41e+07 training FLOPs for structure dense at width 64: a step costs 3.41e+06, "
        "and a run has at least 10 steps\ntry: give at least 34078720 FLOPs, or a smaller width"
    )
    assert train(run_of(task, budget_flops=least)).steps == 10


@pytest.mark.parametrize("budget", [float("nan"), float("inf"), -1.0])
def test_a_budget_must_be_a_number_of_flops(tmp_path: Path, budget: float) -> None:
    with pytest.raises(SpecError, match=r"a budget of (nan|inf|-1) training FLOPs"):
        run_cost(run_of(small_teacher(tmp_path), budget_flops=budget))


class Spoiled(TeacherTask):
    """The teacher task with one NaN in its data."""

    spoil_at = 7

    def batches(self, seed: int) -> Iterator[Batch]:
        for step, batch in enumerate(super().batches(seed), start=1):
            yield Batch(batch.inputs, batch.targets * (math.nan if step == self.spoil_at else 1))


def test_a_loss_that_is_not_finite_names_step_rate_and_remedy(tmp_path: Path) -> None:
    task = Spoiled(small_teacher(tmp_path).settings, tmp_path)
    with pytest.raises(DivergedError) as caught:
        train(run_of(task, "monarch", budget_flops=1e8, seed=5))
    assert caught.value.exit_code == Exit.RUN_FAILED
    assert str(caught.value) == (
        "training loss became nan at step 7 of 95 (structure XA^1/2 XAB^1/2 YB^1/2 YAB^1/2, width 64, seed 5, "
        "base learning rate 0.02)\ntry: lower the learning rate, e.g. to 0.0067, or lengthen the warm-up"
    )


def test_a_validation_loss_that_is_not_finite_is_found(tmp_path: Path) -> None:
    class BadHeldOut(TeacherTask):
        def loss(self, model: StructuredNetwork, batch: Batch) -> torch.Tensor:
            return super().loss(model, batch) * (1 if model.training else math.inf)

    task = BadHeldOut(small_teacher(tmp_path).settings, tmp_path)
    with pytest.raises(DivergedError, match=r"validation loss became inf at step 3 of 29"):
        train(run_of(task, budget_flops=1e8))


def test_the_learning_rate_of_the_run_goes_before_the_tasks(tmp_path: Path) -> None:
    task = small_teacher(tmp_path)
    usual, faster = (train(run_of(task, budget_flops=1e8, learning_rate=rate)) for rate in (None, 0.04))
    assert (usual.learning_rate, faster.learning_rate) == (0.02, 0.04)
    assert usual.loss != faster.loss


def test_large_gradients_are_clipped(tmp_path: Path) -> None:
    task = small_teacher(tmp_path)
    outcomes = {clip: train(run_of(task, budget_flops=1e8, clip_norm=clip)).loss for clip in (1e-12, 1.0, 1e9)}
    assert outcomes[1e-12] > 0.9  # AdamW's epsilon swallows gradients this small
    assert outcomes[1.0] < 0.9


def test_the_estimated_time_is_of_the_order_of_the_real_one(tmp_path: Path) -> None:
    run = run_of(small_teacher(tmp_path), budget_flops=1e9)
    estimated_s = min(probe(run).seconds(1e9) for _ in range(3))
    elapsed_s = min(train(run).elapsed_s for _ in range(2))
    assert elapsed_s / 20 < estimated_s < 20 * elapsed_s, "other processes may take most of a core"


def test_the_estimate_is_what_is_fixed_and_a_step_for_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock ticks once per reading, so building the network, each step and each validation take a second."""
    ticks = count()
    monkeypatch.setattr(run_module, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    speed = probe(run_of(small_teacher(tmp_path), budget_flops=1e8, validations=4))
    assert speed == RunSpeed(run_cost(run_of(small_teacher(tmp_path), budget_flops=1e8)), step_s=1.0, fixed_s=5.0)
    per_step = speed.cost.train_flops_per_step
    assert [speed.seconds(steps * per_step) for steps in (10, 1000)] == [15.0, 1005.0]


def test_the_minimal_budget_is_the_least_that_is_accepted(tmp_path: Path) -> None:
    task = small_teacher(tmp_path)
    least = minimal_budget(run_of(task, budget_flops=1.0))
    assert run_cost(run_of(task, budget_flops=least)).steps == 10
    with pytest.raises(SpecError, match=f"give at least {least} FLOPs"):
        run_cost(run_of(task, budget_flops=least - 1))
