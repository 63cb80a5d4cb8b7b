"""Choose round numbers as the planner's constants for CPUs by stored times of routes, and measure what they lose.

    python benchmarks/constants.py benchmarks/results/routes.json benchmarks/results/routes-xeon.json

A combination of constants is judged by its choices, at the times that `benchmarks/routes.py` measured for every route.
All combinations of the round numbers below are compared on cases where neither width nor structure is held out; each
machine and use counts equally. Ties go to the combination that predicts the times best. Narrow layers, which these
files do not contain, must train by the matrix of their factors. The table shows the time of the chosen routes divided
by that of the fastest ones (geometric means), separately for cases of a held-out width or structure.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU, WIDTHS, MachineProfile
from einsearch_cli.layers.plans.planner import Use, best_route, predicted_ns, routes
from einsearch_cli.structures import parse_structure

HELD_OUT_WIDTHS = (512, 2048)
HELD_OUT_STRUCTURES = ("btt:n=3", "low-rank", "tt:r=4", "(0.5|0.25|0.25|0.25|0.5|0.25|0)")
ROUND: dict[str, tuple[float, ...]] = {
    "layer_ns": (2_000, 5_000, 10_000, 20_000),
    "step_ns": (2_000, 5_000, 10_000),
    "matrix_ns": (50, 100, 200),
    "mac_ns of 4": (0.1, 0.2, 0.5, 1.0),
    "mac_ns of 8": (0.05, 0.1),
    "mac_ns of 16 and more": (0.01, 0.02, 0.05),
    "cached_weight_ns": (0.05, 0.1, 0.2),
    "memory_weight_ns": (0.2, 0.5),
    "copy_ns": (0.1, 0.2),
    "run_ns": (2, 5),
}
NARROW = ("monarch", "btt:r=2", "kronecker", "low-rank")
CACHES = (2e6, 2e7)
MARGINS = (0.8, 1.0)
Array = NDArray[np.float64]
Chosen = tuple[Array, float, float]
"""Constants in the order of `ROUND`, bytes of the cache, and the dense matrix's margin."""


class Fold(NamedTuple):
    """Cases of one machine and use: an array (cases, routes, constants) of nanoseconds per unit of every constant."""

    unit_ns: dict[float, Array]
    """Nanoseconds by the bytes of the cache, which is not a factor but a limit."""
    absent_ns: Array
    """Infinite if a case has no such route, else zero."""
    is_dense: NDArray[np.bool_]
    seconds: Array
    """Measured seconds; infinite if there is no such route, or it was not measured."""

    def lost(self, constants: Array, cache: float, margin: float) -> Array:
        """Log of the chosen route's time divided by that of the fastest, case by case."""
        predicted_ns = self.unit_ns[cache] @ constants + self.absent_ns
        chosen = np.argmin(np.where(self.is_dense, margin * predicted_ns, predicted_ns), axis=1)
        ratios: Array = self.seconds[np.arange(len(chosen)), chosen] / self.seconds.min(axis=1)
        return np.log(ratios)

    def error(self, constants: Array, cache: float, _margin: float) -> float:
        """Root mean square of log(predicted / measured time), up to a common factor."""
        there = np.isfinite(self.seconds)
        ratios = np.log((self.unit_ns[cache] @ constants)[there] / self.seconds[there])
        return float(ratios.std())


def profile_of(constants: Sequence[float], cache: float) -> MachineProfile:
    layer, step, matrix, narrowest, narrow, wide, cached, memory, copy, run = constants
    return replace(
        DEFAULT_CPU,
        layer_ns=layer,
        step_ns=step,
        matrix_ns=matrix,
        mac_ns=(narrowest, narrow, *[wide] * (len(WIDTHS) - 2)),
        cached_weight_ns=cached,
        memory_weight_ns=memory,
        cache_bytes=cache,
        copy_ns=copy,
        run_ns=run,
    )


def fold_of(cases: Sequence[Mapping[str, Any]]) -> Fold:
    units = np.eye(len(ROUND)).tolist()
    found = [(case, routes(parse_structure(case["structure"]).at(case["width"], case["width"]))) for case in cases]
    most = max(len(known) for _, known in found)
    unit_ns = {cache: np.zeros((len(cases), most, len(units))) for cache in CACHES}
    absent_ns, seconds = np.full((len(cases), most), np.inf), np.full((len(cases), most), np.inf)
    is_dense = np.zeros((len(cases), most), dtype=bool)
    for row, (case, known) in enumerate(found):
        sized = parse_structure(case["structure"]).at(case["width"], case["width"])
        for column, route in enumerate(known):
            absent_ns[row, column] = 0.0
            is_dense[row, column] = route.is_dense
            seconds[row, column] = case["seconds"].get(route.text, math.inf)
            for cache, values in unit_ns.items():
                values[row, column] = [
                    predicted_ns(sized, route, case["tokens"], profile_of(unit, cache), Use(case["mode"]))
                    for unit in units
                ]
    return Fold(unit_ns, absent_ns, is_dense, seconds)


def is_held_out(case: Mapping[str, Any]) -> bool:
    return case["width"] in HELD_OUT_WIDTHS or case["structure"] in HELD_OUT_STRUCTURES


def combinations() -> Iterator[Chosen]:
    for values in product(*ROUND.values()):
        for cache, margin in product(CACHES, MARGINS):
            yield np.array(values), cache, margin


def forms_narrow_layers(constants: Array, cache: float, _margin: float) -> bool:
    """Whether narrow layers train by the matrix of their factors even without the margin."""
    profile = replace(profile_of(constants.tolist(), cache), dense_margin=1.0)
    layers = [parse_structure(text).at(width, width) for text in NARROW for width in (32, 48)]
    return all(best_route(sized, 512, profile, Use.training).is_dense for sized in layers)


def main(paths: Sequence[str]) -> None:
    fits: list[Fold] = []
    rows: list[tuple[str, Fold]] = []
    for path in paths:
        stored = json.loads(Path(path).read_text())
        for use in Use:
            cases = stored.get(use.value, [])
            parts = {
                "fit": [case for case in cases if not is_held_out(case)],
                "held-out widths": [case for case in cases if case["width"] in HELD_OUT_WIDTHS],
                "held-out structures": [case for case in cases if case["structure"] in HELD_OUT_STRUCTURES],
                "all held out": [case for case in cases if is_held_out(case)],
            }
            folds = {name: fold_of(part) for name, part in parts.items() if part}
            fits += [fold for name, fold in folds.items() if name == "fit"]
            rows += [(f"{Path(path).stem}, {use.value}, {name}", fold) for name, fold in folds.items()]
    costs = [(float(np.mean([fold.lost(*each).mean() for fold in fits])), each) for each in combinations()]
    by_loss: dict[float, list[Chosen]] = {}
    for cost, each in costs:
        by_loss.setdefault(round(cost, 6), []).append(each)
    ordered = (
        each
        for _, equal in sorted(by_loss.items())
        for each in sorted(equal, key=lambda each: sum(fold.error(*each) for fold in fits))
    )
    best = next(each for each in ordered if forms_narrow_layers(*each))
    print(f"{len(costs):,} combinations; the best one:")
    print(*(f"  {name} {value:g}" for name, value in zip(ROUND, best[0].tolist(), strict=True)))
    print(f"   cache_bytes {best[1]:g}   dense_margin {best[2]:g}")
    default = DEFAULT_CPU.mac_ns
    of_default = [getattr(DEFAULT_CPU, name) for name in ROUND if not name.startswith("mac_ns")]
    constants = np.array([*of_default[:3], *default[:3], *of_default[3:]])
    current = constants, DEFAULT_CPU.cache_bytes, DEFAULT_CPU.dense_margin
    for name, fold in rows:
        lost, of_defaults = fold.lost(*best), fold.lost(*current)
        print(
            f"{name}: {len(lost)} cases, {math.exp(lost.mean()):.4f}, worst {math.exp(lost.max()):.2f}; "
            f"defaults {math.exp(of_defaults.mean()):.4f}, worst {math.exp(of_defaults.max()):.2f}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
