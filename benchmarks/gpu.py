"""The speed of a study on a GPU: all figures in one run of less than 8 minutes.

    python -m benchmarks.gpu [--device cuda] [--parts demo text packs losses] [--out benchmarks/results/gpu.json]

demo    seconds of specs/demo.yaml, the data labelled before, with one, two and four worker processes on the device
text    dense runs on text at widths 256 to 1024 with products in bfloat16: training FLOP/s, and their share of the peak
packs   steps a second of narrow runs, for packs of several sizes, over those of one CPU core with packs of eight
losses  how far the losses of the first steps are from those of the CPU

Without a GPU, the same code runs on the CPU at small sizes, to show that it works; such figures are not written.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from einsearch_cli.files import write_atomically
from einsearch_cli.machine import retain_memory
from einsearch_cli.models.transformer.resources import ACCELERATORS
from einsearch_cli.speed.machine import machine_facts
from einsearch_cli.structures import parse_layer
from einsearch_cli.tasks import AnyTask, open_task
from einsearch_cli.training import OptimizerSettings, ProxyRun, run_cost
from einsearch_cli.training.devices import choose_device
from einsearch_cli.training.proxy.run import trainer_of
from einsearch_cli.training.proxy.trainer import PackTrainer, Trainer

HERE = Path(__file__).parents[1]
CPU = torch.device("cpu")
STRUCTURES = ("dense", "monarch", "low-rank", "btt:r=2", "tt:r=4", "kronecker", "btt-moe:experts=4,top=2")
ENDLESS_FLOPS = 1e24


def run_of(task: AnyTask, structure: str, width: int, device: torch.device, **others: Any) -> ProxyRun:
    """A run that never ends by itself."""
    return ProxyRun(
        task=task,
        structure=parse_layer(structure),
        width=width,
        budget_flops=ENDLESS_FLOPS,
        optimizer=OptimizerSettings(warmup=0.5),
        device=str(device),
        **others,
    )


def step_s(trainer: Trainer, steps: int, rounds: int = 5) -> float:
    """Seconds of a step while nobody reads the losses: the median over rounds."""
    trainer.step()
    found = []
    for _ in range(rounds):
        started_s = time.perf_counter()
        for _ in range(steps - 1):
            trainer.advance()
        trainer.step()  # waits for the device
        found.append((time.perf_counter() - started_s) / steps)
    return statistics.median(found)


def demo(device: torch.device) -> dict[str, float]:
    """Seconds of the demo's study, by worker processes on the device."""
    open_task("teacher").prepare()
    found = {}
    for workers in (1, 2, 4) if device.type == "cuda" else (2,):
        with tempfile.TemporaryDirectory() as folder:
            study = ("rank", str(HERE / "specs/demo.yaml"), "--out", folder, "--device", str(device))
            command = [sys.executable, "-m", "einsearch_cli", *study, "--workers", str(workers)]
            started_s = time.perf_counter()
            subprocess.run(command, check=True, cwd=HERE, capture_output=True)
            found[f"{workers} workers"] = time.perf_counter() - started_s
        print(f"demo, {workers} workers: {found[f'{workers} workers']:.1f} s", flush=True)
    return found


def text(device: torch.device) -> list[dict[str, Any]]:
    """Rates of dense runs on text."""
    is_gpu, found = device.type == "cuda", []
    settings = {"context": 512, "batch": 64, "layers": 4} if is_gpu else {"context": 64, "batch": 4, "layers": 2}
    task = open_task("text", settings)
    task.prepare()
    peak = peak_flops(device)
    for width in (256, 512, 1024) if is_gpu else (64, 128):
        for runs in (1, 3):
            pack = [run_of(task, "dense", width, device, precision="bfloat16", seed=seed) for seed in range(runs)]
            trainer = PackTrainer(pack)
            seconds = step_s(trainer, 20 if is_gpu else 2)
            flops = runs * trainer.cost.total_flops_per_step / seconds
            share = None if peak is None else flops / peak
            of_peak = "" if share is None else f", {share:.1%} of the peak"
            found.append(
                {"width": width, "runs": runs, "step_s": seconds, "flops_per_s": flops, "share_of_peak": share}
            )
            print(f"text, width {width}, {runs} runs: {flops:.3g} FLOP/s{of_peak}", flush=True)
    return found


def peak_flops(device: torch.device) -> float | None:
    """The maker's figure for dense products in bfloat16; None for an unknown device."""
    name = torch.cuda.get_device_name(device).lower() if device.type == "cuda" else ""
    known = [card for key, card in ACCELERATORS.items() if key in name.replace(" ", "")]
    return known[0].peak_flops("bfloat16") if known else None


def packs(device: torch.device) -> list[dict[str, Any]]:
    """Steps of runs per second, divided by those of one core."""
    task, found = open_task("teacher"), []
    sizes = (8, 64, 256) if device.type == "cuda" else (8,)
    for structure in ("dense", "monarch", "btt:r=2"):
        for width in (48, 128):
            core = PackTrainer([run_of(task, structure, width, CPU, seed=seed) for seed in range(8)])
            core_rate = 8 / step_s(core, 10)
            for size in sizes:
                pack = PackTrainer([run_of(task, structure, width, device, seed=seed) for seed in range(size)])
                ratio = size / step_s(pack, 50 if device.type == "cuda" else 10) / core_rate
                found.append({"structure": structure, "width": width, "pack": size, "over_one_core": ratio})
                print(f"packs, {structure} of width {width}, {size} runs: {ratio:.1f} × one core", flush=True)
    return found


def losses(device: torch.device) -> dict[str, float]:
    """The largest relative difference of the losses of the first 20 of 200 steps."""
    task, found = open_task("teacher"), {}
    for structure in STRUCTURES:
        run = run_of(task, structure, 64, CPU)
        here = trainer_of(replace(run, budget_flops=200.0 * run_cost(run).train_flops_per_step))
        there = trainer_of(replace(here.runs[0], device=str(device)))
        pairs = [(here.step()[0], there.step()[0]) for _ in range(20)]
        found[structure] = max(abs(one - other) / one for one, other in pairs)
        print(f"losses, {structure}: {found[structure]:.1e} apart", flush=True)
    return found


PARTS: dict[str, Callable[[torch.device], Any]] = {"losses": losses, "packs": packs, "text": text, "demo": demo}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="cuda, cuda:N or cpu; CUDA where there is one if not given")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    options = parser.parse_args(arguments)
    device = choose_device(options.device)
    retain_memory()
    torch.set_num_threads(1)
    facts, started_s = machine_facts(device), time.perf_counter()
    print(facts["device"] + ("" if device.type == "cuda" else ": no GPU, so small sizes and no file"), flush=True)
    found: dict[str, Any] = {"machine": facts}
    for part in options.parts:
        found[part] = PARTS[part](device)
        found["seconds"] = time.perf_counter() - started_s
        if options.out is not None and device.type == "cuda":  # at once: time on a GPU is scarce
            write_atomically(options.out, json.dumps(found, indent=1) + "\n")
    print(f"all in {found['seconds']:.0f} s")


if __name__ == "__main__":
    main()
