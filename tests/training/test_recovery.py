"""Compressed models learn from the dense one."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from einsearch_cli.compression import compress
from einsearch_cli.errors import DataError, DivergedError
from einsearch_cli.training.recovery import recover


class Classifier(nn.Module):
    """Returns logits as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8))

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=4 * self.layers(x))


def _batches() -> list[Tensor]:
    draws = torch.Generator().manual_seed(1)
    return [torch.randn(64, 16, generator=draws) for _ in range(8)]


def test_the_divergence_of_logits_falls() -> None:
    dense = Classifier()
    small = copy.deepcopy(dense)
    compress(small, _batches(), keep=0.4)
    seen: list[tuple[int, float]] = []
    losses = recover(small, dense, _batches(), 150, lr=3e-3, watch=lambda step, loss: seen.append((step, loss)))
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])
    assert seen == list(enumerate(losses, 1))
    x = torch.randn(64, 16)
    with torch.no_grad():
        first, second = (functional.log_softmax(model(x).logits, -1) for model in (small, dense))
    assert functional.kl_div(first, second, log_target=True, reduction="batchmean") < losses[0]


def test_impossible_recoveries_are_refused() -> None:
    dense = Classifier()
    with pytest.raises(DataError, match="no batches to recover with"):
        recover(copy.deepcopy(dense), dense, [], 3)
    with pytest.raises(DivergedError, match="the loss of step 1 is nan"):
        recover(copy.deepcopy(dense), dense, [torch.full((2, 16), torch.nan)], 3)
