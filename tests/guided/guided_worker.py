"""One process of a data-parallel, self-guided run; prints the mean loss of every step and the names at the end.

Usage: python guided_worker.py RANK WORLD_SIZE MEETING_FILE
"""

from __future__ import annotations

import json
import sys

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from einsearch_cli.guided import guide_is_evaluated, guide_layers, guide_weight
from einsearch_cli.layers import EinsumLinear

STEPS, GUIDED_STEPS, ROWS = 8, 5, 8


def train(rank: int, world_size: int) -> tuple[list[float], list[str]]:
    """Mean losses over all rows, and the names in the state at the end; the guide is dropped midway."""
    torch.manual_seed(0)
    model = nn.Sequential(EinsumLinear(16, 32, "btt:r=2"), nn.ReLU(), EinsumLinear(32, 4, "low-rank:r=3")).double()
    guide = guide_layers(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    wrapped = _wrapped(model, world_size, guided=True)
    losses = []
    for step in range(STEPS):
        if step == GUIDED_STEPS:
            guide.drop(optimizer)
            wrapped = _wrapped(model, world_size, guided=False)
        weight = guide_weight(step, GUIDED_STEPS)
        guide.set_weight(weight, evaluate=guide_is_evaluated(step, weight, seed=3))
        rows = torch.randn(2, ROWS, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        own = slice(rank * ROWS // world_size, (rank + 1) * ROWS // world_size)
        loss = (wrapped(rows[0, own]) - rows[1, own, :4]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        if world_size > 1:
            distributed.all_reduce(mean)
        losses.append(mean.item() / world_size)
    return losses, list(model.state_dict())


def _wrapped(model: nn.Module, world_size: int, guided: bool) -> nn.Module:
    # A step of the stochastic mode may leave the guides without gradients.
    return model if world_size == 1 else DistributedDataParallel(model, find_unused_parameters=guided)


if __name__ == "__main__":
    torch.set_num_threads(1)
    own_rank, processes = int(sys.argv[1]), int(sys.argv[2])
    distributed.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=own_rank, world_size=processes)
    result = train(own_rank, processes)
    distributed.destroy_process_group()
    print(json.dumps(result))  # noqa: T201
