"""The name of the processor, and freed memory that stays with our own processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from einsearch_cli import machine
from einsearch_cli.machine import processor_name

FAULTS = """
import resource, torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(64 * 2**20, dtype=torch.uint8).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""
SETTINGS = {
    "nothing": "",
    "retain_memory": "from einsearch_cli.machine import retain_memory\nassert retain_memory()\n",
    "a worker": (
        "import os\nfrom multiprocessing import Pipe\n"
        "from einsearch_cli.search.engines.local import _work\n"
        "from einsearch_cli.search.job import TrialSetup\n"
        "saved = os.dup(1)\nnear, far = Pipe()\n_, printing = Pipe()\nnear.send(None)\n"
        "_work(far, printing, TrialSetup('teacher'), dict(os.environ))\nos.dup2(saved, 1)\n"
    ),
}


def is_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, ValueError, OSError):
        return False


@pytest.mark.skipif(not is_glibc(), reason="another C library")
@pytest.mark.parametrize("setting", SETTINGS)
def test_page_faults_of_large_tensors(setting: str) -> None:
    """64 MiB are 16,384 pages (fewer faults where pages are huge); retained ones are there already.

    The first few tensors may each take new memory: a block that was freed is too short
    for the same aligned request until it merges with its neighbour.
    """
    code = SETTINGS[setting] + FAULTS + "print(*(faults() for _ in range(8)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    first, *_, last = map(int, said.split())
    assert first > 20
    assert (last > first // 2) if setting == "nothing" else (last < first // 10)


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    from einsearch_cli.machine import retain_memory

    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert retain_memory() is False


@pytest.mark.skipif(not is_glibc(), reason="another C library")
def test_free_memory_goes_back_when_it_is_returned() -> None:
    """A small tensor behind these 64 MiB keeps them from the end of the heap."""
    code = (
        "import torch\n"
        "from einsearch_cli.machine import retain_memory, return_memory\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "retain_memory()\nlarge = torch.ones(64 * 2**20, dtype=torch.uint8)\nsmall = [bytes(100_000) for _ in range(20)]\n"
        "before = resident()\ndel large\nkept = resident()\nreturn_memory()\nprint(before - kept, kept - resident())\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    at_once, returned = map(int, said.split())
    assert at_once < 8 * 2**20
    assert returned > 48 * 2**20


def test_the_name_of_a_processor_is_the_first_one_that_the_system_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_PROCESSORS", tmp_path / "cpuinfo")
    processor_name.cache_clear()
    assert processor_name()
    processor_name.cache_clear()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: First\nprocessor\t: 1\nmodel name\t: Second\n")
    assert processor_name() == "First"
    processor_name.cache_clear()
