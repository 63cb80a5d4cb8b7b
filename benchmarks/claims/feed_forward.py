"""Structured feed-forward networks: claims of Wei et al. 2024 on steeper curves and on overtraining."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.claims.inference import Claim, of_units
from benchmarks.claims.rows import FOUNDATIONS, Draft, percent, published_size, said, trained_scale
from benchmarks.claims.studies import Store, TrainedRuns


def _sized(runs: TrainedRuns) -> tuple[list[str], list[int]]:
    """Structures but dense, and sizes, of runs that are called STRUCTURE-SIZE."""
    split = [name.rpartition("-")[::2] for name in runs.names]
    kinds = [kind for kind in dict.fromkeys(kind for kind, _ in split) if kind != "dense"]
    return kinds, sorted({int(size) for _, size in split})


def steeper_rows(store: Store) -> Iterator[Draft]:
    """Are the curves of structured feed-forward networks steeper?"""
    runs = store.trained("ffn")
    if runs is None:
        return
    kinds, sizes = _sized(runs)
    by_seed: list[list[float]] = []
    equal: list[list[float]] = []
    used: set[str] = set()
    whole, complete = runs.complete(("dense", *kinds), sizes, least=2)
    for mine in complete:
        used |= {f"{kind}-{size}" for kind in ("dense", *kinds) for size in whole}
        lines = {kind: _line(mine, kind, whole) for kind in ("dense", *kinds)}
        by_seed.append([lines[kind] - lines["dense"] for kind in kinds])
        equal.append([_at_equal_flops(mine, kind, whole) for kind in kinds] if len(whole) > 2 else [])
    found = of_units(by_seed, "structures")
    if found is None:
        return
    at_equal = of_units(equal, "structures")
    yield Draft(
        key="steeper",
        topic="steeper",
        claim="Structured feed-forward networks have steeper curves in training FLOPs",
        published="steeper curves for all three structures",
        source=f"{FOUNDATIONS}, abstract",
        effect=(
            f"slope of log loss over log FLOPs minus dense's, mean of {len(kinds)} structures, "
            f"widths {', '.join(map(str, whole))}"
        ),
        says=Claim("below"),
        found=found,
        study="ffn",
        **trained_scale(runs, sorted(used)),
        control=(
            "Cheaper networks stand to the left, where every curve is steeper. "
            + (
                "Three sizes are needed to read slopes at equal FLOPs."
                if at_equal is None
                else f"Read at equal FLOPs off dense's curve, the difference of slopes is {said(at_equal)}."
            )
            + _rates_control(store, runs, kinds)
        ),
        would_tell=published_size("train", "ffn"),
    )


def _rates_control(store: Store, runs: TrainedRuns, kinds: Sequence[str]) -> str:
    """How much the best rate of `ffn-rates` would have gained over the rates of these runs, at one size."""
    tuned = store.trained("ffn-rates")
    if tuned is None:
        return ""
    gains: dict[str, list[float]] = {"dense": [], "structured": []}
    for seed, mine in tuned.seeds.items():
        for kind in ("dense", *kinds):
            losses = [run["loss"] for name, run in mine.items() if re.fullmatch(rf"{kind}-[\d.]+e-\d", name)]
            own = runs.seeds.get(seed, {}).get(f"{kind}-48")
            if losses and own is not None:
                gains["dense" if kind == "dense" else "structured"].append(
                    math.log(min(*losses, own["loss"]) / own["loss"])
                )
    if not all(gains.values()):
        return ""
    dense, others = (f"{abs(math.expm1(statistics.fmean(values))):.1%}" for values in gains.values())
    return (
        f" Rates were tuned at width 48 (`ffn-rates`, one seed): the best that was tried there is better by {dense} for dense "
        f"and by {others} for structures."
    )


def _points(mine: Mapping[str, Mapping[str, Any]], kind: str, sizes: Sequence[int]) -> tuple[Any, Any]:
    chosen = [mine[f"{kind}-{size}"] for size in sizes]
    return np.log([run["flops"] for run in chosen]), np.log([run["loss"] for run in chosen])


def _line(mine: Mapping[str, Mapping[str, Any]], kind: str, sizes: Sequence[int]) -> float:
    x, y = _points(mine, kind, sizes)
    return float(np.polyfit(x - x.mean(), y, 1)[0])


def _at_equal_flops(mine: Mapping[str, Mapping[str, Any]], kind: str, sizes: Sequence[int]) -> float:
    """Slope of the difference to dense's curve, which is a parabola in log FLOPs."""
    x, y = _points(mine, "dense", sizes)
    curve = np.polyfit(x - x.mean(), y, 2)
    own, losses = _points(mine, kind, sizes)
    apart = losses - np.polyval(curve, own - x.mean())
    return float(np.polyfit(own - own.mean(), apart, 1)[0])


def overtraining_rows(store: Store) -> Iterator[Draft]:
    """Does a structured network gain on dense when both are trained for longer?"""
    runs = store.trained("overtraining")
    if runs is None:
        return
    kinds, levels = _sized(runs)
    by_seed, far, used = [], [], set[str]()
    there, complete = runs.complete(("dense", *kinds), levels, least=3)
    for mine in complete:
        used |= {f"{kind}-{level}" for kind in ("dense", *kinds) for level in there}
        x, y = _points(mine, "dense", there)
        slopes, ends = [], []
        for kind in kinds:
            own, losses = _points(mine, kind, there)
            inside = own >= x[0]
            apart = losses - np.interp(own, x, y)
            slopes.append(float(np.polyfit(own[inside] / math.log(10), apart[inside], 1)[0]))
            ends.append(float(apart[-1]))
        by_seed.append(slopes)
        far.append(ends)
    found, ends_found = of_units(by_seed, "structures"), of_units(far, "structures")
    if found is None or ends_found is None:
        return
    most = max(level for level in levels if f"dense-{level}" in used)
    yield Draft(
        key="overtraining",
        topic="overtraining",
        claim="Structured networks gain on dense by overtraining",
        published="a favourable trend in the overtraining regime",
        source=f"{FOUNDATIONS}, abstract",
        effect="change of the loss against dense at equal training FLOPs, for ten times the tokens",
        says=Claim("below"),
        found=found,
        unit="percent",
        study="overtraining",
        **trained_scale(runs, sorted(used)),
        control=(
            f"At {most} tokens per parameter of dense the loss against dense at equal FLOPs is {percent(ends_found)}: there a "
            "smaller network would run out of room."
        ),
        would_tell=published_size("train", "overtraining"),
    )
