"""Wide and structured networks, and self-guided training: claims of Wei et al. 2024."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.claims.inference import Claim, StudentEstimate, of_units
from benchmarks.claims.rows import FOUNDATIONS, Draft, percent, published_size, trained_scale
from benchmarks.claims.studies import Store, TrainedRuns

RATE_NOT_TUNED = "its learning rate was tuned for other networks, and dense's for dense ones"
NEARLY_EQUAL = 0.95
"""Share of dense's training FLOPs from which a network counts as trained with as many."""


def wide_rows(store: Store) -> Iterator[Draft]:
    """Wide and structured against dense of the same depth and width."""
    runs = store.trained("wide")
    if runs is None:
        return
    sizes = sorted({int(name.rpartition("-")[2]) for name in runs.names})
    by_seed, alone, flops, used = [], [], [], set[str]()
    there, complete = runs.complete(("wide", "dense-kv"), sizes, least=1)
    for mine in complete:
        alone.append([_apart(mine, f"wide-{size}", f"dense-kv-{size}") for size in there])
    there, complete = runs.complete(("wide", "dense"), sizes, least=1)
    for mine in complete:
        used |= {f"{kind}-{size}" for size in there for kind in ("wide", "dense")}
        by_seed.append([_apart(mine, f"wide-{size}", f"dense-{size}") for size in there])
        flops += [mine[f"wide-{size}"]["flops"] / mine[f"dense-{size}"]["flops"] for size in there]
    found, grouped = of_units(by_seed, "sizes"), of_units(alone, "sizes")
    if found is None or grouped is None:
        return
    share = statistics.fmean(flops)
    fewer = found.value > 0 and share < NEARLY_EQUAL
    yield Draft(
        key="wide",
        topic="wide",
        claim="Wide and structured networks beat dense ones",
        published='"fewer parameters and lower loss than dense models at their optimal trade-off"',
        source=f"{FOUNDATIONS}, abstract",
        effect=f"loss against dense at {share:.0%} of its training FLOPs",
        flaw=f"it has {share:.0%} of dense's training FLOPs, and a larger loss with fewer FLOPs refutes nothing"
        if fewer
        else RATE_NOT_TUNED,
        says=Claim("below"),
        found=found,
        unit="percent",
        study="wide",
        **trained_scale(runs, sorted(used)),
        control=f"Against dense with the same grouped heads for keys and values it is {percent(grouped)}.",
        would_tell=published_size("train", "wide"),
    )


def _apart(mine: Mapping[str, Mapping[str, Any]], one: str, other: str) -> float:
    return math.log(mine[one]["loss"] / mine[other]["loss"])


def guided_rows(store: Store) -> Iterator[Draft]:
    """Guides against none, on equal FLOPs and on equal tokens."""
    runs = store.trained("guided")
    if runs is None:
        return
    guided = [run for run in runs.names if f"{run}-equal-flops" in runs.names]
    used = {f"{run}{kind}" for run in guided for kind in ("", "-equal-flops", "-equal-tokens")} | {"dense"}
    complete = [mine for mine in runs.seeds.values() if used <= set(mine)]

    def of(one: str, other: str) -> StudentEstimate | None:
        return of_units(
            [
                [_apart(mine, run + one, "dense" if other == "dense" else run + other) for run in guided]
                for mine in complete
            ],
            "structures",
        )

    at_flops, at_tokens = of("", "-equal-flops"), of("", "-equal-tokens")
    to_dense, plain = of("", "dense"), of("-equal-flops", "dense")
    if at_flops is None or at_tokens is None or to_dense is None or plain is None:
        return
    shared: dict[str, Any] = {
        "topic": "guided",
        "source": f"{FOUNDATIONS}, section on self-guided training",
        "says": Claim("below"),
        "unit": "percent",
        "study": "guided",
        **trained_scale(runs, sorted(used)),
        "would_tell": published_size("train", "guided"),
    }
    gap = _gap_closed(store, runs, guided)
    if gap is not None:
        yield Draft(
            key="guided-gap",
            claim="Self-guided training closes a part of the gap to dense, at the training FLOPs of dense",
            published="at the FLOPs of dense, guides bring 32% of the parameters from +1.1 perplexity over dense to +0.4",
            effect="loss over dense's without guides, at the tokens of dense, over that with guides, at the FLOPs of dense",
            found=gap,
            control=(
                "A network without guides has fewer FLOPs a token. Trained on as many FLOPs as dense, its loss against "
                f"dense is {percent(plain)}; with guides it is {percent(to_dense)}."
            ),
            **{**shared, "says": Claim("above")},
        )
    yield Draft(
        key="guided-flops",
        kind="question",
        claim="Self-guided training gains on the same network without guides at equal training FLOPs",
        published="at the FLOPs of dense, guides bring 32% of the parameters from +1.1 perplexity over dense to +0.4; a network "
        "without guides on as many FLOPs is not in the paper",
        effect="loss with guides against without, on as many FLOPs",
        found=at_flops,
        control=(
            f"At the training FLOPs of dense the loss against dense is {percent(to_dense)} with guides and "
            f"{percent(plain)} without."
        ),
        **shared,
    )
    yield Draft(
        key="guided-tokens",
        claim="Self-guided training gains on the same network without guides at equal tokens",
        published="lower perplexity in all sizes",
        effect="loss with guides against without, on as many tokens",
        found=at_tokens,
        control="The guided run repeats tokens at its end, and has the guides' FLOPs on top.",
        **shared,
    )


def _gap_closed(store: Store, runs: TrainedRuns, guided: Sequence[str]) -> StudentEstimate | None:
    """The gap to dense without guides at equal tokens, from the runs of `ffn`, minus the gap with guides at equal FLOPs."""
    plain = store.trained("ffn")
    closed = []
    for seed, mine in runs.seeds.items():
        others = {} if plain is None else plain.seeds.get(seed, {})
        if {"dense", *guided} <= set(mine) and {"dense-48", *(f"{run}-48" for run in guided)} <= set(others):
            closed.append([_apart(others, f"{run}-48", "dense-48") - _apart(mine, run, "dense") for run in guided])
    return of_units(closed, "structures")
