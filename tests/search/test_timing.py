"""The race of training steps after a study."""

from pathlib import Path

import pytest
import torch

from einsearch_cli.search import timing
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.search.store import StudyStore
from einsearch_cli.search.timing import Place, are_timed, known_seconds, race_steps
from einsearch_cli.structures import parse_structure
from tests.training.proxy.tasks import small_teacher

SPEC = StudySpec(structures=["monarch"])
PLACES: list[Place] = [(parse_structure("dense"), 16), (parse_structure("monarch"), 16)]


def test_networks_that_do_not_fit_together_are_timed_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced, sizes = timing._raced, list[int]()

    def scarce(places, *others):  # type: ignore[no-untyped-def]
        sizes.append(len(places))
        if len(places) > 1:
            raise torch.OutOfMemoryError("no room")
        return raced(places, *others)

    monkeypatch.setattr(timing, "_raced", scarce)
    task = small_teacher(tmp_path)
    with StudyStore(tmp_path / "study", "timing") as store:
        found = race_steps(store, PLACES, task, SPEC, "cpu")
        assert known_seconds(store, PLACES, "cpu") == found
        assert known_seconds(store, PLACES, "cuda:0") is None, "times of another device are others"
    assert sizes == [2, 1, 1]
    assert set(found) == set(PLACES)
    assert all(seconds > 0 for seconds in found.values())


def test_a_network_that_is_too_large_for_a_cpu_prevents_the_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = small_teacher(tmp_path)
    assert are_timed(PLACES, task, SPEC, "cpu")
    monkeypatch.setattr("einsearch_cli.training.proxy.cost._MOST_TIMED_FLOPS", 1)
    assert not are_timed(PLACES, task, SPEC, "cpu")
    assert are_timed(PLACES, task, SPEC, "cuda:0")
