"""One training step of narrow layers over `nn.Linear` of the same width: where calls, not arithmetic, decide.

    python benchmarks/narrow.py [--widths 32 48 64 96 128] [--rounds 31] [--out benchmarks/results/narrow.json]

float32, one thread, 512 rows; forward and backward pass with gradients of the input and of all parameters. All layers of a
width run in turn, round after round, on the clock of `speed.race`; a ratio is the median over the rounds of time over
`nn.Linear`'s in the same round. `MOST` says what a single layer may take.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from einsearch_cli.files import write_atomically
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.speed import Race
from einsearch_cli.speed.machine import machine_facts

CPU = torch.device("cpu")
ROWS = 512
LINEAR = "nn.Linear"
GENERIC = "(0.5|0.25|0.25|0.25|0.5|0.25|0)"
STRUCTURES = ("dense", "monarch", "kronecker", "low-rank", "tt:r=4", "btt:r=2", GENERIC)
WIDTHS = (32, 48, 64, 96, 128)
MOST = {"dense": 1.15}
MOST_OF_STRUCTURED = 1.6


def step(layer: nn.Module, width: int) -> Callable[[], None]:
    """One forward and backward pass whose gradients start afresh."""
    x, y_grad = torch.randn(ROWS, width, requires_grad=True), torch.randn(ROWS, width)
    leaves = (x, *layer.parameters())

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        layer(x).backward(y_grad)

    return run


def single(width: int, rounds: int) -> dict[str, float]:
    """Seconds of `nn.Linear`, and of the single layers the multiples of it."""
    layers = {LINEAR: nn.Linear(width, width), **{text: EinsumLinear(width, width, text) for text in STRUCTURES}}
    race = Race({name: step(layer, width) for name, layer in layers.items()}, CPU)
    race.run(rounds)
    base_s = race.durations_s.pop(LINEAR)
    ratios = {
        name: statistics.median(own / base for own, base in zip(values, base_s, strict=True))
        for name, values in race.durations_s.items()
    }
    return {LINEAR: statistics.median(base_s), **ratios}


def main() -> None:
    """Measure every width, print a row for each, and say which layers take more than they may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--out", type=Path)
    words = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    singles: dict[int, dict[str, float]] = {}
    print(f"{'width':>5} {'us':>6}  " + "  ".join(f"{name[:9]:>9}" for name in STRUCTURES), flush=True)
    for width in words.widths:
        singles[width] = found = single(width, words.rounds)
        ratios = "  ".join(f"{found[name]:9.2f}" for name in STRUCTURES)
        print(f"{width:>5} {1e6 * found[LINEAR]:6.1f}  {ratios}", flush=True)
    slow = [
        f"{name} at {width}"
        for width, found in singles.items()
        for name in STRUCTURES
        if found[name] > MOST.get(name, MOST_OF_STRUCTURED)
    ]
    print("slower than the target: " + (", ".join(slow) or "none"))
    if words.out is not None:
        found_text = json.dumps({"machine": machine_facts(CPU), "rows": ROWS, "single": singles}, indent=1)
        write_atomically(words.out, found_text + "\n")


if __name__ == "__main__":
    main()
