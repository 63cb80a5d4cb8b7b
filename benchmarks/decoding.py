"""Decoding and prefill of a transformer with structured feed-forward networks, against a dense one.

    python benchmarks/decoding.py [--widths 1024 2048] [--rounds 15] [--out benchmarks/results/decoding.json]

The networks have two blocks and a small vocabulary, so that blocks are measured and not the head. Each structure is run
in four ways, three of them as merged models. `chosen` is what generation uses: each layer takes the route that its
planner expects to be fastest for the number of tokens. `factors` always uses the factors, `merged` always one dense
matrix. `unmerged` is the model without `merge`, which keeps nothing between calls. A decoding step reads one token in
each of 1, 4 or 16 rows behind 64 tokens in the key-value cache. Prefill reads 4,096 tokens in one row into an empty
cache. All networks of a case run in turn, round after round; ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from einsearch_cli.files import write_atomically
from einsearch_cli.layers import EinsumLinear, merge
from einsearch_cli.layers.plans.machine_profile import profile_for
from einsearch_cli.layers.plans.planner import dense_route, routes
from einsearch_cli.machine import retain_memory
from einsearch_cli.models import KeyValueCache, Transformer, TransformerConfig
from einsearch_cli.speed import Race
from einsearch_cli.speed.machine import machine_facts
from einsearch_cli.speed.race import clock_name

CPU = torch.device("cpu")
SEEN = 64
"""Tokens in the cache before a decoding step."""
PREFILL = 4096
ROWS = (1, 4, 16)


def structures(width: int) -> dict[str, str]:
    """Structures of Wei et al. 2024 with about a third of the parameters of the feed-forward networks."""
    return {
        "dense": "dense",
        "low-rank": f"low-rank:r={width // 4}",
        "block-shuffle": "block-shuffle:blocks=4",
        "block-dense": f"block-dense:blocks=4,r={3 * width // 8}",
    }


def transformer(width: int, structure: str) -> Transformer:
    """Two blocks of this width, in evaluation mode, with random weights in the layers that start at zero too."""
    config = TransformerConfig(
        vocabulary=256, width=width, layers=2, heads=width // 64, context=PREFILL, structure=structure
    )
    torch.manual_seed(0)
    model = Transformer(config).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.01)
    return model


def fix_routes(model: Transformer, way: str) -> None:
    """Merge the model with its factors, one matrix, or the route expected to be fastest; or leave it unmerged."""
    for layer in model.structured_layers().values():
        assert isinstance(layer, EinsumLinear)
        dense = dense_route(layer.sized)
        assert dense is not None
        layer.route = {"factors": routes(layer.sized)[0].text, "merged": dense.text}.get(way)
    if way != "unmerged":
        merge(model)


def networks(width: int) -> dict[str, Transformer]:
    """One network for each structure and way; networks of one structure share their parameters."""
    found = {}
    for name, structure in structures(width).items():
        first = transformer(width, structure)
        if name == "dense":
            found[name] = first
            continue
        for way in ("chosen", "factors", "merged", "unmerged"):
            model = Transformer(first.config).eval()
            for (path, _), parameter in zip(list(model.named_parameters()), first.parameters(), strict=True):
                owner, _, attribute = path.rpartition(".")
                model.get_submodule(owner)._parameters[attribute] = parameter
            fix_routes(model, way)
            found[f"{name}, {way}"] = model
    return found


@torch.inference_mode()
def decoding_step(model: Transformer, rows: int) -> Callable[[], object]:
    """Reads one token in each row behind `SEEN` others."""
    cache = KeyValueCache(model.config, batch=rows, capacity=SEEN + 1)
    model(torch.randint(256, (rows, SEEN)), cache)
    tokens_B1 = torch.randint(256, (rows, 1))

    @torch.inference_mode()
    def run() -> object:
        cache.tokens = SEEN
        return model(tokens_B1, cache)

    return run


def prefill(model: Transformer) -> Callable[[], object]:
    """A call that reads `PREFILL` tokens into an empty cache."""
    cache = KeyValueCache(model.config, batch=1)
    tokens_BT = torch.randint(256, (1, PREFILL))

    @torch.inference_mode()
    def run() -> object:
        cache.tokens = 0
        return model(tokens_BT, cache)

    return run


def measure(models: dict[str, Transformer], case: str, rounds: int) -> list[dict[str, Any]]:
    """Time all networks in turn: seconds, and time divided by that of the dense one."""
    makers = {f"decode {rows}": lambda model, rows=rows: decoding_step(model, rows) for rows in ROWS}
    make = makers.get(case, prefill)
    race = Race({name: make(model) for name, model in models.items()}, CPU)
    race.run(rounds)
    dense_s = race.durations_s["dense"]
    return [
        {
            "case": case,
            "network": name,
            "rounds": race.rounds,
            "median_s": statistics.median(durations_s),
            "over_dense": statistics.median(own / dense for own, dense in zip(durations_s, dense_s, strict=True)),
            "flops_over_dense": _flops(models[name]) / _flops(models["dense"]),
        }
        for name, durations_s in race.durations_s.items()
    ]


def _flops(model: Transformer) -> int:
    return model.flops_per_token().body


def main() -> None:
    """Measure all cases, print a table, and write the figures if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="*", default=[1024], help="of the transformer")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds of a decoding step")
    parser.add_argument("--prefill-rounds", type=int, default=5, help="timed rounds of prefill; 0 leaves it out")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args()
    retain_memory()
    torch.set_num_threads(1)
    machine = machine_facts(CPU) | {
        "threads": 1,
        "clock": clock_name(CPU),
        "profile": profile_for("cpu", 1, torch.float32).source,
    }
    print(f"{machine['device']}, torch {machine['torch']}, one thread; {machine['profile']}")
    cases = {f"decode {rows}": options.rounds for rows in ROWS} | {"prefill": options.prefill_rounds}
    found = []
    for width in options.widths:
        models = networks(width)
        for case, rounds in cases.items():
            found += [{"width": width, **row} for row in (measure(models, case, rounds) if rounds else ())]
            print_case([row for row in found if (row["width"], row["case"]) == (width, case)])
    if options.out is not None:
        document = {"machine": machine, "widths": {w: structures(w) for w in options.widths}, "runs": found}
        write_atomically(options.out, json.dumps(document, indent=1) + "\n")


def print_case(rows: list[dict[str, Any]]) -> None:
    """Print all networks of one case."""
    for row in rows:
        print(
            f"{row['width']:<6}{row['case']:<11}{row['network']:<24}{1e3 * row['median_s']:10.2f} ms"
            f"{row['over_dense']:7.2f} × dense",
            flush=True,
        )


if __name__ == "__main__":
    main()
