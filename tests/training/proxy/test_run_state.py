"""States of runs are restored exactly, and damaged ones are never used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from einsearch_cli.training.proxy import run_state
from einsearch_cli.training.proxy.run_state import TENSORS, read_run_state, save_run_state
from einsearch_cli.training.sealed import STATE, sealed_in


def sample() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "done": 7,
        "curve": [(1.5, 0.1 + 0.2), (2.0, 1e-300)],
        "update": {0: {"step": torch.tensor(3.0), "mean": torch.randn(4, 3)}, "betas": (0.9, 0.95), "none": None},
        "view": torch.arange(12.0).view(3, 4)[:, 1],
        "half": torch.randn(3).bfloat16(),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return type(a) is type(b) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return type(a) is type(b) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def read(folder: Path, whose: str = "me") -> tuple[dict[str, Any] | None, list[str]]:
    said: list[str] = []
    return read_run_state(folder, whose, said.append), said


def test_a_state_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == (None, [])
    save_run_state(tmp_path, "me", 7, sample())
    found, said = read(tmp_path)
    assert same(found, sample())
    assert said == []


def test_the_newest_state_counts_and_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_run_state(tmp_path, "me", step, {"done": step})
    assert read(tmp_path)[0] == {"done": 3}
    assert [path.name for path in sealed_in(tmp_path)] == ["step-00000002", "step-00000003"]


def test_a_run_that_began_again_goes_on_from_its_new_states(tmp_path: Path) -> None:
    """States of later steps could not be used; they must not displace the new ones."""
    for step in (8, 9):
        save_run_state(tmp_path, "me", step, {"done": step})
        hurt(sealed_in(tmp_path)[-1] / STATE, "flipped")
    assert read(tmp_path)[0] is None
    for step in (1, 2):
        save_run_state(tmp_path, "me", step, {"done": step})
        assert read(tmp_path) == ({"done": step}, [])
    assert [path.name for path in sealed_in(tmp_path)] == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize("name", [TENSORS, STATE])
@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "missing"])
def test_a_damaged_state_is_passed_over_in_one_line(tmp_path: Path, name: str, damage: str) -> None:
    for step in (1, 2):
        save_run_state(tmp_path, "me", step, {"done": step, "numbers": torch.full((100,), float(step))})
    for number, path in enumerate(reversed(sealed_in(tmp_path))):
        hurt(path / name, damage)
        found, [line] = read(tmp_path)
        if number == 0:
            assert found is not None
            assert found["done"] == 1
            assert line.endswith("; the run goes on from the checkpoint before it")
        else:
            assert found is None
            assert line.endswith("; the run begins again")
        assert str(sealed_in(tmp_path)[-1]) in line
        assert "\n" not in line


def hurt(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
        return
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes({"truncated": data[:-10], "empty": b"", "flipped": data}[damage])


def test_a_state_of_another_program_or_run_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_run_state(tmp_path, "me", 1, {"done": 1})
    found, [line] = read(tmp_path, "you")
    assert (found, "is of another run; the run begins again" in line) == (None, True)
    monkeypatch.setattr(run_state, "__version__", "0.0.0")
    found, [line] = read(tmp_path)
    assert found is None
    assert "was written by einsearch 0.1" in line
    assert "and this is einsearch 0.0.0 with torch" in line


def test_a_state_of_another_format_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_run_state(tmp_path, "me", 1, {"done": 1})
    assert json.loads((sealed_in(tmp_path)[0] / STATE).read_text())["content"]["format"] == 1
    monkeypatch.setattr(run_state, "FORMAT", 2)
    found, [line] = read(tmp_path)
    assert (found, "has format 1: this version reads 2" in line) == (None, True)
