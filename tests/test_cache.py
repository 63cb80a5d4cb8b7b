import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from einsearch_cli.cache import Arrays, cached_arrays
from einsearch_cli.errors import OutputError


class Counter:
    """Makes arrays and counts how often it had to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Arrays:
        self.calls += 1
        return {"numbers": np.arange(1000.0), "names": np.array([self.calls])}


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*.npz")
    return path


def test_computed_once(tmp_path: Path) -> None:
    compute = Counter()
    first = cached_arrays(tmp_path, "kind", {"a": 1}, compute)
    second = cached_arrays(tmp_path, "kind", {"a": 1}, compute)
    assert compute.calls == 1
    assert second.keys() == {"numbers", "names"}
    np.testing.assert_array_equal(first["numbers"], second["numbers"])


def test_another_key_is_computed_again(tmp_path: Path) -> None:
    compute = Counter()
    for key in ({"a": 1}, {"a": 2}, {"a": 1, "b": None}):
        cached_arrays(tmp_path, "kind", key, compute)
    assert compute.calls == 3


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text", "other key"])
def test_a_damaged_file_is_rebuilt(tmp_path: Path, damage: str) -> None:
    compute = Counter()
    cached_arrays(tmp_path, "kind", {"a": 1}, compute)
    path = only_file(tmp_path)
    raw = bytearray(path.read_bytes())
    if damage == "truncated":
        del raw[len(raw) // 2 :]
    elif damage == "flipped":
        raw[len(raw) // 2] ^= 0xFF
    elif damage == "empty":
        raw.clear()
    elif damage == "text":
        raw[:] = b"not an archive"
    else:
        cached_arrays(tmp_path / "other", "kind", {"a": 2}, Counter())
        raw[:] = only_file(tmp_path / "other").read_bytes()
    path.write_bytes(bytes(raw))
    again = cached_arrays(tmp_path, "kind", {"a": 1}, compute)
    assert compute.calls == 2
    np.testing.assert_array_equal(again["numbers"], np.arange(1000.0))
    cached_arrays(tmp_path, "kind", {"a": 1}, compute)
    assert compute.calls == 2  # and it was written


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> Arrays:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cached_arrays(tmp_path, "kind", {}, fail)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write cache folder .*file/cache: .*\ntry: .*XDG_CACHE_HOME"):
        cached_arrays(tmp_path / "file" / "cache", "kind", {}, Counter())


def test_two_at_once_compute_once(tmp_path: Path) -> None:
    """The lock is on the file, so two threads stand for two processes."""
    compute, barrier = Counter(), threading.Barrier(2)

    def slowly() -> Arrays:
        time.sleep(0.2)
        return compute()

    def ask(_: int) -> Arrays:
        barrier.wait()
        return cached_arrays(tmp_path, "kind", {"a": 1}, slowly)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(ask, range(2))
    assert compute.calls == 1
    np.testing.assert_array_equal(first["numbers"], second["numbers"])
