"""Times of single layers: claims of Wei et al. 2024 on efficiency, and what they are on a CPU."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.claims.inference import Claim, StudentEstimate, of_replicates
from benchmarks.claims.rows import FOUNDATIONS, Draft
from benchmarks.claims.studies import Store


def speed_rows(store: Store) -> Iterator[Draft]:
    """Layers against dense on many tokens: a claim on a GPU, and a question on a CPU."""
    for file, machine, tokens in (("layers.json", "CPU", 4096), ("layers-h200.json", "H200", 16384)):
        document = store.timings(file)
        if document is None:
            continue
        width = max(
            row["width"] for row in document["measurements"] if (row["mode"], row["tokens"]) == ("forward", tokens)
        )
        for kinds, share, published in (
            (("block-dense:r=1/4*d",), "31%", "2.6 times as fast at 32% of the parameters"),
            (("low-rank:r=1/4*d", "block-shuffle"), "50%", "1.4 times as fast at 63%"),
        ):
            rows = [
                row
                for row in document["measurements"]
                if row["name"] in kinds and (row["mode"], row["width"], row["tokens"]) == ("forward", width, tokens)
            ]
            yield Draft(
                key=f"speed-{share.rstrip('%')}-{machine}",
                topic="speed",
                kind="question" if machine == "CPU" else "claim",
                claim=f"{'On a CPU, layers' if machine == 'CPU' else 'Layers'} with {share} of the parameters save time on many "
                "tokens",
                published=f"{published}, feed-forward networks of width 5120 on an A100",
                source=f"{FOUNDATIONS}, section on efficiency",
                effect=f"speed against dense, one {'' if machine == 'CPU' else 'eager '}forward pass of a layer of width {width} "
                f"on {tokens:,} tokens ({' and '.join(kinds)})",
                says=Claim("above"),
                found=_of_timings(rows),
                unit="factor",
                study=f"layers on {machine}",
                scale=f"{document['machine']['device']}, {document['settings']['dtype']}",
                control=_other_widths(document, kinds, tokens),
                would_tell=f"`einsearch bench --widths 5120` on {'another CPU' if machine == 'CPU' else 'an A100'}",
            )


def _of_timings(rows: Sequence[Mapping[str, Any]]) -> StudentEstimate:
    """Geometric mean of speeds, from medians and quartiles over rounds.

    A median of n rounds has the standard error 1.2533 σ/√n, and σ is the distance of the quartiles over 1.349.
    """
    logs = [-math.log(row["vs_dense"]["median"]) for row in rows]
    errors = [
        1.2533 * math.log(row["vs_dense"]["high"] / row["vs_dense"]["low"]) / 1.349 / math.sqrt(row["rounds"])
        for row in rows
    ]
    rounds = sum(row["rounds"] for row in rows)
    error = math.sqrt(sum(error**2 for error in errors)) / len(rows)
    return StudentEstimate(
        statistics.fmean(logs), error, rounds - len(rows), f"{rounds} interleaved rounds of one session, from quartiles"
    )


def _other_widths(document: Mapping[str, Any], kinds: Sequence[str], tokens: int) -> str:
    speeds: dict[int, list[float]] = defaultdict(list)
    for row in document["measurements"]:
        if row["name"] in kinds and (row["mode"], row["tokens"]) == ("forward", tokens):
            speeds[row["width"]].append(row["vs_dense"]["median"])
    found = ", ".join(
        f"{1 / statistics.geometric_mean(values):.2f} at {width}" for width, values in sorted(speeds.items())
    )
    return f"The same by width: {found}. Sessions differ by more than the interval of one."


MERGED = ("low-rank:r=d/4", "block-shuffle:blocks=4", "block-dense:blocks=4,r=d/4")


def merged_rows(store: Store) -> Iterator[Draft]:
    """Merged layers against their factors on one token; the paper measured a GPU, and this project a CPU."""
    document = store.timings("routes.json")
    if document is None:
        return
    rows = [row for row in document["merged"] if row["structure"] in MERGED]
    width = 2048
    ratios: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
    for row in rows:
        times = row["seconds"]
        merged = next(seconds for route, seconds in times.items() if route.startswith("x("))
        ratios[row["structure"], row["width"]][row["tokens"]] = math.log(
            min(seconds for route, seconds in times.items() if not route.startswith("x(")) / merged
        )
    even: dict[int, list[int]] = {}
    for (_, at), mine in ratios.items():
        wins = [tokens for tokens in sorted(mine) if mine[tokens] > 0]
        even.setdefault(at, []).append(max(wins) if wins else 0)
    wins_up_to = "; ".join(f"width {at}: {', '.join(map(str, tokens))}" for at, tokens in sorted(even.items()))
    yield Draft(
        key="pre-merge",
        topic="merge",
        kind="question",
        claim="On a CPU, a merged matrix is faster than the factors for one token",
        published="on an A100 the merged matrix is faster below about 1,024 tokens at width 2048, 512 at 3072 and 256 at 5120",
        source=f"{FOUNDATIONS}, figure on pre-merge",
        effect=f"time of the factors over that of the merged matrix, one token, width {width}, three structures",
        says=Claim("above"),
        found=of_replicates([ratios[name, width][1] for name in MERGED], "structures"),
        unit="factor",
        study="routes",
        scale=f"{document['machine']['device']}, one thread, float32",
        control=f"Largest number of tokens at which merging is faster ({', '.join(MERGED)}; 0: never): {wins_up_to}.",
        would_tell="`python benchmarks/routes.py --widths 2048 3072 5120` on another CPU",
    )
