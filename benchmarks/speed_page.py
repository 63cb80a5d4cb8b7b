"""The page docs/reference/speed.md, from the files in benchmarks/results: every figure on it is read from there.

python docs/generate.py     # writes this page and the other generated ones again
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LAYERS = ("monarch", "btt:r=4", "kronecker", "tt:r=4", "low-rank", "block-shuffle", "block-dense:r=1/4*d")
CAPTURED_NAMES = {"block-shuffle": "block-shuffle:blocks=4", "block-dense:r=1/4*d": "block-dense:blocks=4,r=d/4"}
"""Names in captured-h200.json that differ from those in the other files."""
CPU_WIDTHS, GPU_WIDTHS, NARROW_WIDTHS = (1024, 2048, 4096), (4096, 8192), (256, 512)

PAGE = """\
# Speed

Every figure on this page is read from a file in `benchmarks/results`. `make benchmark` measures them on your machine.
A speed-up of 4× means that the layer takes a quarter of the time of `nn.Linear`. All layers of a case run in turn,
round after round, and ratios are medians over the rounds. Single figures wander by a tenth from run to run.

"× bare" is the time of the layer over the time of its matrix products with nothing around them. 1.00 means no overhead.
A layer may be below 1.00, because it may merge its factors into one matrix.

## Training on a CPU

One training step with 4,096 tokens, float32, on one core: {cpu}.

{training}

The same on {xeon}.

{training_xeon}

Figures: [layers.json](../../benchmarks/results/layers.json),
[layers-xeon.json](../../benchmarks/results/layers-xeon.json).

## Narrow layers gain less, or are slower

Small layers have little to save, and the calls around the products take time. One training step with 256 tokens,
on one core of {cpu}:

{narrow}

## Decoding on a CPU

One token at a time, with merged layers, on one core of {cpu}.
"Over einsum" is the speed-up over plain `torch.einsum` with the factors.

{decoding}

A merged layer up to width 512 multiplies by one matrix. It is as fast as `nn.Linear` and no faster.

## Whole models on a CPU

One training step with the structure in every linear layer, on one core of {cpu}.

{models}

Figures: [models.json](../../benchmarks/results/models.json).

## Decoding with a transformer

Time of one step over that of a dense transformer, on one core of {cpu}.
The networks have two blocks of width 1024 and
structured feed-forward networks with about a third of the dense parameters. A step decodes one token in each of 1, 4 or
16 rows, or reads a prompt of 4,096 tokens (prefill).

{transformer}

"Chosen" is the way that the planner takes for a merged model. By FLOPs, a step could take {share} of the dense time.

Figures: [decoding.json](../../benchmarks/results/decoding.json).

## Training on a GPU

One training step with 16,384 tokens, bfloat16, on {gpu}.
"Captured" is the step in a CUDA graph, compared with `nn.Linear` and bare products in a CUDA graph.

{gpu_training}

Without a CUDA graph, every operation costs the host time, so narrow layers are slower than `nn.Linear`. At width 1024:

{gpu_narrow}

`torch.compile` adds to the time of a single layer unless `mode="reduce-overhead"` captures the step. Nothing in a step
waits for the GPU, so a step can be captured. Kronecker and `tt` run in one kernel a pass.

Figures: [layers-h200.json](../../benchmarks/results/layers-h200.json),
[captured-h200.json](../../benchmarks/results/captured-h200.json).
"""


def page() -> str:
    """The text of docs/reference/speed.md."""
    cpu, xeon, gpu = _read("layers"), _read("layers-xeon"), _read("layers-h200")
    decoding = _read("decoding")["runs"]
    share = max(run["flops_over_dense"] for run in decoding if run["network"] != "dense")
    return PAGE.format(
        cpu=_machine(cpu),
        xeon=_machine(xeon),
        gpu=_machine(gpu),
        training=_speeds(cpu, "training", 4096, CPU_WIDTHS, "vs_bare"),
        training_xeon=_speeds(xeon, "training", 4096, CPU_WIDTHS, "vs_bare"),
        narrow=_speeds(cpu, "training", 256, NARROW_WIDTHS, "vs_bare", ("dense", *LAYERS)),
        decoding=_speeds(cpu, "decode", 1, (256, *CPU_WIDTHS), "vs_einsum"),
        models=_models(_read("models")["models"]),
        transformer=_transformer(decoding, _read("decoding")["widths"]["1024"]),
        share=f"{share:.2f}",
        gpu_training=_captured(gpu, _read("captured-h200")),
        gpu_narrow=_speeds(gpu, "training", 16384, (1024,), "vs_bare", ("dense", *LAYERS)),
    )


def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return document


def _machine(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    return f"{machine['device'].replace('(R)', '').replace(' Processor', '')}, torch {machine['torch']}"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---", *["---:"] * (len(headers) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _one(measurements: Iterable[Mapping[str, Any]], **wanted: object) -> Mapping[str, Any]:
    (found,) = (each for each in measurements if all(each[key] == value for key, value in wanted.items()))
    return found


def _speeds(
    document: Mapping[str, Any],
    mode: str,
    tokens: int,
    widths: Sequence[int],
    beside: str,
    layers: Sequence[str] = LAYERS,
) -> str:
    """Speed-ups over `nn.Linear` by width, each with the ratio `beside`: time over bare products, or speed over einsum."""
    is_speed = beside == "vs_einsum"
    rows = []
    for name in layers:
        row = [f"`{name}`"]
        for width in widths:
            found = _one(document["measurements"], name=name, mode=mode, tokens=tokens, width=width)
            ratio = found[beside]["median"]
            row += [f"{found['speedup']:.1f}×", f"{1 / ratio:.1f}×" if is_speed else f"{ratio:.2f}"]
        rows.append(row)
    second = "over einsum" if is_speed else "× bare"
    return _table(["layer", *(text for width in widths for text in (f"width {width}", second))], rows)


def _models(models: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            model["model"],
            f"`{model['structure']}`",
            f"{model['speedup']:.1f}×",
            f"{model['flops_ratio']:.1f}×",
            f"{model['dense_params'] / model['params']:.1f}×",
        ]
        for model in models
    ]
    return _table(["model", "structure", "speed-up", "fewer FLOPs", "fewer parameters"], rows)


def _transformer(runs: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
    cases = ("decode 1", "decode 4", "decode 16", "prefill")
    rows = [
        [f"`{text}`", way, *(f"{_one(runs, case=case, network=f'{name}, {way}')['over_dense']:.2f}" for case in cases)]
        for name, text in names.items()
        if name != "dense"
        for way in ("chosen", "factors", "merged")
    ]
    return _table(["structure", "way", "1 row", "4 rows", "16 rows", "prefill"], rows)


def _captured(document: Mapping[str, Any], captured: Mapping[str, Any]) -> str:
    rows = []
    for name in LAYERS:
        row = [f"`{name}`"]
        for width in GPU_WIDTHS:
            eager = _one(document["measurements"], name=name, mode="training", tokens=16384, width=width)
            graph = _one(captured["measurements"], name=CAPTURED_NAMES.get(name, name), width=width)
            row += [f"{eager['speedup']:.1f}×", f"{eager['vs_bare']['median']:.2f}"]
            row += [f"{1 / graph['captured_vs_dense']:.1f}×", f"{graph['captured_vs_bare']:.2f}"]
        rows.append(row)
    headers = [text for width in GPU_WIDTHS for text in (f"width {width}", "× bare", "captured", "× bare")]
    return _table(["layer", *headers], rows)
