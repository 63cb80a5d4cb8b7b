"""A plug-in: the first worker that saves a run is killed after its checkpoint is written but not named."""

import os
import signal
from multiprocessing import parent_process
from pathlib import Path

from einsearch_cli.training import sealed

_sync_folder = sealed.sync_folder


def dying(folder: Path) -> None:
    _sync_folder(folder)
    died = Path(os.environ["XDG_CACHE_HOME"]) / "died"
    if parent_process() is not None and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)


sealed.sync_folder = dying
