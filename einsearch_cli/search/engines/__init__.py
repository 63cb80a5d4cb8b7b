"""The register of engines, which run the trials of a study: every other file of this folder is one.

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
        - A job that fails ends with a failed result; other jobs go on. So does all that a worker has in hand when it
          dies, with `worker_died`: the study then tries these jobs again, each alone.
        - `next_pack` and `on_event` are called in the thread that called `run`. What they raise, Ctrl-C included,
          leaves `run`.
        - Making an engine starts nothing. It is a context manager; leaving it ends whatever still runs, without
          an event. `run` may be called several times before.

    Args:
        setup: what a worker needs besides its jobs. Setups, jobs and results can be pickled, and written as JSON.
        workers: how many packs are to run at once; the engine decides if it is None.
        options: text by key, as `--engine-option KEY=VALUE` gives it; `options_type` says what there is.
        folder: of the study, where an engine may keep files in a folder of its own name; none if it is None.

    Raises:
        SpecError: more workers than the engine can have, an option that it does not take, or a package that is not
            installed.
        StudyError: a cluster that cannot be reached.
    """

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    """What has to be installed for it; the extra of einsearch that brings it has the engine's name."""
    is_local: ClassVar[bool] = False
    """Whether workers are processes of this machine, whose cores and memory then limit their number."""
    options_type: ClassVar[type[EngineOptions] | None] = None
    """What `--engine-option` may set; None for an engine without options."""
    saves_runs: ClassVar[bool] = False
    """Whether the states of runs in progress come into the folder of the study, and runs go on from there."""

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
        """Options of the engine, an `options_type`; None for an engine without."""
        self.folder = folder
        self.workers = workers or self.default_workers()
        """Packs that run at once."""

    def default_workers(self) -> int:
        """Number of workers if none is asked for."""
        return 1

    def start_up_s(self, loading_s: float) -> float:  # noqa: ARG002
        """Seconds until all workers are there, if one process loads torch in `loading_s` seconds."""
        return 0.0

    def device_here(self) -> str:
        """What this process times steps on: the first device of the workers, or the CPU where only workers have it."""
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
        """Run packs until none runs and `next_pack` gives an empty one; it is asked whenever a worker is free."""

    @abstractmethod
    def stop(self) -> None:
        """End all workers and whatever they run."""


ENGINES: Final = Register[type[Engine]]("engine", __name__, __path__)
register, find_engine, engine_names = ENGINES.add, ENGINES.find, ENGINES.names
