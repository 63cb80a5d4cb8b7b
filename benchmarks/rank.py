"""Generic ranks: how often they are below the smallest cut, and how long their computation takes.

    OPENBLAS_NUM_THREADS=1 python benchmarks/rank.py [--networks 10000] [--factors 2 3] [--widths 256 1024] [--svd]

The first table takes random networks (every carrier set with probability 0.4,
sizes 2 to 5, d_in and d_out at most 40) and counts those whose generic rank is
below the bound by cuts. The second times the exact rank of layers, with --svd
also singular values in float64. Where other work competes for the cores, one
thread is faster than two.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from einsearch_cli.sizing.cut_bounds import cut_bound
from einsearch_cli.sizing.generic_rank import generic_rank
from einsearch_cli.sizing.modular import PRIMES, rank_mod
from einsearch_cli.sizing.random_matrix import random_matrix
from einsearch_cli.structures import parse_structure
from einsearch_cli.structures.normal_form import carrier_classes, text_of_carriers

STRUCTURES = ("dense", "btt:r=1", "btt:r=4", "kronecker", "low-rank:r=64")
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
    """The shortest of several runs, in seconds."""
    times_s = []
    for _ in range(rounds):
        started_s = time.perf_counter()
        run()
        times_s.append(time.perf_counter() - started_s)
    return min(times_s)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=10_000, help="random networks per number of factors")
    parser.add_argument("--factors", type=int, nargs="*", default=[2, 3], help="numbers of factors")
    parser.add_argument("--widths", type=int, nargs="*", default=[256, 1024], help="d_in = d_out of the layers")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs per layer; the best counts")
    parser.add_argument("--svd", action="store_true", help="also time singular values in float64")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for factors in options.factors:
        found = shortfalls(random.Random(options.seed), factors, options.networks)
        share = f"1 in {found.networks // found.below:,}" if found.below else "none"
        print(
            f"{factors} factors: {found.networks:,} networks, {found.above} above the bound, {found.below} below: {share}"
        )
        for sizes, bound, rank in found.examples[:3]:
            print(f"   {' '.join(f'{c}={size}' for c, size in sizes.items())}: bound {bound}, rank {rank}")
    for width in options.widths:
        for text in STRUCTURES:
            sized = parse_structure(text).at(width, width)
            rank = generic_rank(sized).rank
            seconds = best_s(partial(generic_rank, sized), options.rounds)
            print(f"{text:<14}{width:>6} rank {rank:>5} {seconds:8.3f} s")
        if options.svd:
            matrix = np.random.default_rng(0).normal(size=(width, width))
            seconds = best_s(partial(np.linalg.svd, matrix, compute_uv=False), options.rounds)
            print(f"{'svd':<14}{width:>6}            {seconds:8.3f} s", flush=True)


if __name__ == "__main__":
    main()
