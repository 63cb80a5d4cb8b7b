"""States of runs between nodes and the folder of a study; this needs no Ray."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from einsearch_cli.search.engines.ray import node, states
from einsearch_cli.search.engines.ray.node import train_pack
from einsearch_cli.search.engines.ray.states import Incoming, Outgoing, StatePiece, newest_state, pieces_of
from einsearch_cli.search.job import TrialFinished, TrialNote, TrialSetup
from einsearch_cli.search.run_folders import run_folder
from einsearch_cli.search.shipping import Shipment, versions
from einsearch_cli.training.proxy.run_state import read_run_state, save_run_state
from tests.search.engine_contract import SETUP, job

PACK = (job(0), job(1))


@pytest.fixture(autouse=True)
def _many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "PIECE_BYTES", 100)


def save(study: Path, number: int, step: int) -> Path:
    folder = run_folder(study, PACK[number].trial)
    save_run_state(folder, "mine", step, {"step": step, "numbers": torch.arange(100) + step})
    newest = newest_state(folder)
    assert newest is not None
    return newest


def step_in(study: Path, number: int) -> int | None:
    """The step of the newest state, after every byte was checked."""
    told: list[str] = []
    found = read_run_state(run_folder(study, PACK[number].trial), "mine", told.append)
    assert told == []
    if found is not None:
        assert torch.equal(found["numbers"], torch.arange(100) + found["step"])
    return None if found is None else int(found["step"])


def send(pieces: list[StatePiece], incoming: Incoming) -> None:
    for piece in pieces:
        incoming.take(piece)


def test_a_state_arrives_as_it_was_and_only_when_it_is_whole(tmp_path: Path) -> None:
    here, there = tmp_path / "here", Incoming(tmp_path / "there", PACK)
    pieces = list(pieces_of(1, save(here, 1, 7)))
    assert len(pieces) > 8
    send(pieces[:-1], there)
    assert step_in(tmp_path / "there", 1) is None
    send(pieces[-1:], there)
    assert step_in(tmp_path / "there", 1) == 7
    assert step_in(tmp_path / "there", 0) is None


def test_one_that_breaks_off_leaves_the_state_before_it_and_no_files(tmp_path: Path) -> None:
    here, there, place = tmp_path / "here", Incoming(tmp_path / "there", PACK), tmp_path / "there"
    send(list(pieces_of(0, save(here, 0, 1))), there)
    send(list(pieces_of(0, save(here, 0, 2)))[:3], there)
    assert step_in(place, 0) == 1
    send(list(pieces_of(0, save(here, 0, 3))), there)
    assert step_in(place, 0) == 3
    assert sorted(path.name for path in run_folder(place, PACK[0].trial).iterdir()) == [
        "step-00000001",
        "step-00000003",
    ]


def test_a_full_disk_is_reported_once_and_the_next_state_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, place = tmp_path / "here", Incoming(tmp_path / "there", PACK), tmp_path / "there"
    pieces, synced = list(pieces_of(0, save(here, 0, 1))), os.fsync

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    there.take(pieces[0])
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        there.take(pieces[1])
    send(pieces[2:], there)
    assert list(run_folder(place, PACK[0].trial).iterdir()) == []
    monkeypatch.setattr(os, "fsync", synced)
    send(list(pieces_of(0, save(here, 0, 2))), there)
    assert step_in(place, 0) == 2


def test_every_new_state_is_sent_once_and_none_that_came_from_the_study(tmp_path: Path) -> None:
    save(tmp_path, 0, 5)
    outgoing = Outgoing(tmp_path, PACK)
    assert list(outgoing.pieces_of(0)) == list(outgoing.pieces_of(1)) == []
    for step in (6, 7):
        save(tmp_path, 1, step)
    assert {(piece.number, piece.checkpoint) for piece in outgoing.pieces()} == {(1, "step-00000007")}
    assert list(outgoing.pieces_of(1)) == []
    outgoing.end(1)
    assert not run_folder(tmp_path, PACK[1].trial).exists()
    save(tmp_path, 0, 8)
    assert {piece.number for piece in outgoing.pieces_of(0)} == {0}


def test_states_take_a_tenth_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    outgoing = Outgoing(tmp_path, PACK)
    save(tmp_path, 0, 1)
    for piece in outgoing.pieces():
        now_s += piece.left == 0  # Ray takes the next piece when it has room: this one took a second
    save(tmp_path, 0, 2)
    now_s = 109.9
    assert list(outgoing.pieces()) == []
    now_s = 110.1
    assert list(outgoing.pieces()) != []


def test_a_state_that_is_removed_while_it_is_sent_still_arrives(tmp_path: Path) -> None:
    path, there = save(tmp_path / "here", 0, 1), Incoming(tmp_path / "there", PACK)
    pieces = pieces_of(0, path)
    there.take(next(pieces))
    shutil.rmtree(path)
    send(list(pieces), there)
    assert step_in(tmp_path / "there", 0) == 1


SAVED = replace(SETUP, checkpoint_s=0.0)


def train(setup: TrialSetup) -> list[Any]:
    """The events that a node sends for a pack."""
    return list(train_pack(PACK[:1], Shipment(setup, (), (), versions()), {}, []))


@pytest.mark.usefixtures("_node")
def test_a_node_sends_states_before_the_end_of_a_run_and_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "LOOK_S", 0.02)  # the run is short
    told = train(replace(SAVED, folder="/of/the/study/on/another/machine"))
    assert isinstance(told[-1], TrialFinished)
    assert told[-1].result.status == "ok"
    assert any(isinstance(event, StatePiece) for event in told[:-1])
    [own] = tmp_path.glob("einsearch/.runs.*")
    assert [path.name for path in own.rglob("*")] == ["checkpoints"]


@pytest.mark.usefixtures("_node")
def test_a_node_that_cannot_save_trains_on_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(node, "draft_folder", refuse)
    first, *_, last = train(replace(SAVED, folder="/of/the/study"))
    assert isinstance(first, TrialNote)
    assert "cannot save the run: Read-only file system" in first.text
    assert last.result.status == "ok"


@pytest.fixture
def _node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process be that of a node, with its own cache, and lose its worker afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(node, "_open", ExitStack())
    monkeypatch.setattr(node, "_teams", {})
    node._own_folder.cache_clear()
    yield
    for team in node._teams.values():
        team.stop()
    node._open.close()
    node._own_folder.cache_clear()
