"""States of runs in progress: when they are saved, and what happens when a process is asked to end."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypedDict

from einsearch_cli.errors import OutputError
from einsearch_cli.training.proxy.run_state import read_run_state, save_run_state

PREEMPTED: Final = 128 + signal.SIGTERM
"""Exit code of a process that was asked to end."""


class RunProgress(TypedDict):
    """The complete state of a run in progress."""

    trainer: dict[str, Any]
    """The result of `Trainer.run_state`."""
    curve: list[tuple[float, float]]
    elapsed_s: float
    """Wall time of the run so far, over all processes."""


class StateKeeper:
    """Saves the states of the runs of a pack from time to time, and returns what earlier processes have saved.

    Within `end_when_saved`, a process that SIGTERM asks to end saves once more first. If a state cannot be written, the
    run goes on without it.

    Args:
        folders: a separate folder for every run.
        whose: for every run, a text that is equal for runs that train the same.
        interval_s: seconds between two saves.
        warn: called with the number of the run and a line for every state that cannot be used or written.
    """

    def __init__(
        self, folders: Sequence[Path], whose: Sequence[str], interval_s: float, warn: Callable[[int, str], None]
    ) -> None:
        self._folders, self._whose = folders, whose
        self._interval_s, self._warn = interval_s, warn
        self._due_s = time.monotonic() + interval_s

    @property
    def is_due(self) -> bool:
        """Whether states should be saved now; changes of the machine's clock have no effect."""
        return _asked.to_end or time.monotonic() >= self._due_s

    def read(self, number: int) -> RunProgress | None:
        """The state from which a run goes on; None if it starts from its first step."""
        found = read_run_state(self._folders[number], self._whose[number], lambda text: self._warn(number, text))
        return None if found is None else RunProgress(**found)  # type: ignore[typeddict-item]

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Save all runs within this context; a process that was asked to end does so after it."""
        yield
        self._due_s = time.monotonic() + self._interval_s
        if _asked.to_end:
            sys.exit(PREEMPTED)

    def save(self, number: int, progress: RunProgress) -> None:
        """Write the state of a run."""
        try:
            save_run_state(self._folders[number], self._whose[number], progress["trainer"]["done"], progress)
        except (OutputError, TypeError) as error:
            problem = error.problem if isinstance(error, OutputError) else f"the state cannot be saved: {error}"
            self._warn(number, f"{problem}; the run goes on without it")


class _Asked:
    """Whether this process was asked to end, and whether a save has to come first."""

    def __init__(self) -> None:
        self.to_end = False
        self.waits = False

    def end(self, *_: object) -> None:
        """The handler of SIGTERM."""
        self.to_end = True
        if not self.waits:
            sys.exit(PREEMPTED)


_asked: Final = _Asked()


def save_on_sigterm() -> None:
    """Let SIGTERM end this process after the runs in progress are saved, or at once if there are none."""
    signal.signal(signal.SIGTERM, _asked.end)


@contextmanager
def end_when_saved() -> Iterator[None]:
    """Let a `StateKeeper` end the process within this context when it is asked to."""
    _asked.waits = True
    try:
        yield
    finally:
        _asked.waits = False
    if _asked.to_end:  # all runs ended before a save
        sys.exit(PREEMPTED)
