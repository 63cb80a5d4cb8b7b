import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from einsearch_cli.cache import cached_for_files
from einsearch_cli.errors import DataError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("one")
    set_time(path, 100)
    return path


def set_time(path: Path, age_s: float) -> None:
    then = time.time() - age_s
    os.utime(path, (then, then))


def counter() -> tuple[Callable[[], dict[str, Any]], list[int]]:
    calls: list[int] = []

    def compute() -> dict[str, Any]:
        calls.append(len(calls))
        return {"calls": len(calls)}

    return compute, calls


def test_found_out_once(file: Path, tmp_path: Path) -> None:
    compute, _ = counter()
    assert [cached_for_files(tmp_path / "c", "kind", [file], compute)["calls"] for _ in range(3)] == [1, 1, 1]
    assert cached_for_files(tmp_path / "c", "other", [file], compute)["calls"] == 2


@pytest.mark.parametrize("change", ["size", "time", "inode", "name"])
def test_a_changed_file_is_looked_at_again(file: Path, tmp_path: Path, change: str) -> None:
    compute, _ = counter()
    cached_for_files(tmp_path / "c", "kind", [file], compute)
    before = file.stat()
    if change == "size":
        file.write_text("three")
    elif change == "inode":
        other = tmp_path / "other"
        other.write_text("two")
        other.replace(file)
    elif change == "name":
        file = file.rename(tmp_path / "renamed")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + (change == "time")))
    assert cached_for_files(tmp_path / "c", "kind", [file], compute)["calls"] == 2


def test_a_file_written_just_now_is_not_cached_for_files(file: Path, tmp_path: Path) -> None:
    """Its next change may carry the same time."""
    set_time(file, 0.5)
    compute, _ = counter()
    assert [cached_for_files(tmp_path / "c", "kind", [file], compute)["calls"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"files": "x", "found": {}}'])
def test_a_damaged_note_is_made_again(file: Path, tmp_path: Path, damage: bytes) -> None:
    compute, _ = counter()
    cached_for_files(tmp_path / "c", "kind", [file], compute)
    (note,) = (tmp_path / "c").glob("*.json")
    note.write_bytes(damage)
    assert [cached_for_files(tmp_path / "c", "kind", [file], compute)["calls"] for _ in range(2)] == [2, 2]


def test_without_a_cache_it_takes_time_only(file: Path) -> None:
    compute, _ = counter()
    assert [cached_for_files(file / "c", "kind", [file], compute)["calls"] for _ in range(2)] == [1, 2]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing cannot be read: No such file or directory"):
        cached_for_files(tmp_path, "kind", [tmp_path / "missing"], dict)
