"""Does `einsearch suggest` name the fastest structure? Ten layers, measured.

    python -m benchmarks.suggest --out benchmarks/results/suggest.json     # about 6 minutes on one core
    python -m benchmarks.suggest --read benchmarks/results/suggest.json

For each case, the recommended structure is timed against all others of the size with at least half of the highest
certified rank, in turn on one thread. It agrees if its median time is within 15% of the best. No width of the cases had
a part in choosing the constants of the cost model. The certified ranks of all suggestions are compared with exact ranks
where these take seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from einsearch_cli import EinsumLinear
from einsearch_cli.advice.candidates import Wanted
from einsearch_cli.advice.suggesting import Prefer, advise
from einsearch_cli.files import write_atomically
from einsearch_cli.layers.plans.machine_profile import float32_profile
from einsearch_cli.machine import processor_name
from einsearch_cli.sizing.generic_rank import generic_rank
from einsearch_cli.speed.race import Race
from einsearch_cli.structures import Structure

CASES: tuple[tuple[int, int, float, int, Prefer], ...] = (
    (640, 2560, 1 / 4, 512, "training"),
    (896, 896, 1 / 8, 256, "training"),
    (1280, 1280, 1 / 16, 1024, "training"),
    (384, 1536, 1 / 4, 2048, "training"),
    (1536, 640, 1 / 8, 512, "training"),
    (768, 2304, 1 / 3, 128, "training"),
    (1792, 1792, 1 / 8, 1, "decoding"),
    (640, 2560, 1 / 8, 1, "decoding"),
    (1280, 3840, 1 / 4, 1, "decoding"),
    (2304, 768, 1 / 16, 1, "decoding"),
)
"""d_in, d_out, share of the parameters, tokens, and the preference."""
WITHIN = 1.15
_RANKED = 1300
"""Largest dimension at which exact ranks are computed."""


def measure(rounds: int) -> list[dict[str, Any]]:
    """Measure all cases."""
    torch.set_num_threads(1)
    return [_case(*case, rounds=rounds) for case in CASES]


def _case(d_in: int, d_out: int, share: float, tokens: int, prefer: Prefer, rounds: int) -> dict[str, Any]:
    wanted = Wanted(share * d_in * d_out, "params", f"up to {share:.3g} of dense")
    advice = advise(d_in, d_out, wanted, (), float32_profile("cpu", 1), tokens=tokens, prefer=prefer)
    highest = max(item.certified_rank for item in advice.suggestions)
    rivals = {s.name: s.structure for s in advice.suggestions if 2 * s.certified_rank >= highest}
    calls = {name: _call(structure, d_in, d_out, tokens, prefer) for name, structure in rivals.items()}
    race = Race(calls, torch.device("cpu"))
    race.run(rounds)
    times_us = {name: 1e6 * statistics.median(seconds) for name, seconds in race.durations_s.items()}
    chosen = advice.suggestions[0].name
    best = min(times_us, key=lambda name: times_us[name])
    ratio = times_us[chosen] / times_us[best]
    predicted = {s.name: s.training_us if prefer == "training" else s.decoding_us for s in advice.suggestions}
    found = {
        "d_in": d_in, "d_out": d_out, "share": share, "tokens": tokens, "prefer": prefer, "chosen": chosen, "best": best,
        "ratio": ratio, "agrees": ratio <= WITHIN, "measured_us": times_us,
        "predicted_us": {name: predicted[name] for name in times_us},
        "ranks": _ranks(advice.suggestions, d_in, d_out),
    }  # fmt: skip
    print(d_in, d_out, prefer, chosen, best, f"{ratio:.2f}", flush=True)
    return found


def _call(structure: Structure, d_in: int, d_out: int, tokens: int, prefer: Prefer) -> Callable[[], object]:
    layer = EinsumLinear(d_in, d_out, structure, bias=False)
    x = torch.randn(tokens, d_in)
    if prefer == "decoding":

        def infer() -> object:
            with torch.no_grad():
                return layer(x)

        return infer
    x.requires_grad_(True)

    def train() -> object:
        return layer(x).sum().backward()

    return train


def _ranks(suggestions: Any, d_in: int, d_out: int) -> list[dict[str, Any]]:
    """Certified and exact rank of each suggestion; the exact one only if it takes seconds."""
    if min(d_in, d_out) > _RANKED or max(d_in, d_out) > 2 * _RANKED:
        return []
    return [
        {"structure": s.name, "certified": s.certified_rank, "exact": generic_rank(s.structure.at(d_in, d_out)).rank}
        for s in suggestions
    ]


def tell(document: dict[str, Any]) -> None:
    """Print the figures as a table."""
    for row in document["cases"]:
        print(
            f"{row['d_in']:5} x {row['d_out']:5}, {row['share']:.3f}, {row['tokens']:5} tokens, {row['prefer']:8}: "
            f"{row['chosen']} takes {row['ratio']:.2f} of the time of {row['best']}{'' if row['agrees'] else '  <-'}"
        )
    ranks = [rank for row in document["cases"] for rank in row["ranks"]]
    false = [rank for rank in ranks if rank["exact"] < rank["certified"]]
    print(f"agrees in {sum(row['agrees'] for row in document['cases'])} of {len(document['cases'])} cases")
    print(f"{len(false)} of {len(ranks)} certified ranks are larger than the exact one")


def main() -> None:
    """Measure and write the figures, or read them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "suggest.json")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--read", type=Path)
    options = parser.parse_args()
    if options.read:
        tell(json.loads(options.read.read_text()))
        return
    cases = measure(options.rounds)
    document = {
        "processor": processor_name(),
        "torch": str(torch.__version__),
        "cost_model": float32_profile("cpu", 1).source,
        "cases": cases,
    }
    write_atomically(options.out, json.dumps(document, indent=1) + "\n")
    tell(document)


if __name__ == "__main__":
    main()
