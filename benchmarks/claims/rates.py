"""Learning rates of factors: a claim of Qiu et al. 2024, and two simpler rules."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.claims.inference import Claim, StudentEstimate, of_replicates
from benchmarks.claims.numbers import shown
from benchmarks.claims.rows import SPENT, Draft, percent
from benchmarks.claims.studies import Store


def rate_rows(store: Store) -> Iterator[Draft]:
    """A rate for each factor against simpler rules, carried from the narrowest width to the widest."""
    document = store.timings("rate_transfer.json")
    if document is None:
        return
    runs = document["runs"]
    widths = sorted({run["width"] for run in runs})
    losses: dict[tuple[str, str, int, float, int], float] = {
        (run["rule"], run["structure"], run["width"], run["rate"], run["seed"]): run["loss"] for run in runs
    }
    names = list(dict.fromkeys(run["structure"] for run in runs))
    structures = [name for name in names if name != "dense"]
    seeds = sorted({run["seed"] for run in runs})
    rates: list[float] = sorted({run["rate"] for run in runs})
    narrow, wide = widths[0], widths[-1]
    rules = sorted({run["rule"] for run in runs})
    if not all(key in losses for key in itertools.product(rules, names, (narrow, wide), rates, seeds)):
        return

    def best(rule: str, name: str, width: int) -> float:
        return min(rates, key=lambda rate: statistics.fmean(losses[rule, name, width, rate, seed] for seed in seeds))

    def compared(
        other: str, chosen_at: int, chosen_for: str | None = None, among: Sequence[str] = structures
    ) -> StudentEstimate:
        """Log loss at the widest under the other rule minus that under the project's.

        The base rate is that of each structure, or of the given one, that is best at one width.
        """

        def log_loss(rule: str, name: str, seed: int) -> float:
            return math.log(losses[rule, name, wide, best(rule, chosen_for or name, chosen_at), seed])

        apart = [
            statistics.fmean(log_loss(other, name, seed) - log_loss("factors", name, seed) for name in among)
            for seed in seeds
        ]
        return of_replicates(apart, "seeds")

    def by_structure(other: str, chosen_for: str | None = None) -> str:
        """The difference of every structure, and the interval over structures instead of seeds."""
        found = {name: compared(other, narrow, chosen_for, (name,)).value for name in structures}
        listed = ", ".join(f"{name} {shown(value, value, value, 'percent')[0]}" for name, value in found.items())
        return f"By structure: {listed}; with these as replicates {percent(of_replicates(list(found.values()), 'structures'))}."

    shared: dict[str, Any] = {
        "topic": "rates",
        "says": Claim("above"),
        "unit": "percent",
        "study": "rate_transfer",
        "scale": f"teacher, widths {narrow} to {wide}, {document['steps']:,} steps, {len(structures)} structures, rates "
        "a factor of 2 apart",
        "would_tell": "`python -m benchmarks.rate_transfer --widths 64 256 1024 4096 --seeds 5`",
    }
    yield Draft(
        key="rates-own",
        claim="Structures need other learning rates than dense",
        published='"different structures often require drastically different initialization scales and learning rates, which are '
        'crucial to performance, especially as models scale"',
        source=f"{SPENT}, abstract",
        effect=f"loss at width {wide} with dense's rate for all factors against a rate for each factor (muP), both at the base "
        f"rate that is best for dense at width {narrow}",
        found=compared("layers", narrow, "dense"),
        control=f"With one rate for all parameters the difference is {percent(compared('one', narrow, 'dense'))}. The start of "
        f"all networks is the one by structure. {by_structure('layers', 'dense')}",
        **shared,
    )
    for other, words in (
        ("one", "one rate for all parameters"),
        ("layers", "the rate of a dense layer for all factors"),
    ):
        yield Draft(
            key=f"rates-{other}",
            kind="question",
            claim=f"A rate for each factor (muP) beats {words}, each rule at its own best base rate",
            published="the paper compares at the rate that is best for dense",
            source=SPENT,
            effect=f"loss under {words} against muP, rates carried from width {narrow} to {wide}",
            found=compared(other, narrow),
            control=f"With the rate tuned at width {wide} itself the difference is {percent(compared(other, wide))}. "
            f"{by_structure(other)}",
            **shared,
        )
