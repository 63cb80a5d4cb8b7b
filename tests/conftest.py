"""What holds for all tests."""

import signal
from collections.abc import Iterator

import pytest
import torch

from einsearch_cli import plugins
from einsearch_cli.search.engines import ENGINES
from einsearch_cli.tasks import TASKS
from einsearch_cli.training.optimizers import OPTIMIZERS


def pytest_sessionstart() -> None:
    """Commands that tests start and interrupt inherit whether SIGINT is ignored, as it is in the processes of
    pytest-xdist, under nohup and in background jobs of a shell; there they would never stop."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def registers() -> Iterator[None]:
    """What plug-ins register in this process is forgotten after the test."""
    yield
    plugins._LOADED.clear()
    for register in (TASKS.entries, ENGINES.entries, OPTIMIZERS.entries):
        for name in [name for name, entry in register.items() if not entry.__module__.startswith("einsearch_cli.")]:
            del register[name]
