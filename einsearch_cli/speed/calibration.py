"""Measure the constants of the planner's cost model on this machine, in a few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from einsearch_cli.layers import EinsumLinear, merge
from einsearch_cli.layers.execution.cpu import CpuExecutor
from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU, WIDTHS, ChunkLengths, MachineProfile
from einsearch_cli.layers.plans.planner import routes, stored_plan
from einsearch_cli.structures import parse_structure

_ROUNDS = 7
_ROUND_S = 4e-3
"""Short calls are repeated until a round takes this long."""
_LONG_CHUNKS = (136, 264, 504)
_FEW_ROWS = 4
"""The number of rows of products so small that arithmetic does not decide their time."""


def calibrate(
    dtype: torch.dtype = torch.float32, on_constant: Callable[[str, int, int], None] = lambda *_: None
) -> MachineProfile:
    """Measure the profile of the CPU with torch's current number of threads for a dtype; this takes a few seconds.

    `on_constant` is called with the name of the next constant, its place from 0, and the number of constants. Noise
    only ever slows things down, so every constant is the fastest of several rounds.
    """
    measures: dict[str, Callable[[torch.dtype], Iterable[float]]] = {
        "mac": _macs,
        "layer": _calls,
        "matrix": lambda dtype: _matrices(dtype, dict(zip(WIDTHS, measured["mac"], strict=True))),
        "weight": lambda dtype: _weights(dtype, measured["mac"][-1]),
        "copy": _copies,
        "chunk": _chunks,
    }
    measured: dict[str, tuple[float, ...]] = {}
    for step, (name, measure) in enumerate(measures.items()):
        on_constant(name, step, len(measures))
        measured[name] = tuple(measure(dtype))
    layer_ns, step_ns = measured["layer"]
    cached_ns, memory_ns, cache_bytes = measured["weight"]
    copy_ns, run_ns = measured["copy"]
    (longer,) = measured["chunk"]
    return replace(
        DEFAULT_CPU.of_itemsize(dtype.itemsize),
        layer_ns=layer_ns,
        step_ns=step_ns,
        matrix_ns=measured["matrix"][0],
        mac_ns=measured["mac"],
        cached_weight_ns=cached_ns,
        memory_weight_ns=memory_ns,
        cache_bytes=cache_bytes,
        copy_ns=copy_ns,
        run_ns=run_ns,
        chunks=replace(ChunkLengths(), of_many_params=int(longer)),
        source=f"constants measured here with {torch.get_num_threads()} thread(s) for {str(dtype).removeprefix('torch.')}",
    )


def fastest_ns(run: Callable[[], object]) -> float:
    """Duration of one call: the fastest of several rounds."""
    # With one thread, its own CPU time is not disturbed by other processes on the machine.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    run()
    started_s = clock()
    run()
    repeats = max(1, int(_ROUND_S / max(1e-6, clock() - started_s)))
    durations = []
    for _ in range(_ROUNDS):
        started_s = clock()
        for _ in range(repeats):
            run()
        durations.append((clock() - started_s) / repeats)
    return 1e9 * min(durations)


def _calls(dtype: torch.dtype) -> Iterator[float]:
    """The own time of a layer with its last copy, and that of a step, from small layers of two and four steps."""
    x = torch.randn(1, 16).to(dtype)
    texts = ("monarch", "monarch:n=4")
    layers = [EinsumLinear(16, 16, text, dtype=dtype) for text in (*texts, texts[0])]
    for layer, number in zip(layers, (0, 0, 1), strict=True):
        layer.route = routes(layer.sized)[number].text
        merge(layer)
    with torch.inference_mode():
        two, four, merged = (fastest_ns(partial(layer, x)) for layer in layers)
    step_ns = max(0.0, (four - two) / 2)
    yield max(0.0, two - 2 * step_ns - merged)
    yield step_ns


def _matrices(dtype: torch.dtype, mac_ns: Mapping[int, float]) -> Iterator[float]:
    """The cost of one matrix of a batched product beyond call and arithmetic: many small ones against few."""
    few, many = (fastest_ns(_product(batch, _FEW_ROWS, 16, 16, dtype, is_feature_major=False)) for batch in (16, 256))
    yield max(0.0, (many - few) / 240 - _FEW_ROWS * 16 * 16 * mac_ns[16])


def _macs(dtype: torch.dtype) -> Iterator[float]:
    """The time of a multiply-add by width, in chunks of tokens as layers use them."""
    for width in WIDTHS:
        batch = max(1, 1024 // width)
        yield fastest_ns(_product(batch, 200, width, width, dtype)) / (batch * 200 * width * width)


def _weights(dtype: torch.dtype, mac_ns: float) -> Iterator[float]:
    """The time of a weight in products of four rows, in cache and from main memory.

    The last value is the number of bytes up to which weights count as cached: there, a product of one row takes the
    mean of both times.
    """
    for width in (512, 4096):
        arithmetic_ns = _FEW_ROWS * width * width * mac_ns
        yield max(0.02, (fastest_ns(_product(1, _FEW_ROWS, width, width, dtype)) - arithmetic_ns) / width**2)
    per_weight = {
        width: fastest_ns(_product(1, 1, width, width, dtype)) / width**2 for width in (512, 1024, 2048, 3072, 4096)
    }
    middle = (per_weight[512] * per_weight[4096]) ** 0.5
    yield float(max(dtype.itemsize * width**2 for width, ns in per_weight.items() if ns <= middle))


def _copies(dtype: torch.dtype) -> Iterator[float]:
    """The time of an element in long runs, and of the start of a run, from runs of 16."""
    source, target = torch.randn(128, 64, 16).to(dtype), torch.empty(128, 64, 16, dtype=dtype)
    long_ns = fastest_ns(lambda: target.copy_(source)) / source.numel()
    short = source.transpose(0, 1)
    out = torch.empty(64, 128, 16, dtype=dtype)
    short_ns = fastest_ns(lambda: out.copy_(short)) / source.numel()
    yield long_ns
    yield max(0.0, 16 * (short_ns - long_ns))


def _chunks(dtype: torch.dtype) -> Iterator[float]:
    """The best number of tokens per chunk where factors overflow the cache, among lengths that were best somewhere."""
    plan = stored_plan(parse_structure("btt:r=4").at(2048, 2048))
    x, factors = torch.randn(1024, 2048).to(dtype), [torch.randn(*s.weight_shape).to(dtype) for s in plan.steps]
    times = {}
    for tokens in _LONG_CHUNKS:
        executor = CpuExecutor(plan, len(x), replace(ChunkLengths(), of_many_params=tokens))
        times[tokens] = fastest_ns(partial(executor.forward, x, None, None, factors))
    yield min(times, key=lambda tokens: times[tokens])


def _product(
    batch: int, rows: int, k: int, n: int, dtype: torch.dtype, is_feature_major: bool = True
) -> Callable[[], Tensor]:
    """A product as layers compute it: feature-major unless there are few rows; a single matrix is an ordinary product."""
    if batch == 1:
        x, weight = torch.randn(rows, k).to(dtype), torch.randn(k, n).to(dtype)
        return lambda: torch.mm(x, weight)
    if not is_feature_major:
        x, weight = torch.randn(batch, rows, k).to(dtype), torch.randn(batch, k, n).to(dtype)
        return lambda: torch.bmm(x, weight)
    x, weight = (torch.randn(batch, *shape).to(dtype).transpose(1, 2) for shape in ((rows, k), (k, n)))
    return lambda: torch.bmm(weight, x)
