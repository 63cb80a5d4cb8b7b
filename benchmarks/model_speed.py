"""Whole networks per training step, structured against dense.

    python benchmarks/model_speed.py [--rounds 15] [--out benchmarks/results/models.json]

The networks, batch sizes and optimizer are those of the proxy tasks: forward, loss, backward, clipping and a fused
AdamW with one group per learning rate. Both networks of a pair run in turn, round after round; the ratio is the median
over the rounds.

  GPT  width 256, 2 blocks, 8 × 128 tokens, every linear layer but the head structured
  MLP  width 1024, depth 5, 512 samples, every layer structured but the first and the head
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from einsearch_cli.files import write_atomically
from einsearch_cli.machine import retain_memory
from einsearch_cli.models import MLP, StructuredNetwork, Transformer, proxy_config
from einsearch_cli.models.base import LinearRule, structured_linear
from einsearch_cli.speed import Race
from einsearch_cli.speed.machine import machine_facts
from einsearch_cli.speed.race import clock_name
from einsearch_cli.structures import parse_structure
from einsearch_cli.training import OptimizerSettings
from einsearch_cli.training.groups import grouped
from einsearch_cli.training.optimizers import find_optimizer

Step = Callable[[], None]
CPU = torch.device("cpu")
VOCABULARY, CONTEXT = 96, 128


def gpt(make_linear: LinearRule) -> tuple[StructuredNetwork, Step]:
    """The network of the text task on random characters."""
    config = proxy_config(vocabulary=VOCABULARY, width=256, layers=2, context=CONTEXT, structure="dense")
    model = Transformer(config, make_linear)
    text_BT = torch.randint(VOCABULARY, (8, CONTEXT + 1))
    return model, training_step(model, lambda: gpt_loss(model, text_BT))


def gpt_loss(model: StructuredNetwork, text_BT: Tensor) -> Tensor:
    return F.cross_entropy(model(text_BT[:, :-1]).flatten(0, 1), text_BT[:, 1:].flatten())


def mlp(make_linear: LinearRule) -> tuple[StructuredNetwork, Step]:
    """The network of the teacher task on random samples."""
    model = MLP(8, 1024, 1, depth=5, make_linear=make_linear, dense_input=True)
    x_BI, y_BO = torch.randn(512, 8), torch.randn(512, 1)
    return model, training_step(model, lambda: F.mse_loss(model(x_BI), y_BO))


def training_step(model: StructuredNetwork, loss: Callable[[], Tensor]) -> Step:
    """One update as in `einsearch_cli.training`."""
    settings = OptimizerSettings()
    kind = find_optimizer(settings.name)
    options = kind.options(model, base_width=64, learning_rate=1e-3, weight_decay=0.0)
    optimizer = kind.make(grouped(model, options), settings)

    def run() -> None:
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()

    return run


MODELS = {"GPT": gpt, "MLP": mlp}


def measure(name: str, structure: str, rounds: int) -> dict[str, Any]:
    """One network with dense layers and with structured ones."""
    dense_model, dense_step = MODELS[name](torch.nn.Linear)
    model, step = MODELS[name](structured_linear(parse_structure(structure)))
    race = Race({"dense": dense_step, "structured": step}, CPU)
    race.run(rounds)
    dense_s, structured_s = race.durations_s["dense"], race.durations_s["structured"]
    return {
        "model": name,
        "structure": structure,
        "params": model.parameter_count(),
        "dense_params": dense_model.parameter_count(),
        "flops_ratio": dense_model.flops_per_token().body / model.flops_per_token().body,
        "rounds": race.rounds,
        "dense_mean_s": statistics.fmean(dense_s),
        "dense_peak_s": max(dense_s),
        "structured_mean_s": statistics.fmean(structured_s),
        "structured_peak_s": max(structured_s),
        "speedup": statistics.median(d / s for d, s in zip(dense_s, structured_s, strict=True)),
    }


def main() -> None:
    """Measure both networks, print a table, and write the figures if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", nargs="*", default=["btt:r=1", "btt:r=2"], help="what replaces dense")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args()
    retain_memory()
    torch.set_num_threads(options.threads)
    machine = machine_facts(CPU) | {"threads": options.threads, "clock": clock_name(CPU)}
    print(
        f"{machine['device']}, torch {machine['torch']}, {options.threads} thread(s); a training step in ms, mean (peak)"
    )
    print(f"{'model':<6}{'structure':<12}{'dense':>18}{'structured':>18}{'speed-up':>10}{'by FLOPs':>10}")
    found = []
    for name in MODELS:
        for structure in options.structures:
            case = measure(name, structure, options.rounds)
            found.append(case)
            dense, structured = (
                f"{1e3 * case[f'{kind}_mean_s']:.1f} ({1e3 * case[f'{kind}_peak_s']:.1f})"
                for kind in ("dense", "structured")
            )
            ratios = f"{case['speedup']:10.2f}{case['flops_ratio']:10.2f}"
            print(f"{name:<6}{structure:<12}{dense:>18}{structured:>18}{ratios}", flush=True)
    if options.out is not None:
        write_atomically(options.out, json.dumps({"machine": machine, "models": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
