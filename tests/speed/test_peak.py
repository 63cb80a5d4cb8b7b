"""Peaks are exact where they can be computed by hand."""

import pytest
import torch

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.speed import Bench, Entrant, Mode, cases_of, measuring as bench_module
from einsearch_cli.speed.peak import peak_bytes
from einsearch_cli.structures import parse_structure

CPU = torch.device("cpu")


def test_memory_freed_in_between_does_not_count_twice() -> None:
    def call() -> torch.Tensor:
        first, second = torch.empty(1000), torch.empty(3000)
        del first
        third = torch.empty(500)
        del second, third
        return torch.empty(2000)

    assert peak_bytes(call, CPU) == 4 * 4000


def test_memory_held_before_does_not_count() -> None:
    held = [torch.empty(10_000)]
    assert peak_bytes(lambda: torch.empty(10), CPU) == 40
    assert peak_bytes(held.clear, CPU) == 0


@pytest.mark.parametrize(("tokens", "width"), [(8, 64), (96, 32)])
def test_of_a_dense_layer_by_hand(tokens: int, width: int) -> None:
    entrants = (Entrant("dense", parse_structure("dense")),)
    for mode in (Mode.training, Mode.decode, Mode.forward):
        cases = cases_of([Mode.training, Mode.decode, Mode.forward], [width], [tokens])
        case = next((case for case in cases if case.mode is mode), None)
        if case is None:
            continue
        (item,) = Bench(entrants=entrants, cases=(case,), device=CPU, rounds=1).run().measurements
        held = width * width + width + tokens * width  # weight, bias, input
        new = tokens * width  # output
        if mode is Mode.training:
            new += tokens * width + width * width + width  # gradients of input, weight, bias
        assert item.dense_peak_bytes == 4 * (held + new)


def test_what_the_first_call_keeps_for_later_ones_counts(monkeypatch) -> None:
    class Keeps(EinsumLinear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not hasattr(self, "kept"):
                self.kept = torch.zeros(5000)
            return super().forward(x)

    entrants = (Entrant("monarch", parse_structure("monarch")),)
    bench = Bench(entrants=entrants, cases=cases_of([Mode.decode], [16], [1]), device=CPU, rounds=1)
    (plain,) = bench.run().measurements
    monkeypatch.setattr(bench_module, "EinsumLinear", Keeps)
    (keeping,) = bench.run().measurements
    assert keeping.peak_bytes >= plain.peak_bytes + 4 * 4000
