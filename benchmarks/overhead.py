"""The overhead of a study per run, besides steps and validations, and the load of its driver while workers train.

    python -m benchmarks.overhead [--runs 200] [--steps 50] [--pack 8] [--out benchmarks/results/overhead.json]

Runs of one narrow network that differ in their seeds are trained by one worker of the local engine and stored in a
study's database. Steps and validations are timed separately, in this process. The rest is opening and closing of runs:
networks, programs, pipes and database. The driver's share is its CPU time while one long run trains.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from einsearch_cli.files import write_atomically
from einsearch_cli.machine import retain_memory
from einsearch_cli.search.engines import find_engine
from einsearch_cli.search.job import TrialSetup
from einsearch_cli.search.running import run_waiting
from einsearch_cli.search.store import StudyStore
from einsearch_cli.speed.machine import machine_facts
from einsearch_cli.structures import parse_structure
from einsearch_cli.tasks import open_task
from einsearch_cli.training import OptimizerSettings, ProxyRun, run_cost
from einsearch_cli.training.proxy.trainer import PackTrainer
from einsearch_cli.training.proxy.trial import Trial

MOST_S = 0.1
MOST_SHARE = 0.02
STRUCTURE, WIDTH = parse_structure("monarch"), 32
_ENDLESS_FLOPS = 1e15
_LONG_RUN_STEPS = 20_000


def budget_of(steps: int) -> float:
    """Training FLOPs that pay for a number of steps."""
    run = ProxyRun(task=open_task("teacher"), structure=STRUCTURE, width=WIDTH, budget_flops=_ENDLESS_FLOPS)
    return float(steps * run_cost(run).train_flops_per_step)


def training_s(steps: int, pack: int) -> float:
    """Seconds of a run's steps and validations in a pack."""
    task, settings = open_task("teacher"), OptimizerSettings()
    runs = [
        ProxyRun(task=task, structure=STRUCTURE, width=WIDTH, budget_flops=_ENDLESS_FLOPS, seed=seed)
        for seed in range(pack)
    ]
    trainer = PackTrainer(runs)
    for _ in range(3):
        trainer.step()
    started_s = time.perf_counter()
    for _ in range(steps):
        trainer.step()
    steps_s = (time.perf_counter() - started_s) / pack
    started_s = time.perf_counter()
    for _ in range(settings.validations):
        trainer.validate(0)
    return steps_s + time.perf_counter() - started_s


def study_s(trials: list[Trial], pack: int) -> tuple[float, float]:
    """Wall seconds of the trials once the worker is ready, and CPU seconds of this process meanwhile."""
    first = Trial(STRUCTURE, WIDTH, 1_000_000, 0, budget_of(10))
    kind = find_engine("local")
    with tempfile.TemporaryDirectory() as folder, StudyStore(Path(folder), "overhead") as store:
        with kind(TrialSetup("teacher", pack=pack), 1) as engine:
            store.add([first])
            run_waiting(store, engine, lambda _: None)
            store.add(trials)
            started_s, cpu_s = time.perf_counter(), time.process_time()
            run_waiting(store, engine, lambda _: None)
            found = time.perf_counter() - started_s, time.process_time() - cpu_s
        assert all(result.status == "ok" for result in store.results())
    return found


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--pack", type=int, default=8)
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args()
    retain_memory()
    torch.set_num_threads(1)
    open_task("teacher").prepare()
    trained_s = training_s(options.steps, options.pack)
    trials = [Trial(STRUCTURE, WIDTH, seed, 0, budget_of(options.steps)) for seed in range(options.runs)]
    wall_s, _ = study_s(trials, options.pack)
    overhead_s = wall_s / options.runs - trained_s
    print(
        f"{options.runs} runs of {options.steps} steps: {wall_s / options.runs:.3f} s a run, of which steps and validations "
        f"{trained_s:.3f} and the rest {overhead_s:.3f}; at most {MOST_S} is the aim"
    )
    long_s, driver_s = study_s([Trial(STRUCTURE, WIDTH, 0, 0, budget_of(_LONG_RUN_STEPS))], 1)
    print(
        f"driver: {driver_s / long_s:.2%} of a core while one run trains for {long_s:.0f} s; at most {MOST_SHARE:.0%} is the aim"
    )
    if options.out is not None:
        figures = {
            "machine": machine_facts(torch.device("cpu")),
            "runs": options.runs,
            "steps": options.steps,
            "pack": options.pack,
            "run_s": wall_s / options.runs,
            "training_s": trained_s,
            "overhead_s": overhead_s,
            "driver_share": driver_s / long_s,
        }
        write_atomically(options.out, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
