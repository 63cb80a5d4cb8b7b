"""Speed of structured layers, forward + backward, beside dense and the bare matrix products.

    python benchmarks/layer_speed.py [--threads 1] [--rounds 15] [--compiled]

For every case the candidates run in turn, round after round, and the median of
each is kept, so that a slow moment of the machine hits all of them alike.

  layer     EinsumLinear with bias, forward + backward (input, factors, gain, bias)
  bare      the layer's matrix products alone (forward 1x, backward 2x) on
            contiguous operands of the same shapes: no views, copies, bias, scale
  dense     nn.Linear of the same widths, forward + backward
  compiled  torch.compile(layer), where asked for
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from einsearch_cli.layers import EinsumLinear

STRUCTURES = ("dense", "btt:r=1", "btt:r=4", "kronecker", "tt:r=4", "low-rank")
WIDTHS = (256, 1024)
TOKENS = (512, 4096)


def training_step(layer: nn.Module, tokens: int, width: int) -> Callable[[], None]:
    """Forward and backward of a layer on fresh gradients."""
    x = torch.randn(tokens, width, requires_grad=True)
    y_grad = torch.randn(tokens, width)

    def run() -> None:
        x.grad = None
        layer.zero_grad(set_to_none=True)
        layer(x).backward(y_grad)

    return run


def bare_products(layer: EinsumLinear, tokens: int) -> Callable[[], None]:
    """The products of `training_step` alone: B batch, R rows, K contracted, N new."""
    operands: list[tuple[Tensor, Tensor]] = []
    for step in layer.plan.steps:
        sizes = step.blocks.at(tokens)
        b, r, k = (sizes[axis] for axis in step.to_rows)
        n = step.weight_shape[1]
        rows_BRK, weight_BKN, grad_BRN = torch.randn(b, r, k), torch.randn(b, k, n), torch.randn(b, r, n)
        operands.append((rows_BRK, weight_BKN))
        operands.append((grad_BRN, weight_BKN.transpose(1, 2)))
        operands.append((rows_BRK.transpose(1, 2), grad_BRN))

    def run() -> None:
        for left, right in operands:
            torch.bmm(left, right)

    return run


def median_ms(candidates: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median duration of each candidate in milliseconds, over interleaved rounds after one warm-up."""
    durations_ms: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(rounds + 1):
        for name, run in candidates.items():
            started_s = time.perf_counter()
            run()
            if round_number:
                durations_ms[name].append(1e3 * (time.perf_counter() - started_s))
    return {name: statistics.median(values) for name, values in durations_ms.items()}


def main() -> None:
    """Measure every case and print one row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds per case")
    parser.add_argument("--compiled", action="store_true", help="also time torch.compile(layer)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s), float32, medians of {options.rounds} rounds, ms")
    names = ["layer", "bare", "dense"] + ["compiled"] * options.compiled
    columns = "".join(f"{name:>10}" for name in names)
    print(f"{'structure':<12}{'width':>6}{'tokens':>7}{columns}{'layer/bare':>12}{'layer/dense':>12}")
    for structure in STRUCTURES:
        for width in WIDTHS:
            for tokens in TOKENS:
                layer = EinsumLinear(width, width, structure)
                candidates = {
                    "layer": training_step(layer, tokens, width),
                    "bare": bare_products(layer, tokens),
                    "dense": training_step(nn.Linear(width, width), tokens, width),
                }
                if options.compiled:
                    torch.compiler.reset()
                    compiled: Any = torch.compile(layer, dynamic=False)
                    candidates["compiled"] = training_step(compiled, tokens, width)
                ms = median_ms(candidates, options.rounds)
                row = "".join(f"{ms[name]:10.2f}" for name in names)
                ratios = f"{ms['layer'] / ms['bare']:12.2f}{ms['layer'] / ms['dense']:12.2f}"
                print(f"{structure:<12}{width:>6}{tokens:>7}{row}{ratios}", flush=True)


if __name__ == "__main__":
    main()
