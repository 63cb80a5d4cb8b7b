"""Time and memory of searching whole spaces, against their size.

    python benchmarks/space_search.py [--quick] [--out benchmarks/results/space_search.json]

Every case runs in a separate process, so that its peak memory is its own. The best of several runs is kept (one run if
it takes more than ten seconds).

  survivors  structures that need all factors, with ψ = 1, ω = 0 and ν < 1: the
             pruned search, as `einsearch enumerate --exactly --min-psi 1
             --max-omega 0 --max-nu '<1' --count`
  classify   ω, ψ, ν and normal form of all distinct structures, those that
             another number of factors can hold included: nothing is pruned
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from einsearch_cli.structures.grid import Grid
from einsearch_cli.structures.grid_counts import distinct_count
from einsearch_cli.structures.index_classes import IndexClasses
from einsearch_cli.taxonomy.criteria import Bounds
from einsearch_cli.taxonomy.limits import Limits, grid_limits
from einsearch_cli.taxonomy.search import Search

SPACES = [(2, q) for q in range(2, 13)] + [(3, q) for q in range(2, 7)] + [(4, q) for q in (1, 2)]
LONG_DISTINCT = 50_000_000
"""Spaces that --quick does not classify."""
RUNS = 3


def run_case(factors: int, grid: int, job: str) -> dict[str, Any]:
    """Search one space in this process."""
    started_s = time.perf_counter()
    classes = IndexClasses(factors)
    bounds = Bounds(Fraction(1), Fraction(0), 1 - Fraction(1, grid))
    limits = grid_limits(classes, grid, bounds) if job == "survivors" else Limits(reducible=True)
    found = sum(len(batch) for batch in Search(Grid(classes, grid), limits).batches())
    elapsed_s = time.perf_counter() - started_s
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"found": found, "elapsed_s": round(elapsed_s, 4), "peak_mib": round(peak_kib / 1024)}


def best_of(factors: int, grid: int, job: str) -> dict[str, Any]:
    """The fastest of several runs, each in a new process."""
    runs: list[dict[str, Any]] = []
    while len(runs) < RUNS and (not runs or runs[0]["elapsed_s"] < 10):
        words = [sys.executable, __file__, "--case", str(factors), str(grid), job]
        runs.append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    return min(runs, key=lambda run: run["elapsed_s"])


def measure(quick: bool) -> list[dict[str, Any]]:
    """All cases, printed as they are measured."""
    print(f"{'factors':>7}{'grid':>5}{'distinct':>13}  {'job':<10}{'found':>12}{'s':>9}{'MiB':>6}{'per s':>12}")
    rows = []
    for factors, grid in SPACES:
        distinct = distinct_count(factors, grid)
        for job in ("survivors", "classify"):
            if job == "classify" and quick and distinct > LONG_DISTINCT:
                continue
            run = best_of(factors, grid, job)
            if job == "classify" and run["found"] != distinct:
                raise SystemExit(f"{factors} factors, grid {grid}: {run['found']} structures, by Burnside {distinct}")
            rate = round(distinct / run["elapsed_s"])
            rows.append(
                {"factors": factors, "grid": grid, "distinct": distinct, "job": job, **run, "distinct_per_s": rate}
            )
            print(
                f"{factors:>7}{grid:>5}{distinct:>13,}  {job:<10}{run['found']:>12,}{run['elapsed_s']:>9.3f}"
                f"{run['peak_mib']:>6}{rate:>12,}",
                flush=True,
            )
    return rows


def main() -> None:
    """Measure, or run one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the classification of the largest spaces")
    parser.add_argument("--out", type=Path, help="write the figures as JSON to this file")
    parser.add_argument("--case", nargs=3, metavar=("FACTORS", "GRID", "JOB"), help="run one case and print JSON")
    options = parser.parse_args()
    if options.case:
        factors, grid, job = options.case
        print(json.dumps(run_case(int(factors), int(grid), job)))
        return
    rows = measure(options.quick)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system()}
    machine |= {"python": platform.python_version(), "numpy": np.__version__, "processes": 1}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"machine": machine, "cases": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
