"""Compression of a small trained Llama: by weights alone, by calibration data, and by published methods.

    python benchmarks/compression.py [--train-s 400] [--seeds 3] [--model llama.pt] [--out benchmarks/results/compression.json]

A Llama of 0.63 million parameters (width 128, 3 layers) is trained for 400 s of CPU time on four fifths of the files of
Python's standard library, read as bytes. A tenth of the files is for calibration, and a tenth for the losses in the
table. Every linear layer of the blocks is compressed, and nothing is trained afterwards. Calibration takes 64 rows of
128 tokens, which every seed draws.

  plain      nearest matrix in the Frobenius norm: `swap_linear(model, structure, project=True)`
  asvd       Yuan et al. 2023 (arXiv 2312.05821): columns scaled by the mean absolute input to the power of 1/2
  svd-llm    Wang et al. 2024 (arXiv 2403.07378): decompositions of whitened matrices, inputs of the dense model
  compress   `compress(model, batches, structure)`
  budget     `compress(model, batches, families, keep=...)`

asvd and svd-llm are written here from their mathematics, without their later training.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from einsearch_cli.compression import compress
from einsearch_cli.data.tokens.texts import text_files
from einsearch_cli.swap import DenseLayer, plan_swaps, swap_linear

ROW = 128
ROWS = 64
FAMILIES = ("monarch", "btt:r=2", "block-shuffle:blocks=4")
SHARES = (0.5, 0.25)
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def llama(width: int = 128, layers: int = 3, hidden: int = 344) -> Any:
    """A Llama for bytes, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256, hidden_size=width, intermediate_size=hidden, num_hidden_layers=layers,
            num_attention_heads=4, max_position_embeddings=256, tie_word_embeddings=True,
        )
    )  # fmt: skip


def parts() -> tuple[Bytes, Bytes, Bytes]:
    """The bytes of the files for training, for calibration and for losses."""
    files = text_files(None)
    random.Random(0).shuffle(files)
    first, second = int(0.8 * len(files)), int(0.9 * len(files))
    training, calibration, held_out = (
        np.frombuffer(b"".join(file.read_bytes() for file in some), dtype=np.uint8)
        for some in (files[:first], files[first:second], files[second:])
    )
    return training, calibration, held_out


def rows(data: Bytes, count: int, draws: torch.Generator) -> Tensor:
    """Rows from random places, (count, 128)."""
    starts = torch.randint(0, len(data) - ROW - 1, (count,), generator=draws).tolist()
    return torch.stack([torch.from_numpy(data[start : start + ROW].astype(np.int64)) for start in starts])


def train(model: Any, data: Bytes, train_s: float) -> int:
    """Train with AdamW at 3e-3, a cosine over this much CPU time and batches of 16 rows; returns the number of steps."""
    draws = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    started_s, step = time.process_time(), 0
    while (done := (time.process_time() - started_s) / train_s) < 1:
        rate = min(1, (step + 1) / 50) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
        optimizer.param_groups[0]["lr"] = 3e-3 * rate
        batch = rows(data, 16, draws)
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    return step


@torch.no_grad()
def loss_of(model: Any, data: Bytes) -> float:
    """The loss in nats per byte on 256 rows."""
    draws = torch.Generator().manual_seed(2)
    batches = [rows(data, 16, draws) for _ in range(16)]
    return statistics.fmean(model(input_ids=batch, labels=batch).loss.item() for batch in batches)


def ranks(model: nn.Module, keep: float) -> dict[int, str]:
    """Low-rank structures that keep this share of every layer's parameters, by the sum of its widths."""
    found = {}
    for swap in plan_swaps(model, "dense").replaced:
        both = swap.in_features + swap.out_features
        found[both] = f"low-rank:r={int(keep * swap.in_features * swap.out_features / both)}"
    return found


def by_weights(model: Any, _: list[Any], structure: str | float) -> float:
    """Compress by the plain projection; returns the share of parameters kept."""
    if isinstance(structure, str):
        reports = [swap_linear(model, structure, project=True)]
    else:
        plan = [swap.name for swap in plan_swaps(model, "dense").replaced]
        reports = [
            swap_linear(model, text, partial(_has_widths, plan, both), project=True)
            for both, text in ranks(model, structure).items()
        ]
    before = sum(report.total.params_before for report in reports)
    return sum(report.total.params_after for report in reports) / before


def _has_widths(names: list[str], both: int, layer: DenseLayer, name: str) -> bool:
    return name in names and layer.in_features + layer.out_features == both


def by_data(model: Any, batches: list[Any], structure: str | float) -> float:
    """Compress with `compress`, with one structure or equal shares for all layers; returns the share kept."""
    if isinstance(structure, str):
        report = compress(model, batches, structure)
    else:
        texts = ranks(model, structure)
        wanted = {
            swap.name: texts[swap.in_features + swap.out_features] for swap in plan_swaps(model, "dense").replaced
        }
        report = compress(model, batches, wanted)
    return report.total.params_after / report.total.params_before


def by_scales(model: Any, batches: list[Any], keep: float, root_of: Callable[[Tensor], Tensor]) -> float:
    """Replace matrices by truncated decompositions of W S, S from the dense inputs; returns the share kept."""
    inputs: dict[str, list[Tensor]] = {}
    layers = {swap.name: model.get_submodule(swap.name) for swap in plan_swaps(model, "dense").replaced}

    def note(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs.setdefault(name, []).append(args[0].flatten(0, -2))

    handles = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers.items()]
    with torch.no_grad():
        for batch in batches:
            model(**batch)
        for handle in handles:
            handle.remove()
        kept, whole = 0, 0
        for name, layer in layers.items():
            d_out, d_in = layer.weight.shape
            rank = int(keep * d_in * d_out / (d_in + d_out))
            root = root_of(torch.cat(inputs[name]).double())
            u, s, v = torch.linalg.svd(layer.weight.double() @ root, full_matrices=False)
            layer.weight.copy_((u[:, :rank] * s[:rank]) @ v[:rank] @ torch.linalg.inv(root))
            kept, whole = kept + rank * (d_in + d_out), whole + d_in * d_out
    return kept / whole


def asvd(model: Any, batches: list[Any], keep: float) -> float:
    """Compress with S a diagonal: mean absolute inputs to the power of 1/2."""
    return by_scales(model, batches, keep, lambda x: x.abs().mean(0).sqrt().diag())


def svd_llm(model: Any, batches: list[Any], keep: float) -> float:
    """Compress with S the Cholesky root of the inputs' second moment."""
    return by_scales(
        model, batches, keep, lambda x: torch.linalg.cholesky(x.T @ x / len(x) + 1e-8 * torch.eye(x.shape[1]).double())
    )


def budget(model: Any, batches: list[Any], families: list[str], keep: float) -> float:
    """Compress within a budget, layers that stay dense included; returns the share kept."""
    whole = plan_swaps(model, "dense").total.params_before
    total = compress(model, batches, families, keep).total
    return (total.params_after + whole - total.params_before) / whole


def cases() -> Iterator[tuple[str, str, str, Callable[[Any, list[Any]], float]]]:
    """Family, share or parameters, method, and the function that runs it."""
    for keep in SHARES:
        share = f"keep {keep:g}"
        yield "low-rank", share, "plain", partial(by_weights, structure=keep)
        yield "low-rank", share, "asvd", partial(asvd, keep=keep)
        yield "low-rank", share, "svd-llm", partial(svd_llm, keep=keep)
        yield "low-rank", share, "compress", partial(by_data, structure=keep)
        yield "low-rank", share, "budget", partial(budget, families=["low-rank"], keep=keep)
    for family in FAMILIES:
        yield family, "", "plain", partial(by_weights, structure=family)
        yield family, "", "compress", partial(by_data, structure=family)
    several = ["low-rank", "block-shuffle:blocks=4"]
    yield " + ".join(several), "keep 0.25", "budget", partial(budget, families=several, keep=0.25)


def memory() -> dict[str, float]:
    """Bytes of a float32 Llama with 24 layers, and the most resident memory during its compression; on Linux."""
    draws = torch.Generator().manual_seed(0)
    batches = [{"input_ids": torch.randint(0, 256, (4, ROW), generator=draws)} for _ in range(3)]
    compress(llama(64, 2, 128).eval(), batches, "low-rank:r=8")  # memory that is loaded once and kept does not count
    before = _resident("VmRSS")
    model = llama(256, 24, 688).eval()
    size = sum(p.numel() * p.itemsize for p in model.parameters())
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
    compress(model, batches, "low-rank:r=64")
    most = _resident("VmHWM") - before
    return {"model_bytes": size, "most_bytes": most, "ratio": most / size}


def _resident(kind: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(kind))


def main() -> None:
    """Train or read the model, run every case with every seed, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-s", type=float, default=400, help="CPU seconds of training")
    parser.add_argument("--seeds", type=int, default=3, help="draws of calibration data")
    parser.add_argument("--model", type=Path, help="trained weights, written if missing")
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--read", type=Path, metavar="FILE", help="write the table of this JSON in Markdown, and end")
    parser.add_argument("--memory", action="store_true", help="measure memory alone, and print it as JSON")
    options = parser.parse_args()
    if options.memory:
        torch.set_num_threads(1)
        print(json.dumps(memory()))
        return
    if options.read is not None:
        print(table(json.loads(options.read.read_text(encoding="utf-8"))))
        return
    torch.set_num_threads(1)
    training, calibration, held_out = parts()
    model = llama()
    if options.model is not None and options.model.exists():
        stored = torch.load(options.model)
        steps = stored["steps"]
        model.load_state_dict(stored["state"])
    else:
        steps = train(model, training, options.train_s)
        if options.model is not None:
            torch.save({"steps": steps, "state": model.state_dict()}, options.model)
    model.eval()
    state = model.state_dict()
    found: dict[str, Any] = {
        "steps": steps, "seeds": options.seeds, "tokens": ROW * ROWS, "dense": loss_of(model, held_out),
        "params": sum(p.numel() for p in model.parameters()), "rows": [],
    }  # fmt: skip
    print(f"dense: {found['dense']:.4f}", flush=True)
    for family, share, method, run in cases():
        losses, kept, seconds = [], 0.0, []
        for seed in range(1 if method == "plain" else options.seeds):
            fresh = llama().eval()
            fresh.load_state_dict(state)
            draws = torch.Generator().manual_seed(10 + seed)
            batches = [{"input_ids": batch} for batch in rows(calibration, ROWS, draws).split(8)]
            started_s = time.process_time()
            kept = run(fresh, batches)
            seconds.append(time.process_time() - started_s)
            losses.append(loss_of(fresh, held_out))
        row = {
            "family": family,
            "share": share,
            "method": method,
            "kept": kept,
            "losses": losses,
            "cpu_s": statistics.median(seconds),
        }
        found["rows"].append(row)
        _write(found, options.out)
        spread = f"{statistics.fmean(losses):.4f} +- {max(losses) - min(losses):.4f}"
        print(f"{family:24} {share:10} {method:9} {kept:6.1%}  {spread}  {row['cpu_s']:.1f} s", flush=True)
    # In a separate process: memory freed by earlier cases would be used again, and not count.
    alone = subprocess.run([sys.executable, __file__, "--memory"], capture_output=True, text=True, check=True)
    found["memory"] = json.loads(alone.stdout.splitlines()[-1])
    print(f"memory: {found['memory']['ratio']:.2f} of the model", flush=True)
    _write(found, options.out)


def table(found: dict[str, Any]) -> str:
    """The rows as Markdown: mean losses, and their differences from the dense model's.

    >>> row = {"family": "monarch", "method": "plain", "kept": 0.144, "losses": [2.5, 2.7], "cpu_s": 1.04}
    >>> print(table({"dense": 1.25, "rows": [row]}).splitlines()[-1])
    | monarch | 14.4% | plain | 2.600 ± 0.100 | +1.350 | 1.0 |
    """
    lines = ["| structure | kept | method | loss | over dense | CPU s |", "| --- | --- | --- | --- | --- | --- |"]
    for row in found["rows"]:
        losses = row["losses"]
        mean, half = statistics.fmean(losses), (max(losses) - min(losses)) / 2
        spread = f" ± {half:.3f}" if len(losses) > 1 else ""
        lines.append(
            f"| {row['family']} | {row['kept']:.1%} | {row['method']} | {mean:.3f}{spread} "
            f"| {mean - found['dense']:+.3f} | {row['cpu_s']:.1f} |"
        )
    return "\n".join(lines)


def _write(found: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
