"""The cost of a guide in a training step, and the time of projections: CPU time on one thread.

python benchmarks/guide_and_projection.py [--width 1024] [--tokens 2048]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from einsearch_cli.guided import SelfGuidedLinear
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.projection import project_

ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=2048)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    structures = [f"low-rank:r={options.width // 4}", "block-shuffle:blocks=4", "btt:r=2"]
    for structure in structures:
        _guide(structure, options.width, options.tokens)
    searched = ["kronecker:n=3", "monarch:n=3", "btt:n=3,r=2"]
    for structure in [*structures, "block-dense:blocks=4,r=256", "monarch", "kronecker", "tt:r=4", *searched]:
        _projection(structure, options.width)


def _guide(structure: str, width: int, tokens: int) -> None:
    layers: dict[str, nn.Module] = {
        "dense": nn.Linear(width, 4 * width),
        "structured": EinsumLinear(width, 4 * width, structure),
        "guide evaluated": SelfGuidedLinear(EinsumLinear(width, 4 * width, structure)),
        "guide skipped": SelfGuidedLinear(EinsumLinear(width, 4 * width, structure)),
    }
    for name in ("guide evaluated", "guide skipped"):
        layers[name].set_weight(0.5, evaluate=name == "guide evaluated")  # type: ignore[operator]
    x = torch.randn(tokens, width, requires_grad=True)
    grad = torch.randn(tokens, 4 * width)
    times: dict[str, list[float]] = {name: [] for name in layers}
    for _ in range(ROUNDS):
        for name, layer in layers.items():
            times[name].append(_seconds(lambda layer=layer: layer(x).backward(grad)))  # type: ignore[misc]
    shown = ", ".join(f"{name} {1e3 * statistics.median(seconds):.0f} ms" for name, seconds in times.items())
    print(f"{structure}, {width} -> {4 * width}, {tokens} tokens, forward and backward: {shown}")


def _projection(structure: str, width: int) -> None:
    layer = EinsumLinear(width, width, structure)
    random = nn.Linear(width, width).weight.detach()
    found = project_(layer, random)
    seconds = _seconds(lambda: project_(layer, random))
    member = EinsumLinear(width, width, structure).to_dense().detach()
    again = project_(layer, member)
    print(
        f"{structure}, {width}: {layer.sized.params / width**2:.1%} of the parameters, random matrix "
        f"{found.relative_error:.4f}, member of the structure {again.relative_error:.1e}, {seconds:.2f} s"
    )


def _seconds(run: Callable[[], object]) -> float:
    started_s = time.process_time()
    run()
    return time.process_time() - started_s


if __name__ == "__main__":
    main()
