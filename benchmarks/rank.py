"""Generic ranks: how often they are below the smallest cut, and how long their computation takes.

    OPENBLAS_NUM_THREADS=1 python benchmarks/rank.py [--networks 20000] [--factors 2 3 4] [--widths 256 1024 2048]
        [--out benchmarks/results/rank.json]

The first table takes random networks (every carrier set with probability 0.4,
sizes 2 to 5, d_in and d_out at most 40) and counts those whose generic rank is
below the bound by cuts. The second has the CPU seconds of the exact rank of layers,
and of the singular values of a matrix of that size in float64.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from einsearch_cli.files import write_atomically
from einsearch_cli.machine import processor_name
from einsearch_cli.sizing.cut_bounds import cut_bound
from einsearch_cli.sizing.generic_rank import generic_rank
from einsearch_cli.sizing.modular import PRIMES, rank_mod
from einsearch_cli.sizing.random_matrix import random_matrix
from einsearch_cli.structures import parse_structure
from einsearch_cli.structures.normal_form import carrier_classes, text_of_carriers

STRUCTURES = ("dense", "monarch", "low-rank:r=64")
_TRIALS = 3


@dataclass(frozen=True, slots=True)
class Shortfalls:
    """Ranks of random networks compared with the smallest cut."""

    networks: int
    below: int
    above: int
    """Number of ranks above the bound, which must be 0."""
    examples: tuple[tuple[dict[str, int], int, int], ...]
    """Sizes, bound and rank of the networks below the bound."""


def random_network(source: random.Random, factors: int, largest: int = 40) -> dict[str, int]:
    """Sizes from 2 to 5 for a random choice of carrier sets, d_in and d_out at most `largest`, every factor used."""
    classes = [text_of_carriers(carriers) for carriers in carrier_classes(factors)]
    while True:
        sizes = {c: source.randint(2, 5) for c in classes if source.random() < 0.4}
        products = [math.prod(size for c, size in sizes.items() if side in c) for side in "XY"]
        if all(1 < product <= largest for product in products) and len(set("".join(sizes))) == factors + 2:
            return sizes


def shortfalls(source: random.Random, factors: int, networks: int) -> Shortfalls:
    """Compare rank and bound of random networks; a shortfall counts if three primes agree on it."""
    above = 0
    examples = []
    for _ in range(networks):
        sizes = random_network(source, factors)
        bound, rank = cut_bound(sizes), 0
        for seed in range(_TRIALS):
            rank = max(rank, rank_mod(random_matrix(sizes, PRIMES[seed], source.randrange(2**32)), PRIMES[seed]))
            if rank >= bound:
                break
        above += rank > bound
        if rank < bound:
            examples.append((sizes, bound, rank))
    return Shortfalls(networks, len(examples), above, tuple(examples))


def best_s(run: Callable[[], object], rounds: int) -> float:
    """The CPU seconds of the shortest of several runs: other work on the machine hardly counts."""
    times_s = []
    for _ in range(rounds):
        started_s = time.process_time()
        run()
        times_s.append(time.process_time() - started_s)
    return min(times_s)


def main() -> None:
    """Print both tables, and keep their figures if a file is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=20_000, help="random networks per number of factors")
    parser.add_argument("--factors", type=int, nargs="*", default=[2, 3, 4], help="numbers of factors")
    parser.add_argument("--widths", type=int, nargs="*", default=[256, 1024, 2048], help="d_in = d_out of the layers")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs per layer; the best counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args()
    machine = {"processor": processor_name(), "numpy": np.__version__}
    found: dict[str, Any] = {**machine, "seed": options.seed, "networks": [], "seconds": []}
    for factors in options.factors:
        counts = shortfalls(random.Random(options.seed), factors, options.networks)
        share = f"1 in {counts.networks // counts.below:,}" if counts.below else "none"
        print(
            f"{factors} factors: {counts.networks:,} networks, {counts.above} above the bound, {counts.below} below: {share}"
        )
        for sizes, bound, rank in counts.examples[:3]:
            print(f"   {' '.join(f'{c}={size}' for c, size in sizes.items())}: bound {bound}, rank {rank}")
        numbers = {"networks": counts.networks, "above": counts.above, "below": counts.below}
        found["networks"].append({"factors": factors, **numbers})
    for width in options.widths:
        seconds = {}
        for text in STRUCTURES:
            sized = parse_structure(text).at(width, width)
            seconds[text] = best_s(partial(generic_rank, sized), options.rounds)
        matrix = np.random.default_rng(0).normal(size=(width, width))
        seconds["singular values"] = best_s(partial(np.linalg.svd, matrix, compute_uv=False), options.rounds)
        found["seconds"].append({"width": width, **seconds})
        print(f"width {width}: {', '.join(f'{text} {value:.3f} s' for text, value in seconds.items())}", flush=True)
    if options.out:
        write_atomically(options.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
