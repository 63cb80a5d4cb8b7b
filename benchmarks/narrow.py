"""The time of one training step of narrow layers divided by that of `nn.Linear`: calls dominate, not arithmetic.

    python benchmarks/narrow.py [--widths 32 48 64 96 128] [--rounds 31] [--kinds single packed]
        [--out benchmarks/results/narrow.json]

Settings: float32, one thread, 512 rows; forward and backward pass with gradients of the input and of all parameters.
All layers of a width run in turn, round after round, on the clock of `speed.race`; a ratio is the median over the
rounds of time divided by that of `nn.Linear` in the same round. `MOST` is the limit of a single layer. `MOST_PACKED` is
the limit of each of `RUNS` layers that step together as a program (`training.proxy.program`), as narrow runs of a study
train.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from einsearch_cli.files import write_atomically
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.machine import retain_memory
from einsearch_cli.speed import Race
from einsearch_cli.speed.machine import machine_facts
from einsearch_cli.training.flat_update import FlatLayout
from einsearch_cli.training.proxy.packing import fix_routes
from einsearch_cli.training.proxy.program import without_python, written_down

CPU = torch.device("cpu")
ROWS = 512
LINEAR = "nn.Linear"
GENERIC = "(0.5|0.25|0.25|0.25|0.5|0.25|0)"
STRUCTURES = ("dense", "monarch", "kronecker", "low-rank", "tt:r=4", "btt:r=2", GENERIC)
WIDTHS = (32, 48, 64, 96, 128)
MOST = {"dense": 1.15}
MOST_OF_STRUCTURED = 1.6
RUNS = 6
MOST_PACKED = 0.9


def step(layer: nn.Module, width: int) -> Callable[[], None]:
    """One forward and backward pass with new gradients."""
    x, y_grad = torch.randn(ROWS, width, requires_grad=True), torch.randn(ROWS, width)
    leaves = (x, *layer.parameters())

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        layer(x).backward(y_grad)

    return run


def packed_step(text: str, width: int) -> Callable[[], None]:
    """One forward and backward pass of `RUNS` layers as a program."""
    layers = [EinsumLinear(width, width, text) for _ in range(RUNS)]
    layout = FlatLayout.of(layers[0], {name: {} for name, _ in layers[0].named_parameters()})
    values = layout.rows(layers)
    fix_routes(layers[0])
    x, y_grad = torch.randn(RUNS, ROWS, width), torch.randn(RUNS, ROWS, width)

    def gradients(values: Tensor, x: Tensor, y_grad: Tensor) -> tuple[Tensor, ...]:
        leaves = values.detach().requires_grad_(), x.detach().requires_grad_()
        y = vmap(lambda row, x: functional_call(layers[0], layout.split(row), (x,)))(*leaves)
        return torch.autograd.grad(y, leaves, y_grad)

    program = without_python(written_down(gradients, values, x, y_grad), values, x, y_grad)

    def run() -> None:
        with torch.no_grad():
            program(values, x, y_grad)

    return run


def single(width: int, rounds: int) -> dict[str, float]:
    """Seconds of `nn.Linear`, and the times of single layers as multiples of it."""
    return raced({text: step(EinsumLinear(width, width, text), width) for text in STRUCTURES}, width, rounds)


def packed(width: int, rounds: int) -> dict[str, float]:
    """Ratios for one of several layers that step as one batch."""
    found = raced({text: packed_step(text, width) for text in STRUCTURES}, width, rounds)
    return {name: value if name == LINEAR else value / RUNS for name, value in found.items()}


def raced(steps: dict[str, Callable[[], None]], width: int, rounds: int) -> dict[str, float]:
    """Seconds of `nn.Linear`, and the times of the steps as multiples of it."""
    race = Race({LINEAR: step(nn.Linear(width, width), width), **steps}, CPU)
    race.run(rounds)
    base_s = race.durations_s.pop(LINEAR)
    ratios = {
        name: statistics.median(own / base for own, base in zip(values, base_s, strict=True))
        for name, values in race.durations_s.items()
    }
    return {LINEAR: statistics.median(base_s), **ratios}


def main() -> None:
    """Measure every width, print a row for each, and name the layers that exceed their limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--kinds", nargs="+", choices=("single", "packed"), default=("single", "packed"))
    parser.add_argument("--out", type=Path, help="add the figures to this JSON file; those of the other kind stay")
    words = parser.parse_args()
    retain_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kinds = {"single": single, "packed": packed}
    results: dict[str, dict[int, dict[str, float]]] = {kind: {} for kind in words.kinds}
    for kind in words.kinds:
        print(f"{kind:<6} {'us':>6}  " + "  ".join(f"{name[:9]:>9}" for name in STRUCTURES), flush=True)
        for width in words.widths:
            results[kind][width] = found = kinds[kind](width, words.rounds)
            ratios = "  ".join(f"{found[name]:9.2f}" for name in STRUCTURES)
            print(f"{width:>6} {1e6 * found[LINEAR]:6.1f}  {ratios}", flush=True)
    slow = [
        f"{kind} {name} at {width}"
        for kind, widths in results.items()
        for width, found in widths.items()
        for name in STRUCTURES
        if found[name] > (MOST_PACKED if kind == "packed" else MOST.get(name, MOST_OF_STRUCTURED))
    ]
    print("slower than the target: " + (", ".join(slow) or "none"))
    if words.out is not None:
        before = json.loads(words.out.read_text()) if words.out.exists() else {}
        found_text = json.dumps(
            before | {"machine": machine_facts(CPU), "rows": ROWS, "runs": RUNS, **results}, indent=1
        )
        write_atomically(words.out, found_text + "\n")


if __name__ == "__main__":
    main()
