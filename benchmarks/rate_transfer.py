"""Do learning rates of the factors transfer over widths, and does it matter? Spectral muP against two simpler rules.

    python -m benchmarks.rate_transfer --out benchmarks/results/rate_transfer.json
    python -m benchmarks.rate_transfer --read benchmarks/results/rate_transfer.json

The student of the teacher task trains for the same number of steps at every width, from the same seeds, at rates a
factor of 2 apart. There are three rules:

- `factors`: every factor has its own rate, as in this project;
- `layers`: every factor has the rate of a dense layer of its shape, which falls as 1/width;
- `one`: all parameters have the base rate at every width.

The table gives the best loss of every width with its rate, and the loss at the widest one if the rate is the best one
of the narrowest.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import torch
from tabulate import tabulate

from einsearch_cli.files import write_atomically
from einsearch_cli.search.job import Job, TrialFinished, TrialSetup, run_pack
from einsearch_cli.speed.machine import machine_facts
from einsearch_cli.structures import parse_layer
from einsearch_cli.tasks import open_task
from einsearch_cli.training.optimizers import find_optimizer, optimizer_names, register
from einsearch_cli.training.proxy.trial import Trial

if TYPE_CHECKING:
    from einsearch_cli.models import StructuredNetwork
    from einsearch_cli.training.groups import Options

RULES = {"factors": "adamw", "layers": "adamw-rate-of-a-layer", "one": "adamw-one-rate"}
STRUCTURES = ("dense", "monarch", "btt:r=2", "low-rank", "kronecker")
RATES = tuple(2.0**power for power in range(-4, 5))


def register_rules() -> None:
    """The two simpler rules, as optimizers."""
    from einsearch_cli.training.groups import parameter_options

    class Simpler(type(find_optimizer("adamw"))):  # type: ignore[misc]
        of_layers = True

        def options(
            self, model: StructuredNetwork, *, base_width: int, learning_rate: float, weight_decay: float
        ) -> dict[str, Options]:
            multipliers = {}
            for name, value in model.learning_rate_multipliers(base_width).items():
                layer = name.partition(".factors.")[0]
                dense = base_width / model.width if model.fan_in_scales(layer) else 1.0
                multipliers[name] = (dense if ".factors." in name else value) if self.of_layers else 1.0
            return parameter_options(model, multipliers, learning_rate=learning_rate, weight_decay=weight_decay)

    for rule, of_layers in (("layers", True), ("one", False)):
        if RULES[rule] not in optimizer_names():
            kind = type(rule, (Simpler,), {"name": RULES[rule], "of_layers": of_layers})
            register(kind())


def trained(rule: str, structure: str, width: int, seeds: int, steps: int) -> Iterator[dict[str, Any]]:
    """Runs of one network at all rates and seeds."""
    task = open_task("teacher")
    layer = parse_layer(structure)
    step_flops = task.count(layer, width).training.linears * task.tokens_per_batch
    trials = [
        Trial(layer, width, seed, 0, step_flops * (steps + 0.5), rate=rate) for rate in RATES for seed in range(seeds)
    ]
    setup = TrialSetup("teacher", optimizer={"name": RULES[rule]}, pack=len(trials))
    found: list[TrialFinished] = []
    jobs = [Job(number, trial) for number, trial in enumerate(trials)]
    run_pack(jobs, setup, lambda event: found.append(event) if isinstance(event, TrialFinished) else None)
    for event in found:
        result = event.result
        yield {
            "rule": rule,
            "structure": structure,
            "width": width,
            "rate": result.trial.rate,
            "seed": result.trial.seed,
            "steps": result.steps,
            "loss": result.loss if result.status == "ok" else math.inf,
        }


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each rule and structure."""
    rows = []
    widths = sorted({run["width"] for run in runs})
    for rule in RULES:
        for structure in dict.fromkeys(run["structure"] for run in runs):
            losses: dict[tuple[int, float], list[float]] = {}
            for run in runs:
                if (run["rule"], run["structure"]) == (rule, structure):
                    losses.setdefault((run["width"], run["rate"]), []).append(run["loss"])
            if not losses:
                continue
            best = {
                width: min((rate for at, rate in losses if at == width), key=lambda rate: fmean(losses[width, rate]))
                for width in widths
            }
            widest, carried = losses[widths[-1], best[widths[-1]]], losses[widths[-1], best[widths[0]]]
            rows.append(
                {
                    "rule": rule,
                    "structure": structure,
                    "best rate by width": {width: best[width] for width in widths},
                    "best loss by width": {width: fmean(losses[width, best[width]]) for width in widths},
                    "deviation at the widest": stdev(widest) if len(widest) > 1 else None,
                    "lost by the rate of the narrowest": fmean(carried) / fmean(widest) - 1,
                    "at the edge": any(rate in (RATES[0], RATES[-1]) for rate in best.values()),
                }
            )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The summary for a terminal."""
    cells = [
        [
            row["rule"],
            row["structure"],
            " / ".join(f"{rate:g}" for rate in row["best rate by width"].values()),
            " / ".join(f"{loss:.4g}" for loss in row["best loss by width"].values()),
            f"{row['lost by the rate of the narrowest']:+.1%}",
            "yes" if row["at the edge"] else "",
        ]
        for row in rows
    ]
    heads = ["rule", "structure", "best rates", "best losses", "lost at the widest by the narrowest's rate", "edge"]
    return tabulate(cells, heads, tablefmt="github")


def main() -> None:
    """Train, write, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--read", type=Path, help="show a stored file")
    options = parser.parse_args()
    if options.read:
        print(table(summary(json.loads(options.read.read_text())["runs"])))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    register_rules()
    runs: list[dict[str, Any]] = []
    for width in options.widths:
        for structure in STRUCTURES:
            for rule in RULES:
                runs += trained(rule, structure, width, options.seeds, options.steps)
                print(f"{rule}, {structure}, width {width}: {len(runs)} runs", flush=True)
        if options.out:
            found = {
                "machine": machine_facts(torch.device("cpu")),
                "steps": options.steps,
                "summary": summary(runs),
                "runs": runs,
            }
            write_atomically(options.out, json.dumps(found, indent=1, allow_nan=True))
    print(table(summary(runs)))


if __name__ == "__main__":
    main()
