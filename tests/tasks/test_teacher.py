from pathlib import Path

import numpy as np
import pytest
import torch

from einsearch_cli.tasks import AnyTask, teacher
from einsearch_cli.tasks.teacher import TeacherSettings, TeacherTask
from tests.tasks.contract import TaskContract, take


def small(folder: Path, **settings: object) -> TeacherTask:
    given = {"teacher_width": 64, "pool_size": 1000, "validation_size": 200, "batch_size": 64} | settings
    return TeacherTask(TeacherSettings.model_validate(given), folder)


class TestTeacherContract(TaskContract):
    def make(self, cache_folder: Path) -> AnyTask:
        return small(cache_folder)


def test_targets_have_mean_zero_and_variance_one_over_the_pool(tmp_path: Path) -> None:
    task = small(tmp_path, batch_size=1000)
    (batch,) = take(task, 0, 1)
    assert batch.targets.mean().item() == pytest.approx(0, abs=1e-5)
    assert batch.targets.var(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert batch.inputs.std().item() == pytest.approx(1, abs=0.03)


def test_targets_are_a_function_of_the_inputs_far_from_linear(tmp_path: Path) -> None:
    """The real teacher: a linear fit leaves more than a third of the variance."""
    task = TeacherTask(TeacherSettings(pool_size=4096, validation_size=2048, batch_size=4096), tmp_path)
    (batch,), (held_out,) = take(task, 0, 1), task.validation()
    design = torch.cat([batch.inputs, torch.ones(4096, 1)], dim=1)
    fit = torch.linalg.lstsq(design, batch.targets).solution
    error = (torch.cat([held_out.inputs, torch.ones(2048, 1)], dim=1) @ fit - held_out.targets).square().mean()
    assert 0.35 < error.item() < 0.95


def test_every_sample_is_met_once_in_a_pass_and_none_is_held_out(tmp_path: Path) -> None:
    task = small(tmp_path, batch_size=100)
    seen = torch.cat([batch.inputs for batch in take(task, 0, 10)])
    assert len(torch.unique(seen, dim=0)) == 1000
    (held_out,) = task.validation()
    assert len(torch.unique(torch.cat([seen, held_out.inputs]), dim=0)) == 1200


def test_the_second_pass_has_another_order(tmp_path: Path) -> None:
    batches = take(small(tmp_path, batch_size=100), 0, 20)
    assert not torch.equal(batches[0].inputs, batches[10].inputs)


def test_pairs_stay_together(tmp_path: Path) -> None:
    task = small(tmp_path, batch_size=1000)
    first, second = take(task, 0, 1)[0], take(task, 1, 1)[0]
    by_input = [batch.targets[batch.inputs[:, 0].argsort()] for batch in (first, second)]
    assert torch.equal(by_input[0], by_input[1])


def test_a_batch_larger_than_the_pool_is_the_pool(tmp_path: Path) -> None:
    task = small(tmp_path, batch_size=5000)
    assert task.tokens_per_batch == 1000
    assert len(take(task, 0, 1)[0].targets) == 1000


def test_labels_are_computed_once_for_all_students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = small(tmp_path)
    first.prepare()

    def refuse(_: TeacherSettings) -> None:
        raise AssertionError("labelled again")

    monkeypatch.setattr(teacher, "_label", refuse)
    second = small(tmp_path, depth=5, batch_size=10, learning_rate=1.0, base_width=8)
    assert torch.equal(second.validation()[0].targets, first.validation()[0].targets)
    with pytest.raises(AssertionError, match="labelled again"):
        small(tmp_path, teacher_seed=1).prepare()


def test_another_teacher_seed_is_another_function(tmp_path: Path) -> None:
    first, second = (small(tmp_path, teacher_seed=seed).validation()[0].targets for seed in (0, 1))
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.5


def test_a_teacher_that_is_constant_gives_finite_targets(tmp_path: Path) -> None:
    task = small(tmp_path, teacher_width=1, teacher_layers=6, teacher_bias=0.0, teacher_seed=3)
    assert torch.isfinite(task.validation()[0].targets).all()
