"""The bare products are the layer's own products, and nothing else."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU
from einsearch_cli.speed import MARKET, Case, Mode
from einsearch_cli.speed.bare import arenas_for, bare_products
from einsearch_cli.speed.peak import peak_bytes
from einsearch_cli.taxonomy import flops_per_token

CPU = torch.device("cpu")
TOKENS = 6


@pytest.mark.parametrize("mode", [Mode.decode, Mode.training])
@pytest.mark.parametrize("width", [60, 61, 64])
@pytest.mark.parametrize("structure", MARKET)
def test_flops_are_those_of_the_layer(structure: str, width: int, mode: Mode) -> None:
    layer = EinsumLinear(width, width, structure, device="meta")
    for plan in (layer.plan, layer.plan.at(TOKENS, DEFAULT_CPU.token_major)):
        run = bare_products(plan, Case(mode, width, TOKENS), arenas_for([plan], TOKENS, CPU, torch.float32))
        with FlopCounterMode(display=False) as counter:
            run()
        assert counter.get_total_flops() == (3 if mode is Mode.training else 1) * TOKENS * layer.flops_per_token
    assert layer.flops_per_token == flops_per_token(layer.sized)


@pytest.mark.parametrize("structure", MARKET)
def test_nothing_is_allocated_in_a_call(structure: str) -> None:
    layer = EinsumLinear(64, 64, structure, device="meta")
    run = bare_products(
        layer.plan, Case(Mode.training, 64, TOKENS), arenas_for([layer.plan], TOKENS, CPU, torch.float32)
    )
    assert peak_bytes(run, CPU) == 0


def test_layers_share_memory_but_operands_are_never_results() -> None:
    plans = [EinsumLinear(64, 64, structure, device="meta").plan for structure in MARKET]
    arenas = arenas_for(plans, TOKENS, CPU, torch.float32)
    runs = [bare_products(plan, Case(Mode.training, 64, TOKENS), arenas) for plan in plans]
    before = arenas[0]._memory.clone()
    results = []
    for _ in range(3):
        for run in runs:
            run()
        results.append(arenas[1]._memory.clone())
    assert torch.equal(arenas[0]._memory, before)
    assert torch.equal(results[0], results[2])
    assert results[0].count_nonzero() > 0


def test_tokens_read_as_batch_become_rows_of_one_matrix() -> None:
    """Three matrices in a row: the products of a tensor train are ordinary ones."""
    layer = EinsumLinear(64, 64, "kronecker", device="meta")
    case = Case(Mode.forward, 64, 100)
    with FlopCounterMode(display=False) as counter:
        bare_products(layer.plan, case, arenas_for([layer.plan], 100, CPU, torch.float32))()
    batched = [op for op in counter.get_flop_counts()["Global"] if "bmm" in str(op)]
    reads_tokens_as_batch = [step.is_along_tokens for step in layer.plan.steps]
    assert len(batched) <= reads_tokens_as_batch.count(False)
