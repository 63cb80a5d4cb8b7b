"""A process with two workers, each in a trial that sleeps for an hour before its first step.

python -m tests.search.sleeping FOLDER

Every worker leaves a file in FOLDER whose name is its process id.
"""

import os
import sys
import time
from itertools import islice
from pathlib import Path

from einsearch_cli.search.engines.local import LocalProcesses
from einsearch_cli.search.job import Job, TrialSetup
from einsearch_cli.structures import parse_structure
from einsearch_cli.tasks import register
from einsearch_cli.tasks.teacher import TeacherTask
from einsearch_cli.training.proxy.trial import Trial


class Sleeping(TeacherTask):
    """A task that is silent for an hour, so that no broken pipe ends a worker."""

    name = "sleeping"

    def prepare(self) -> None:
        (Path(sys.argv[1]) / str(os.getpid())).touch()
        time.sleep(3600)


if __name__ in ("__main__", "__mp_main__"):  # in this program and its workers, not where tests are collected
    register(Sleeping)


def main() -> None:
    trials = (Job(n, Trial(parse_structure("monarch"), 16, n, 0, 1e15)) for n in range(2))
    with LocalProcesses(TrialSetup("sleeping"), 2) as engine:
        engine.run(lambda: tuple(islice(trials, 1)), lambda _: None)


if __name__ == "__main__":
    main()
