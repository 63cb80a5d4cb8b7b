"""The register of tasks, and settings that are refused."""

from pathlib import Path

import pytest

from einsearch_cli.cache import default_cache_folder
from einsearch_cli.errors import SpecError
from einsearch_cli.tasks import find_task, open_task, register, task_names
from einsearch_cli.tasks.teacher import TeacherTask
from einsearch_cli.tasks.text import TextTask


def test_names_lead_to_classes() -> None:
    assert {"pixels", "teacher", "text"} <= set(task_names())  # a plug-in of another test may have added one
    assert find_task("teacher") is TeacherTask
    assert find_task("text") is TextTask


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(SpecError) as caught:
        find_task("teachr")
    known = ", ".join(task_names())
    assert str(caught.value) == f"no task is named 'teachr': the tasks are {known}\ntry: use teacher"
    with pytest.raises(SpecError) as caught:
        find_task("images")
    assert str(caught.value) == (
        f"no task is named 'images': the tasks are {known}\n"
        "try: use one of these, or give the file that registers it: --plugin FILE.py"
    )


def test_a_name_is_taken_once() -> None:
    class Other(TeacherTask):
        pass

    with pytest.raises(ValueError, match="two tasks are named 'teacher'"):
        register(Other)
    assert find_task("teacher") is TeacherTask


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(SpecError) as caught:
        open_task("teacher", {"bach_size": 8})
    assert str(caught.value) == (
        "task 'teacher': unknown key 'bach_size'\ntry: use batch_size; all are base_width, learning_rate, input_size, "
        "teacher_layers, teacher_width, teacher_bias, teacher_seed, pool_size, validation_size, batch_size, depth, "
        "dense_input"
    )


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("teacher", {"batch_size": 0}, "task 'teacher': batch_size is 0: a whole number from 1 to"),
        ("teacher", {"depth": "deep"}, "task 'teacher': depth is 'deep': a whole number"),
        ("teacher", {"learning_rate": float("nan")}, "task 'teacher': learning_rate is nan: a number"),
        (
            "text",
            {"data": {"held_out_fraction": 0.9}},
            "task 'text': data.held_out_fraction is 0.9: a number above 0 and at most 0.5",
        ),
    ],
)
def test_a_bad_value_is_named(task: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        open_task(task, settings)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", task_names())
def test_every_setting_explains_itself(name: str) -> None:
    for field, info in find_task(name).settings_type.model_fields.items():
        assert info.description, field
        assert info.description.endswith(".")


def test_settings_cannot_be_changed() -> None:
    settings = open_task("teacher").settings
    with pytest.raises(ValueError, match="frozen"):
        settings.depth = 5


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "einsearch"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / ".cache" / "einsearch"
