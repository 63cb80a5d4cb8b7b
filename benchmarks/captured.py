"""Training steps of layers on a GPU in three ways: operation by operation, compiled, and captured in a CUDA graph.

    python benchmarks/captured.py [--widths 1024 4096 8192] [--rounds 9] [--out benchmarks/results/captured-h200.json]

Settings: bfloat16, 16,384 tokens, forward and backward pass. A step of a narrow layer takes the host longer than the
GPU. A captured step replays all of its kernels at once, so it shows the GPU's part. The ways of one layer, the captured
`nn.Linear` and the captured bare products run in turn, round after round; ratios to these two are medians over the
rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from einsearch_cli.files import write_atomically
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.speed import Race
from einsearch_cli.speed.bare import arenas_for, bare_products
from einsearch_cli.speed.cases import MARKET, Case, Mode
from einsearch_cli.speed.machine import machine_facts
from einsearch_cli.speed.results import Spread

TOKENS = 16_384
Step = Callable[[], object]


def training_step(layer: Callable[[Tensor], Tensor], parameters: list[nn.Parameter], x: Tensor, grad: Tensor) -> Step:
    def run() -> None:
        torch.autograd.grad(layer(x), [x, *parameters], grad)

    return run


def captured(step: Step) -> Step:
    """The step as a captured CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def measure(width: int, rounds: int) -> list[dict[str, Any]]:
    device, dtype = torch.device("cuda"), torch.bfloat16
    x = torch.randn(TOKENS, width, device=device, dtype=dtype, requires_grad=True)
    grad = torch.randn(TOKENS, width, device=device, dtype=dtype)
    case = Case(mode=Mode.training, width=width, tokens=TOKENS)
    results = []
    dense = nn.Linear(width, width, device=device, dtype=dtype)
    dense_step = captured(training_step(dense, list(dense.parameters()), x, grad))
    for text in MARKET:
        layer = EinsumLinear(width, width, text, device=device, dtype=dtype)
        step = training_step(layer, list(layer.parameters()), x, grad)
        torch.compiler.reset()
        compiled = training_step(torch.compile(layer, fullgraph=True), list(layer.parameters()), x, grad)
        bare = bare_products(layer.plan, case, arenas_for([layer.plan], TOKENS, device, dtype))
        race = Race(
            {
                "eager": step,
                "compiled": compiled,
                "captured": captured(step),
                "captured bare": captured(bare),
                "captured dense": dense_step,
            },
            device,
        )
        race.run(rounds)
        times = race.durations_s
        results.append(
            {
                "name": text,
                "width": width,
                "seconds": {way: Spread.of(values).median for way, values in times.items()},
                "captured_vs_bare": Spread.of_ratios(times["captured"], times["captured bare"]).median,
                "captured_vs_dense": Spread.of_ratios(times["captured"], times["captured dense"]).median,
            }
        )
        print(json.dumps(results[-1]), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: this torch sees no CUDA device\ntry: a torch with CUDA on a machine with an NVIDIA GPU")
    results = [result for width in arguments.widths for result in measure(width, arguments.rounds)]
    if arguments.out is not None:
        facts = machine_facts(torch.device("cuda"))
        settings = {"dtype": "bfloat16", "tokens": TOKENS, "rounds": arguments.rounds}
        text = json.dumps({"machine": facts, "settings": settings, "measurements": results}, indent=1)
        write_atomically(arguments.out, text + "\n")


if __name__ == "__main__":
    main()
