"""The auxiliary loss: its value by hand, and in every way in which a model is trained."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from einsearch_cli.errors import LayerError
from einsearch_cli.layers import AuxiliaryLoss, FeedForwardMoE, StructuredMoE, swap_linear

EXPERTS, TOP = 4, 2


class Residual(nn.Module):
    """Two layers of experts, the second perhaps checkpointed."""

    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first = StructuredMoE(8, 8, f"dense-moe:experts={EXPERTS},top={TOP}", dtype=torch.float64)
        self.second = StructuredMoE(8, 8, f"low-rank-moe:r=2,experts={EXPERTS},top={TOP}", dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x).tanh()
        if self.reentrant is None:
            return x + self.second(x)
        return x + torch.as_tensor(checkpoint(self.second, x, use_reentrant=self.reentrant))


def model(reentrant: bool | None = None) -> Residual:
    torch.manual_seed(0)
    found = Residual(reentrant)
    for name, parameter in found.named_parameters():
        if "router" in name:
            nn.init.normal_(parameter)
    return found


def batch(tokens: int = 24) -> Tensor:
    return torch.randn(tokens, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_hand(logits: Tensor) -> Tensor:
    """E · Σ f p + 0.1 · mean(logsumexp²) in loops over tokens and experts."""
    tokens, experts = logits.shape
    shares, means = [0.0] * experts, [torch.zeros(()).double() for _ in range(experts)]
    for row in logits:
        for expert in row.tolist().index(max(row.tolist())), sorted(range(experts), key=lambda e: row[e].item())[-2]:
            shares[expert] += 1 / (TOP * tokens)
        for expert in range(experts):
            means[expert] = means[expert] + row[expert].exp() / row.exp().sum() / tokens
    assert sum(shares) == pytest.approx(1)
    balance = experts * sum(share * mean for share, mean in zip(shares, means, strict=True))
    return balance + 0.1 * (sum(row.exp().sum().log() ** 2 for row in logits) / tokens)


def router_gradients(found: Residual) -> list[Tensor]:
    gradients = [layer.router.weight.grad for layer in (found.first, found.second)]
    assert all(g is not None and g.abs().max() > 1e-4 for g in gradients)
    return [g.clone() for g in gradients if g is not None]


def trained(found: Residual, x: Tensor) -> tuple[float, list[Tensor]]:
    """Auxiliary loss of one step, and the gradients of the routers."""
    found.zero_grad()
    with AuxiliaryLoss(found) as auxiliary:
        loss = found(x).square().mean()
    extra = auxiliary.loss()
    (loss + extra).backward()
    return extra.item(), router_gradients(found)


def test_value_and_gradient_by_hand() -> None:
    found, x = model(), batch()
    with AuxiliaryLoss(found, weight=0.03) as auxiliary:
        found(x)
    middle = x + found.first(x).tanh()
    logits = [x @ found.first.router.weight.T, middle @ found.second.router.weight.T]
    wanted = 0.03 * (by_hand(logits[0]) + by_hand(logits[1])) / 2
    torch.testing.assert_close(auxiliary.loss(), wanted)
    weights = [found.first.router.weight, found.second.router.weight]
    for ours, theirs in zip(
        torch.autograd.grad(auxiliary.loss(), weights), torch.autograd.grad(wanted, weights), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_statistics_by_hand() -> None:
    found, x = model(), batch()
    with AuxiliaryLoss(found) as auxiliary:
        found(x)
    first, second = auxiliary.statistics()
    assert (first.layer, second.layer) == ("first", "second")
    p = (x @ found.first.router.weight.T).softmax(dim=1)
    chosen = (x @ found.first.router.weight.T).argsort(dim=1, descending=True)[:, :TOP]
    assert first.load == pytest.approx([(chosen == e).sum().item() / (24 * TOP) for e in range(EXPERTS)])
    assert first.token_entropy == pytest.approx(-(p * p.log()).sum(dim=1).mean().item())
    assert first.aggregate_entropy == pytest.approx(-(p.mean(0) * p.mean(0).log()).sum().item())
    assert first.dropped == 0
    assert first.smallest_load == pytest.approx(min(first.load) * EXPERTS)
    assert type(first).from_json(first.to_json()) == first


def test_a_model_without_experts_has_none() -> None:
    dense = nn.Linear(8, 8)
    with AuxiliaryLoss(dense) as auxiliary:
        dense(torch.zeros(1, 8))
    assert auxiliary.loss().item() == 0
    assert auxiliary.statistics() == ()


def test_feed_forward_mixtures_count_once() -> None:
    layer = FeedForwardMoE(8, 16, "ffn-moe:experts=4,top=2")
    with AuxiliaryLoss(nn.ModuleDict({"ffn": layer}), weight=1.0) as auxiliary:
        layer(torch.randn(5, 8))
    assert auxiliary.loss().item() == pytest.approx(1 + 0.1 * math.log(4) ** 2)
    assert [found.layer for found in auxiliary.statistics()] == ["ffn"]


def test_layers_swapped_in_later_are_found() -> None:
    found = nn.Sequential(nn.Linear(8, 8))
    auxiliary = AuxiliaryLoss(found, weight=1.0)
    with auxiliary:
        found(torch.randn(5, 8))
    assert auxiliary.loss().item() == 0
    swap_linear(found, "dense-moe:experts=4,top=2")
    with auxiliary:
        found(torch.randn(5, 8))
    assert auxiliary.loss().item() == pytest.approx(1 + 0.1 * math.log(4) ** 2)
    assert [statistics.layer for statistics in auxiliary.statistics()] == ["0"]


def test_other_models_and_other_times_are_ignored() -> None:
    found, other, x = model(), model(), batch()
    found(x)
    with AuxiliaryLoss(found) as auxiliary:
        found(x)
        other(2 * x)
    found(3 * x)
    alone, _ = trained(found, x)
    assert auxiliary.loss().item() == pytest.approx(alone)


def test_several_passes_in_one_context_are_one_batch() -> None:
    found, x = model(), batch()
    whole, wanted = trained(found, x)
    found.zero_grad()
    with AuxiliaryLoss(found) as auxiliary:
        parts = [found(part).square().mean() for part in x.split(6)]
    assert auxiliary.loss().item() == pytest.approx(whole)
    (sum(parts) / 4 + auxiliary.loss()).backward()
    for ours, theirs in zip(router_gradients(found), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_accumulated_gradients_are_the_mean_of_the_micro_batches() -> None:
    found, parts = model(), batch().split(8)
    singly = [trained(found, part)[1] for part in parts]
    found.zero_grad()
    for part in parts:
        with AuxiliaryLoss(found) as auxiliary:
            loss = found(part).square().mean()
        ((loss + auxiliary.loss()) / len(parts)).backward()
    for layer, ours in enumerate(router_gradients(found)):
        torch.testing.assert_close(ours, sum(one[layer] for one in singly) / len(parts))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("inside", [False, True], ids=["backward-outside", "backward-inside"])
def test_checkpointing_counts_once(inside: bool, training: bool) -> None:
    value, wanted = trained(model(), batch())
    found = model(reentrant=False).train(training)
    with AuxiliaryLoss(found) as auxiliary:
        loss = found(batch()).square().mean()
        if inside:
            (loss + auxiliary.loss()).backward()
    if not inside:
        (loss + auxiliary.loss()).backward()
    assert auxiliary.loss().item() == pytest.approx(value)
    for ours, theirs in zip(router_gradients(found), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_checkpointing_without_a_listener_may_end_with_one(training: bool) -> None:
    found = model(reentrant=False).train(training)
    loss = found(batch()).square().mean()
    with AuxiliaryLoss(found) as auxiliary:
        loss.backward()
    assert auxiliary.statistics() == ()
    router_gradients(found)


def test_reentrant_checkpointing_is_refused() -> None:
    found = model(reentrant=True)
    with AuxiliaryLoss(found) as auxiliary:
        found(batch().requires_grad_())
    with pytest.raises(
        LayerError, match=r"the forward pass of second went without gradients[\s\S]*use_reentrant=False"
    ):
        auxiliary.loss()


def test_evaluation_needs_no_gradients() -> None:
    found = model()
    with AuxiliaryLoss(found) as auxiliary, torch.no_grad():
        found(batch())
    with torch.no_grad():
        assert auxiliary.loss().item() > 0


SHARES = ((12, 12), (4, 20), (0, 24))
"""Tokens of each process."""


@pytest.fixture(scope="module")
def of_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[tuple[int, int], int], dict[str, Any]]:
    """What each of two processes found, by shares and rank."""
    folder = tmp_path_factory.mktemp("processes")
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), str(folder)]) for rank in range(2)]
    try:
        assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return {
        (shares, rank): torch.load(folder / f"{number}-{rank}.pt", weights_only=True)
        for number, shares in enumerate(SHARES)
        for rank in range(2)
    }


@pytest.mark.parametrize("shares", SHARES, ids=["equal", "unequal", "one-empty"])
def test_distributed_processes_balance_the_global_batch(
    of_processes: dict[tuple[tuple[int, int], int], dict[str, Any]], shares: tuple[int, int]
) -> None:
    found, x = model(), batch()
    with AuxiliaryLoss(found) as auxiliary:
        found(x)
    value = auxiliary.loss()
    value.backward()
    ours = [of_processes[shares, rank] for rank in range(2)]
    assert (ours[0]["loss"] + ours[1]["loss"]) / 2 == pytest.approx(value.item())
    for outcome in ours:
        for got, wanted in zip(outcome["gradients"], router_gradients(found), strict=True):
            torch.testing.assert_close(got, wanted)
        for got, statistics in zip(outcome["statistics"], auxiliary.statistics(), strict=True):
            assert got["layer"] == f"module.{statistics.layer}"
            assert got["load"] == pytest.approx(list(statistics.load))
            assert got["token_entropy"] == pytest.approx(statistics.token_entropy)
            assert got["aggregate_entropy"] == pytest.approx(statistics.aggregate_entropy)
            assert got["dropped"] == 0


def _run_process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for number, shares in enumerate(SHARES):
        found = model()
        wrapped = nn.parallel.DistributedDataParallel(found)
        with AuxiliaryLoss(wrapped) as auxiliary:
            y = wrapped(batch().split(shares)[rank])
        loss = auxiliary.loss()
        (loss + 0 * y.sum()).backward()
        statistics = [found.to_json() for found in auxiliary.statistics()]
        outcome = {"loss": loss.item(), "gradients": router_gradients(found), "statistics": statistics}
        torch.save(outcome, folder / f"{number}-{rank}.pt")
    dist.destroy_process_group()
    # Not a return: freeing what still refers to the process group can wait forever for one of its threads.
    os._exit(0)


if __name__ == "__main__":
    _run_process(int(sys.argv[1]), Path(sys.argv[2]))
