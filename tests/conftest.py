"""Settings of all tests."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from einsearch_cli import plugins
from einsearch_cli.search.engines import ENGINES
from einsearch_cli.structures import FAMILIES
from einsearch_cli.tasks import TASKS
from einsearch_cli.taxonomy.criteria import CRITERIA
from einsearch_cli.training.optimizers import OPTIMIZERS


def pytest_sessionstart() -> None:
    """Let commands that tests start and interrupt react to SIGINT.

    They inherit whether SIGINT is ignored, as it is in the processes of pytest-xdist, under nohup and in background
    jobs of a shell; there they would never stop.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_LONGEST = (
    "tests/cli/test_rank_moe.py",
    "tests/cli/test_rank.py",
    "tests/docs/test_pages.py",
    "tests/test_notebook.py",
    "tests/docs/test_site.py",
    "tests/export/test_programs.py",
    "tests/training/proxy/test_keeping.py",
    "tests/training/full/test_distributed.py",
    "tests/cli/test_optimizers.py",
    "tests/test_installed_plugins.py",
)
"""The files that take longest, which start first: the last ones to end would leave the other processes idle."""


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-xdist give out files in the order of collection; it would begin with those of the most tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    place = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


collect_ignore = [
    "cli/plugin_of_all.py",
    "search/fatal.py",
    "search/unruly.py",
    "faults/jumping_clock.py",
    "faults/dying_saves.py",
]
"""Plug-ins: looking for doctests in them would register their contents in the process of all tests."""


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def registers() -> Iterator[None]:
    """Let the test begin and end without plug-ins in this process: others may have loaded some before it."""
    _forget_plugins()
    yield
    _forget_plugins()


def _forget_plugins() -> None:
    from einsearch_cli.reports.page import _SECTIONS

    plugins._LOADED.clear()
    owners: list[tuple[dict[str, Any], Callable[[Any], Any]]] = [
        *((known, lambda entry: entry) for known in (TASKS.entries, ENGINES.entries, OPTIMIZERS.entries)),
        (FAMILIES, lambda family: family.build),
        (CRITERIA, lambda criterion: criterion.reason),
        *((sections, lambda section: section[1]) for sections in _SECTIONS.values()),
    ]
    for known, owner in owners:
        for name in [name for name, entry in known.items() if not owner(entry).__module__.startswith("einsearch_cli.")]:
            del known[name]
