"""A process that trains every kind of run and is killed by SIGKILL, twice, in or after a random step.

python -m tests.training.full.killed FOLDER SEED
"""

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from einsearch_cli.training.full import Silent, StepMetrics, train_full
from tests.training.full.runs import CPU, KINDS, tiny_data, tiny_spec


class Killer(Silent):
    """Kills at any point of a step, of a validation or of a checkpoint being written.

    On a fast machine, many steps fit into the delay: a run that continues beyond `step` is killed too, and the last
    step waits for the kill.
    """

    def __init__(self, step: int, delay_s: float) -> None:
        self.step = step
        self.delay_s = delay_s
        self.killing = threading.Thread(target=self.kill)

    def on_step(self, metrics: StepMetrics, steps: int) -> None:
        if metrics.step >= self.step and not self.killing.is_alive():
            self.killing.start()
        if metrics.step == steps:
            self.killing.join()

    def kill(self) -> None:
        time.sleep(self.delay_s)
        os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, seed: int) -> None:
    torch.set_num_threads(1)  # a forked process must not have threads
    draws = random.Random(seed)
    for kind in KINDS:
        for steps in (range(1, 6), range(6, 11)):
            step, delay_s = draws.choice(steps), draws.uniform(0, 0.02)
            child = os.fork()
            if child == 0:
                train_full(tiny_spec(**KINDS[kind]), tiny_data(), folder / kind, CPU, Killer(step, delay_s))
                os._exit(0)
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status), f"{kind} was not killed but ended with {status}"
            assert os.WTERMSIG(status) == signal.SIGKILL


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
