"""Time of the first demo's study with the code of that time and with today's, and whether both give the same result.

    python benchmarks/demo_speed.py [--rounds 3] [--old b9ef05e] [--out benchmarks/results/demo_speed.json]

Both train the same 126 runs: 7 structures at the widths 48, 128 and 256, 3 seeds, 2 rungs, fixed learning rates. They
take turns, each as a whole process with its own folder, on all cores; labels of the data are cached before. Wall time
counts on an idle machine. The CPU time of all processes is printed too, as other work disturbs it less. The old code is
taken from git, so a clone with its history is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from einsearch_cli.files import write_atomically
from einsearch_cli.speed.machine import machine_facts

HERE = Path(__file__).parents[1]
OLD_STUDY = """name: demo
task: teacher
space: {grid: 2, max_nu: 1/2}
structures: [kronecker, tt:r=d^1/4, low-rank]
widths: [48, 128, 256]
seeds: 3
budget_flops: 2.5e10
halving: {rungs: 2, factor: 4, keep: 1}
"""
SAME_RUNS = "rates: fixed\ncontrols: false\nconfirm: 0\n"
"""Settings with which today's code trains exactly the old runs."""
MOST = 0.4
"""The largest share of the old time that the study may take."""
Key = tuple[str, int, int, int]
"""Structure, width, seed and rung of a run."""


def study_s(code: Path, study: str, workers: int) -> tuple[float, float, dict[Key, float]]:
    """Wall and CPU seconds of a study by the code in a folder, and the losses of its runs."""
    with tempfile.TemporaryDirectory() as scratch:
        spec, out = Path(scratch) / "demo.yaml", Path(scratch) / "run"
        spec.write_text(study)
        command = [
            sys.executable,
            "-m",
            "einsearch_cli",
            "rank",
            str(spec),
            "--out",
            str(out),
            "--workers",
            str(workers),
        ]
        started_s, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "PYTHONPATH": str(code)}
        subprocess.run(command, cwd=code, env=environment, check=True, stdout=subprocess.DEVNULL)
        wall_s, after = time.perf_counter() - started_s, resource.getrusage(resource.RUSAGE_CHILDREN)
        results = json.loads((out / "results.json").read_text())["results"]
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    losses = {(run["structure"], run["width"], run["seed"], run["rung"]): run["loss"] for run in results}
    return wall_s, cpu_s, losses


def ranking(losses: dict[Key, float]) -> list[str]:
    """Structures by the mean loss at their best width of the last rung."""
    last = max(rung for *_, rung in losses)
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for (structure, width, _, rung), loss in losses.items():
        if rung == last:
            found[structure, width].append(loss)
    best: dict[str, float] = {}
    for (structure, _), values in found.items():
        best[structure] = min(best.get(structure, float("inf")), statistics.fmean(values))
    return sorted(best, key=best.__getitem__)


def compared(old: dict[Key, float], new: dict[Key, float]) -> dict[str, Any]:
    """Whether both studies trained the same runs, and how far their losses differ."""
    apart = sorted(abs(new[key] / old[key] - 1) for key in old.keys() & new.keys())
    return {
        "runs": len(old),
        "same_runs": old.keys() == new.keys(),
        "median_difference": statistics.median(apart),
        "largest_difference": apart[-1],
        "old_ranking": ranking(old),
        "new_ranking": ranking(new),
    }


def summary(seconds: Iterable[tuple[float, float]]) -> dict[str, list[float]]:
    """Wall and CPU seconds of all rounds."""
    walls, cpus = zip(*seconds, strict=True)
    return {"wall_s": list(walls), "cpu_s": list(cpus)}


def main() -> None:
    """Run both in turn and print their times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="studies of each")
    parser.add_argument("--old", default="b9ef05e", help="commit of the old code")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args()
    seconds: dict[str, list[tuple[float, float]]] = {"old": [], "new": []}
    losses: dict[str, dict[Key, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", options.old], cwd=HERE, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        for number in range(options.rounds):
            for name, code, text in (("old", Path(folder), OLD_STUDY), ("new", HERE, OLD_STUDY + SAME_RUNS)):
                wall_s, cpu_s, losses[name] = study_s(code, text, options.workers)
                seconds[name].append((wall_s, cpu_s))
                print(f"round {number + 1}, {name}: {wall_s:6.1f} s, of the processors {cpu_s:6.1f} s", flush=True)
    times = {name: summary(values) for name, values in seconds.items()}
    shares = {
        kind: statistics.median(times["new"][kind]) / statistics.median(times["old"][kind])
        for kind in ("wall_s", "cpu_s")
    }
    found = compared(losses["old"], losses["new"])
    print(
        f"share of the old time: {shares['wall_s']:.2f}, of the processors' {shares['cpu_s']:.2f}; at most {MOST} is the aim"
    )
    print(
        f"{found['runs']} runs, the same: {found['same_runs']}; losses differ by {found['median_difference']:.1%} in the median, "
        f"{found['largest_difference']:.1%} at most; ranking the same: {found['old_ranking'] == found['new_ranking']}"
    )
    if options.out is not None:
        machine = machine_facts(torch.device("cpu"))
        figures = {"machine": machine, "old": options.old, "times": times, "shares": shares, **found}
        write_atomically(options.out, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
