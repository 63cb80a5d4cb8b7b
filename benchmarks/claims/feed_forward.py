"""Structured feed-forward networks: claims of Wei et al. 2024 on steeper curves and on overtraining."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.claims.inference import Claim, of_units
from benchmarks.claims.rows import FOUNDATIONS, Draft, percent, ranked_scale, said, trained_scale
from benchmarks.claims.studies import Store, TrainedRuns
from einsearch_cli.structures import parse_layer


def _sized(runs: TrainedRuns) -> tuple[list[str], list[int]]:
    """Structures but dense, and sizes, of runs that are called STRUCTURE-SIZE."""
    split = [name.rpartition("-")[::2] for name in runs.names]
    kinds = [kind for kind in dict.fromkeys(kind for kind, _ in split) if kind != "dense"]
    return kinds, sorted({int(size) for _, size in split})


def steeper_rows(store: Store) -> Iterator[Draft]:
    """Are the curves of structured feed-forward networks steeper?"""
    runs = store.trained("ffn")
    if runs is None:
        yield from _steeper_on_the_teacher(store)
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
        yield from _steeper_on_the_teacher(store)
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
        would_tell="`einsearch train specs/paper/ffn.yaml` with widths of 768 to 2048",
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


def _steeper_on_the_teacher(store: Store) -> Iterator[Draft]:
    """Before the study of feed-forward networks has finished: trends of gains in the committed studies of many seeds."""
    kinds = ("low-rank", "block-shuffle:blocks=4", "block-dense:blocks=4,r=16")
    trends = []
    studies = [study for name in ("seeds/first", "seeds/second") if (study := store.ranked(name)) is not None]
    for study in studies:
        entries = {entry.structure: entry for entry in study.ranking.entries}
        mine = [entries[parse_layer(kind)].trend for kind in kinds]
        trends.append([math.log(found.per_decade) for found in mine if found is not None and found.per_decade])
    found = of_units(trends, "structures")
    if found is None:
        return
    yield Draft(
        key="steeper",
        topic="steeper",
        claim="Structured feed-forward networks have steeper curves in training FLOPs",
        published="steeper curves for all three structures",
        source=f"{FOUNDATIONS}, abstract",
        effect="factor by which the gain over dense grows for ten times the compute, mean of three structures",
        unit="factor",
        says=Claim("above"),
        found=found,
        study="seeds",
        **ranked_scale(studies[0], "all layers, not feed-forward networks alone"),
        control="Two sets of seeds that share no run.",
        would_tell="`einsearch train specs/paper/ffn.yaml`",
    )


def overtraining_rows(store: Store) -> Iterator[Draft]:
    """Does a structured network gain on dense when both are trained for longer?"""
    runs = store.trained("overtraining")
    if runs is None:
        yield from _overtraining_on_the_teacher(store)
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
        yield from _overtraining_on_the_teacher(store)
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
        would_tell="`einsearch train specs/paper/overtraining.yaml` with a width of 768",
    )


def _overtraining_on_the_teacher(store: Store) -> Iterator[Draft]:
    """Before the study of overtraining: low-rank and dense networks of one width on more and more tokens of the teacher."""
    study = store.ranked("taxonomy-teacher")
    if study is None or len(study.common_rungs) < 2:
        return
    dense, kinds = parse_layer("dense"), [parse_layer(text) for text in ("low-rank", "low-rank:r=d^3/4")]
    width = min(run.trial.width for run in study.results)
    chosen = [run for run in study.results if run.trial.width == width and run.trial.rung in study.common_rungs]
    losses = {(run.trial.structure, run.trial.rung, run.trial.seed): math.log(run.loss) for run in chosen if run.loss}
    decades = np.log10(list(study.common_rungs.values()))
    by_seed, last = [], []
    for seed in sorted({run.trial.seed for run in chosen}):
        apart = [
            [
                losses.get((kind, rung, seed), math.nan) - losses.get((dense, rung, seed), math.nan)
                for rung in study.common_rungs
            ]
            for kind in kinds
        ]
        if np.isfinite(apart).all():
            by_seed.append([float(np.polyfit(decades - decades.mean(), row, 1)[0]) for row in apart])
            last.append([row[-1] for row in apart])
    found, ends = of_units(by_seed, "structures"), of_units(last, "structures")
    if found is None or ends is None:
        return
    spent = sorted(run.tokens / run.params for run in chosen if run.trial.structure == dense and run.tokens is not None)
    yield Draft(
        key="overtraining",
        topic="overtraining",
        claim="Structured networks gain on dense by overtraining",
        published="a favourable trend in the overtraining regime",
        source=f"{FOUNDATIONS}, abstract",
        effect=f"change of the loss of low-rank against dense at equal training FLOPs, width {width}, for ten times the FLOPs",
        says=Claim("below"),
        found=found,
        unit="percent",
        study="overtraining on the teacher",
        scale=f"teacher: {spent[0]:.0f} to {spent[-1]:.0f} tokens for every parameter of dense, all layers",
        control=f"At the last rung the loss of low-rank against dense is {percent(ends)}, all of width {width}.",
        would_tell="`einsearch train specs/paper/overtraining.yaml`",
    )
