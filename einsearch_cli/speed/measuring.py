"""One run of the benchmark: case by case, with all layers of a case in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from einsearch_cli.errors import SpecError
from einsearch_cli.layers import EinsumLinear, merge
from einsearch_cli.layers.plans.machine_profile import profile_for
from einsearch_cli.speed.bare import arenas_for, bare_products, einsum_route
from einsearch_cli.speed.cases import Case, Entrant, Mode, check_memory, check_sizes
from einsearch_cli.speed.machine import machine_facts
from einsearch_cli.speed.peak import peak_bytes
from einsearch_cli.speed.race import Race, clock_name, expected_rounds, least_seconds
from einsearch_cli.speed.results import BenchResult, Measurement, Spread
from einsearch_cli.taxonomy import flops_per_token

_OVERHEAD = 1.5
"""A guess for the estimate: the time of a call divided by that of its products at the rate of a large product."""
_SET_UP_S = 0.02
"""Seconds to build one layer and to record its memory."""
_SET_UP_ROUNDS = 1.6
"""Recording memory and warming up take about as long as this many rounds."""

OnRound = Callable[[Case, int | None], None]
"""Called with a case and its number of finished rounds: None when it begins, 0 after the warm-up."""


@dataclass(frozen=True, slots=True)
class CaseEstimate:
    """The expected duration of a case."""

    set_up_s: float
    """Seconds before the first round."""
    round_s: float
    rounds: int

    @property
    def total_s(self) -> float:
        return self.done_s(self.rounds)

    def done_s(self, rounds: int | None) -> float:
        """Expected seconds up to the end of this round; None means the beginning of the case."""
        return 0.0 if rounds is None else self.set_up_s + self.round_s * min(self.rounds, rounds)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Everything that determines a run of the benchmark.

    >>> from einsearch_cli.speed.cases import cases_of
    >>> from einsearch_cli.structures import parse_structure
    >>> entrants = (Entrant("monarch", parse_structure("monarch")),)
    >>> cases = cases_of([Mode.training], [64], [8])
    >>> bench = Bench(entrants=entrants, cases=cases, device=torch.device("cpu"), rounds=2)
    >>> [(item.name, item.case.tokens, item.rounds, item.flops) for item in bench.run().measurements]
    [('monarch', 8, 2, 49152)]
    """

    entrants: tuple[Entrant, ...]
    cases: tuple[Case, ...]
    device: torch.device
    rounds: int | None = None
    """The number of rounds; None takes as many as are worth their time."""
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise SpecError(
                "device cuda: this torch sees no CUDA device",
                remedy="--device cpu, or a torch with CUDA on a machine with an NVIDIA GPU",
            )
        if self.device.type not in ("cpu", "cuda"):
            raise SpecError(f"device {self.device}: cpu and cuda can be measured", remedy="--device cpu")
        if self.rounds is not None and self.rounds < 1:
            raise SpecError(f"{self.rounds} rounds: at least 1 is measured", remedy="--rounds 9")
        check_sizes(self.entrants, self.cases)
        check_memory(self.cases, self.device, self.dtype)

    def estimate(self) -> dict[Case, CaseEstimate]:
        """The expected duration of every case, from its FLOPs and the rate of a matrix product on this machine."""
        rate = _flops_per_second(self.device, self.dtype)
        return {case: self._case_estimate(case, rate) for case in self.cases}

    def _case_estimate(self, case: Case, rate: float) -> CaseEstimate:
        dense = case.mode.passes * 2 * case.tokens * case.width**2
        own = [case.mode.passes * case.tokens * flops_per_token(entrant.at(case.width)) for entrant in self.entrants]
        calls = [dense, *own, *own, *(own if case.mode is Mode.decode else ())]
        round_s = sum(least_seconds(_OVERHEAD * flops / rate, self.device.type) for flops in calls)
        rounds = expected_rounds(round_s) if self.rounds is None else self.rounds
        return CaseEstimate(_SET_UP_S * len(calls) + _SET_UP_ROUNDS * round_s, round_s, rounds)

    def run(self, on_round: OnRound = lambda _case, _rounds: None) -> BenchResult:
        """Measure all cases; an interruption (Ctrl-C) ends the run, and the result contains what was measured so far."""
        started_s = time.perf_counter()
        machine = machine_facts(self.device)
        measurements: list[Measurement] = []
        complete = True
        for case in self.cases:
            attempt = _CaseRun(self, case)
            try:
                on_round(case, None)
                attempt.run(on_round)
            except KeyboardInterrupt:
                complete = False
            measurements += attempt.measurements()
            if not complete:
                break
        return BenchResult(
            measurements=tuple(measurements),
            settings={
                "dtype": str(self.dtype).removeprefix("torch."),
                "device": self.device.type,
                "threads": torch.get_num_threads(),
                "clock": clock_name(self.device),
            },
            machine=machine,
            elapsed_s=time.perf_counter() - started_s,
            complete=complete,
        )


@dataclass(frozen=True, slots=True)
class _Runner:
    """The call of a layer in a case, and the most memory that it holds."""

    call: Callable[[], object]
    peak_bytes: int


class _CaseRun:
    """One case from its tensors to its measurements."""

    def __init__(self, bench: Bench, case: Case) -> None:
        self.bench, self.case = bench, case
        self.race = Race({}, bench.device)
        self.runners: list[_Runner] = []

    def run(self, on_round: OnRound) -> None:
        case, device, dtype = self.case, self.bench.device, self.bench.dtype
        structures = [entrant.structure for entrant in self.bench.entrants]
        trains = case.mode is Mode.training
        x = torch.randn(case.tokens, case.width, device=device, dtype=dtype, requires_grad=trains)
        y_grad = torch.randn(case.tokens, case.width, device=device, dtype=dtype) if trains else None
        layers = [EinsumLinear(case.width, case.width, item, device=device, dtype=dtype) for item in structures]
        dense = nn.Linear(case.width, case.width, device=device, dtype=dtype)
        if case.mode.merges:
            for layer in layers:
                merge(layer)
        self.runners = [_runner(layer, x, y_grad) for layer in (dense, *layers)]
        few = profile_for(device.type, torch.get_num_threads(), dtype).token_major
        plans = [layer.plan.at(case.tokens, few) for layer in layers]
        arenas = arenas_for(plans, case.tokens, device, dtype)
        candidates: dict[str, Callable[[], object]] = {"dense": self.runners[0].call}
        for number, (layer, plan) in enumerate(zip(layers, plans, strict=True)):
            candidates[f"layer {number}"] = self.runners[number + 1].call
            candidates[f"bare {number}"] = bare_products(plan, case, arenas)
            if case.mode is Mode.decode:
                candidates[f"einsum {number}"] = _inference(einsum_route(layer), layer.padded(x))
        self.race = Race(candidates, device)
        self.race.run(self.bench.rounds, lambda: on_round(case, self.race.rounds))

    def measurements(self) -> list[Measurement]:
        """One measurement per layer, from the finished rounds."""
        if not self.race.rounds:
            return []
        return [self._measurement(number, entrant) for number, entrant in enumerate(self.bench.entrants)]

    def _measurement(self, number: int, entrant: Entrant) -> Measurement:
        case, times = self.case, self.race.durations_s
        dense, layer, bare = times["dense"], times[f"layer {number}"], times[f"bare {number}"]
        einsum = times.get(f"einsum {number}")
        sized = entrant.at(case.width)
        return Measurement(
            name=entrant.name,
            structure=str(entrant.structure),
            case=case,
            rounds=self.race.rounds,
            params=sized.params,
            flops=case.mode.passes * case.tokens * flops_per_token(sized),
            layer_s=Spread.of(layer),
            dense_s=Spread.of(dense),
            bare_s=Spread.of(bare),
            einsum_s=None if einsum is None else Spread.of(einsum),
            vs_dense=Spread.of_ratios(layer, dense),
            vs_bare=Spread.of_ratios(layer, bare),
            vs_einsum=None if einsum is None else Spread.of_ratios(layer, einsum),
            peak_bytes=self.runners[number + 1].peak_bytes,
            dense_peak_bytes=self.runners[0].peak_bytes,
        )


def _runner(layer: nn.Module, x: Tensor, y_grad: Tensor | None) -> _Runner:
    call = _inference(layer.eval(), x) if y_grad is None else _training_step(layer, x, y_grad)
    held = sum(tensor.numel() * tensor.element_size() for tensor in (x, *layer.parameters()))
    return _Runner(call, held + peak_bytes(call, x.device))


def _inference(layer: Callable[[Tensor], object], x: Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return layer(x)

    return run


def _training_step(layer: nn.Module, x: Tensor, y_grad: Tensor) -> Callable[[], object]:
    """A forward and a backward pass; gradients are freed at the end, as before the next step."""

    def run() -> None:
        layer(x).backward(y_grad)
        x.grad = None
        layer.zero_grad(set_to_none=True)

    return run


def _flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """The rate of one matrix product that is large enough for the device."""
    size = 512 if device.type == "cpu" else 4096
    left, into = (
        torch.randn(size, size, device=device, dtype=dtype),
        torch.empty(size, size, device=device, dtype=dtype),
    )
    race = Race({"product": lambda: torch.mm(left, left, out=into)}, device)
    race.run(rounds=3)
    return 2 * size**3 / min(race.durations_s["product"])
