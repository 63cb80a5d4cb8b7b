"""One of two processes that train together, all runs of `TOGETHER` one after another.

RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT as torchrun sets them:

    python -m tests.training.full.two_processes FOLDER
"""

import sys
from pathlib import Path
from typing import Any

import torch

from einsearch_cli.training.full import open_world, train_full
from tests.training.full.runs import tiny_data, tiny_spec

GUIDED: dict[str, Any] = {"guidance": {"mode": "stochastic", "ratio": 0.4}, "accumulation": 2}

TOGETHER: dict[str, dict[str, Any]] = {
    "plain": {"steps": 20},
    "self-guided": {"steps": 20, **GUIDED, "model": {"structure": "btt:r=2"}, "recompute": True},
    "muon": {"steps": 20, "optimizer": {"name": "muon", "learning_rate": 1e-2}, "model": {"structure": "btt:r=2"}},
}
"""Runs of twenty steps each, all of them with DDP and with FSDP2."""


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with open_world("cpu") as world:
        assert world.size == 2
        for parallel in ("ddp", "fsdp"):
            for name, changes in TOGETHER.items():
                train_full(tiny_spec(parallel=parallel, **changes), tiny_data(), folder / f"{name}-{parallel}", world)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
