"""The register of engines, which run the trials of a study: every other file of this folder defines one.

Another package adds an engine by calling `register`; `einsearch rank --engine NAME` then takes it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Final, Self

from einsearch_cli.errors import DeviceError, SpecError
from einsearch_cli.register import Register

if TYPE_CHECKING:  # the names of engines are listed without pydantic
    from pathlib import Path

    from einsearch_cli.search.engine_options import EngineOptions
    from einsearch_cli.search.job import Pack, Report, TrialSetup

DEFAULT: Final = "local"


class Engine(ABC):
    """Runs jobs: on processes of this machine, on a cluster, on several devices, or several at once in one process.

    Contract (tests/search/engine_contract.py):
        - Every job of every pack that `next_pack` gives ends in exactly one `TrialFinished`, in any order; before it
          there may be any number of `TrialProgress` and `TrialNote`. `search.job.run_pack` trains a pack anywhere and
          reports all of them.
        - A job that fails ends with a failed result; other jobs go on. If a worker dies, its unfinished jobs end with
          failed results and `worker_died`: the study then tries these jobs again, each alone.
        - `next_pack` and `on_event` are called in the thread that called `run`. What they raise, Ctrl-C included,
          leaves `run`.
        - Making an engine starts nothing. It is a context manager; leaving it ends whatever still runs, without
          an event. `run` may be called several times before.

    Args:
        setup: what a worker needs besides its jobs. Setups, jobs and results can be pickled, and written as JSON.
        workers: how many packs are to run at once; the engine decides if it is None.
        options: text by key, as `--engine-option KEY=VALUE` gives it; `options_type` says what there is.
        folder: the study's folder, where an engine may keep files in a folder of its own name; None if there is none.

    Raises:
        SpecError: more workers than the engine can have, an unknown option, or a package that is not
            installed.
        StudyError: a cluster that cannot be reached.
    """

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    """The required package, if any; the extra of einsearch that installs it has the engine's name."""
    is_local: ClassVar[bool] = False
    """Whether workers are processes of this machine, so that its cores and memory limit their number."""
    options_type: ClassVar[type[EngineOptions] | None] = None
    """The type of the options for `--engine-option`; None for an engine without options."""
    saves_runs: ClassVar[bool] = False
    """Whether the states of running trials are saved in the study's folder, and runs continue from there."""

    def __init__(
        self,
        setup: TrialSetup,
        workers: int | None = None,
        options: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        from einsearch_cli.search.engine_options import read_options

        if self.package is not None and find_spec(self.package) is None:
            raise SpecError(
                f"the engine {self.name} needs the package {self.package}: it is not installed",
                remedy=f"pip install 'einsearch[{self.name}]'",
            )
        self.setup = setup
        self.options = read_options(self.name, self.options_type, options or {})
        """The options of the engine, an `options_type`; None for an engine without options."""
        self.folder = folder
        self.workers = workers or self.default_workers()
        """The number of packs that run at once."""

    def default_workers(self) -> int:
        """The number of workers if none is given."""
        return 1

    def start_up_s(self, loading_s: float) -> float:  # noqa: ARG002
        """Seconds until all workers are ready, if one process loads torch in `loading_s` seconds."""
        return 0.0

    def device_here(self) -> str:
        """The device on which this process times steps: the workers' first, or the CPU if only workers have it."""
        from einsearch_cli.training.devices import use_device

        try:
            return use_device(self.setup.devices[0])
        except DeviceError:
            if self.is_local:
                raise
            return "cpu"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def run(self, next_pack: Callable[[], Pack], on_event: Report) -> None:
        """Run packs until none runs and `next_pack` returns an empty one; it is called whenever a worker is free."""

    @abstractmethod
    def stop(self) -> None:
        """End all workers and whatever they run."""


ENGINES: Final = Register[type[Engine]]("engine", __name__, __path__)
register, find_engine, engine_names = ENGINES.add, ENGINES.find, ENGINES.names
