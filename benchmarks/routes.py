"""The losses of the planner: times of every route of a layer, and of the chosen one divided by the fastest.

    python benchmarks/routes.py [--widths 256 512 1024 2048 4096] [--rounds 5] [--busy] [--out benchmarks/results/routes.json]

Settings: float32, one thread; inference of merged layers and of others, and training. Routes of one case run in turn,
round after round. Times are medians over the rounds; with `--busy`, for a machine that others use, the fastest of them.
For layers that are not merged, matrices that take more FLOPs to merge than 32 dense products are left out. The
constants of the planner are the stored ones of this machine (`einsearch bench --calibrate`) or the defaults. The
defaults were chosen by a part of these cases: `benchmarks/constants.py` shows their losses in the others.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from einsearch_cli.files import write_atomically
from einsearch_cli.layers import EinsumLinear, merge
from einsearch_cli.layers.plans.machine_profile import profile_for
from einsearch_cli.layers.plans.planner import Route, Use, best_route, routes
from einsearch_cli.speed import Race
from einsearch_cli.speed.cases import MARKET
from einsearch_cli.speed.machine import machine_facts
from einsearch_cli.structures import parse_structure

CPU = torch.device("cpu")
TOKENS = {
    Use.merged: (1, 2, 4, 8, 16, 32, 64, 256, 1024),
    Use.inference: (1, 4, 16, 64, 256, 1024),
    Use.training: (4, 16, 64, 256, 1024),
}
MOST_ELEMENTS = 1 << 20
"""The most elements of an input; larger ones take long, and FLOPs decide their time."""
MOST_DENSE_PRODUCTS = 32


def infer(layer: EinsumLinear, x: Tensor) -> None:
    with torch.no_grad():
        layer(x)


def train(layer: EinsumLinear, x: Tensor, y_grad: Tensor) -> None:
    torch.autograd.grad(layer(x), [x, *layer.parameters()], y_grad)


def measure(structure: str, width: int, use: Use, tokens: int, words: argparse.Namespace) -> dict[str, Any]:
    is_training = use is Use.training
    x, y_grad = torch.randn(tokens, width, requires_grad=is_training), torch.randn(tokens, width)
    sized = parse_structure(structure).at(width, width)
    runs: dict[str, Callable[[], None]] = {}
    for route in routes(sized):
        if use is not Use.merged and _is_hopeless(route, width, tokens):
            continue
        layer = EinsumLinear(width, width, structure)
        layer.route = route.text
        if use is Use.merged:
            merge(layer)
        runs[route.text] = partial(train, layer, x, y_grad) if is_training else partial(infer, layer, x)
    race = Race(runs, CPU)
    race.run(words.rounds)
    time_of = min if words.busy else statistics.median
    seconds = {text: time_of(values) for text, values in race.durations_s.items()}
    chosen = best_route(sized, tokens, profile_for("cpu", 1, torch.float32), use).text
    return {
        "structure": structure,
        "width": width,
        "mode": use.value,
        "tokens": tokens,
        "seconds": seconds,
        "chosen": chosen,
        "loss": seconds.get(chosen, math.inf) / min(seconds.values()),
    }


def _is_hopeless(route: Route, width: int, tokens: int) -> bool:
    return route.flops_per_merge > MOST_DENSE_PRODUCTS * 2 * width**2 * tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--out", type=Path)
    words = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, Any]]] = {use.value: [] for use in TOKENS}
    for width in words.widths:
        for structure in MARKET[1:]:
            for use, numbers in TOKENS.items():
                small = (tokens for tokens in numbers if tokens * width <= MOST_ELEMENTS)
                found[use.value] += [measure(structure, width, use, tokens, words) for tokens in small]
            print(f"width {width:,}, {structure}", flush=True)
    for mode, cases in found.items():
        mean = math.exp(statistics.fmean(math.log(case["loss"]) for case in cases))
        print(f"{mode}: what is chosen takes {mean:.4f} of the fastest route's time over {len(cases)} cases; worst")
        for case in sorted(cases, key=lambda case: -case["loss"])[:5]:
            named = f"{case['structure']}, width {case['width']:,}, {case['tokens']:,} tokens"
            print(f"  {case['loss']:.2f}  {named}: {case['chosen']}")
    if words.out is not None:
        facts = machine_facts(CPU)
        text = json.dumps({"machine": facts, **found}, indent=1)
        write_atomically(words.out, text + "\n")


if __name__ == "__main__":
    main()
