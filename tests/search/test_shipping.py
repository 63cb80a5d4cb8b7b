"""Data and plug-ins on other machines: a task reads the same there as here, and plug-ins are the same files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from einsearch_cli.errors import StudyError
from einsearch_cli.search.job import TrialSetup, run_trial
from einsearch_cli.search.shipping import Shipment, ShippedFile, pack_up, unpack
from einsearch_cli.tasks import AnyTask, open_task
from tests.search.engine_contract import SMALL, job

FETCHED: list[str] = []


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    FETCHED.clear()


def fetch(file: ShippedFile) -> Iterator[bytes]:
    FETCHED.append(file.name)
    return iter([CONTENTS[file.path]])


CONTENTS: dict[str, bytes] = {}


def send(shipment: Shipment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialSetup:
    """Unpack on a machine that has nothing of this one except fetched files."""
    CONTENTS.update({file.path: Path(file.path).read_bytes() for file in (*shipment.plugins, *shipment.data)})
    for gone in tmp_path.iterdir():  # all shipped files are there, except plug-ins of other tests
        if gone.is_dir():
            shutil.rmtree(gone)
        else:
            gone.unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "there"))
    return unpack(shipment, fetch)


def opened(setup: TrialSetup) -> AnyTask:
    task = open_task(setup.task, setup.task_settings)
    return task if setup.data_folder is None else task.reading_from(Path(setup.data_folder))


def first_rows(task: AnyTask) -> list[torch.Tensor]:
    batches = task.batches(3)
    return [*next(batches), *next(batches), *task.validation()[0]]


def text_settings(kind: str, folder: Path) -> dict[str, Any]:
    """Settings of the text task for each way to give it tokens, and of the pixels task."""
    (folder / "book.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    if kind == "text":
        return {"data": {"text": str(folder / "book.txt"), "tokenizer": "bpe:300"}}
    if kind == "pixels":
        np.save(
            folder / "images.npy", np.arange(30 * 16 * 16 * 3, dtype=np.uint32).astype(np.uint8).reshape(30, 16, 16, 3)
        )
        return {"images": str(folder / "images.npy"), "scale": 1}
    (folder / "numbers.bin").write_bytes(bytes(range(200)) * 40)
    return {"data": {"tokens": str(folder / "numbers.bin"), "token_type": "uint8", "vocabulary": 256}}


@pytest.mark.parametrize("kind", ["teacher", "text", "tokens", "pixels"])
def test_a_task_reads_the_same_on_a_machine_that_has_none_of_its_files(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = kind if kind in ("teacher", "pixels") else "text"
    settings = SMALL if kind == "teacher" else text_settings(kind, tmp_path) | {"batch": 2}
    settings |= {"context": 16} if task == "text" else {}
    setup = TrialSetup(task, settings, plugins=())
    here = opened(setup)
    rows, digest = first_rows(here), here.fingerprint()
    shipment = pack_up(setup)
    there = send(shipment, tmp_path, monkeypatch)
    assert sorted(FETCHED) == sorted(file.name for file in shipment.data)
    moved = opened(there)
    assert all(map(torch.equal, first_rows(moved), rows))
    assert moved.fingerprint() == digest
    assert unpack(shipment, fetch) == there
    assert len(FETCHED) == len(shipment.data), "files are fetched once"


@pytest.mark.usefixtures("one_thread")
def test_labels_come_with_the_study_and_are_not_computed_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = TrialSetup("teacher", SMALL, plugins=())
    loss = run_trial(job(0), setup, lambda _: None).loss
    there = send(pack_up(setup), tmp_path, monkeypatch)
    monkeypatch.setattr("einsearch_cli.tasks.teacher._label", lambda _: pytest.fail("labels were computed"))
    assert run_trial(job(0), there, lambda _: None).loss == loss


@pytest.mark.usefixtures("registers")
def test_plug_ins_are_copied_where_they_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = tmp_path / "mine" / "plain.py"
    plugin.parent.mkdir()
    plugin.write_text("from einsearch_cli import tasks\n")
    shipment = pack_up(TrialSetup("teacher", SMALL, plugins=("json", str(plugin))))
    assert unpack(shipment, fetch).plugins == ("json", str(plugin)), "on a shared disk they stay in place"
    module, copy = send(shipment, tmp_path, monkeypatch).plugins
    assert module == "json"
    assert copy != str(plugin)
    assert Path(copy).name == "plain.py"
    assert Path(copy).read_text() == "from einsearch_cli import tasks\n"


def test_files_that_have_changed_since_are_not_taken_for_the_same(tmp_path: Path) -> None:
    shipment = pack_up(TrialSetup("text", text_settings("tokens", tmp_path) | {"context": 16, "batch": 2}, plugins=()))
    CONTENTS.update({file.path: Path(file.path).read_bytes() for file in shipment.data})
    (tmp_path / "numbers.bin").write_bytes(bytes(range(100)) * 80)
    assert opened(unpack(shipment, fetch)).data.training[150] == 150  # type: ignore[attr-defined]
    assert FETCHED == ["numbers.bin"]


def test_nodes_with_other_versions_are_refused_by_name() -> None:
    shipment = pack_up(TrialSetup("teacher", SMALL, plugins=()))
    other = replace(shipment, versions=shipment.versions | {"torch": "1.0.0"})
    with pytest.raises(StudyError, match=r"has torch .*, and the machine of the study 1\.0\.0") as caught:
        unpack(other, fetch)
    assert caught.value.remedy == "pip install 'torch==1.0.0' on every node"
