"""The auxiliary loss: its value by hand, and every way in which a model is trained."""

from __future__ import annotations

import contextvars
import copy
import itertools
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from einsearch_cli.errors import LayerError
from einsearch_cli.moe import AuxiliaryLoss, FeedForwardMoE, StructuredMoE
from einsearch_cli.swap import swap_linear
from tests.layers.contract import in_thread, replicas_of

EXPERTS, TOP = 4, 2


class Residual(nn.Module):
    """Two layers of experts, the second of which may be checkpointed."""

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


def test_passes_of_other_threads_are_not_heard() -> None:
    found, x = model(), batch()
    alone, _ = trained(found, x)
    with AuxiliaryLoss(found) as auxiliary:
        in_thread(lambda: found(5 * x))
        found(x)
        in_thread(lambda: found(7 * x))
    assert auxiliary.loss().item() == pytest.approx(alone)


def test_contexts_of_several_threads_hear_their_own_passes_alone() -> None:
    found, parts = model(), batch().split(8)
    wanted = [trained(found, part)[0] for part in parts]
    meeting = threading.Barrier(len(parts))

    def run(part: Tensor) -> float:
        with AuxiliaryLoss(found) as auxiliary:
            for _ in range(3):
                meeting.wait(timeout=60)
                found(part)
        return auxiliary.loss().item()

    with ThreadPoolExecutor(len(parts)) as threads:
        assert list(threads.map(run, parts)) == pytest.approx(wanted)


def test_a_thread_in_a_copy_of_the_context_is_heard() -> None:
    found, x = model(), batch()
    whole, _ = trained(found, x)
    with AuxiliaryLoss(found) as auxiliary, ThreadPoolExecutor(4) as threads:
        contexts = [contextvars.copy_context() for _ in range(4)]
        calls = [threads.submit(c.run, found, part) for c, part in zip(contexts, x.split(6), strict=True)]
        for call in calls:
            call.result()
    assert auxiliary.loss().item() == pytest.approx(whole)
    in_thread(lambda: contexts[0].run(found, 5 * x))  # after the end
    assert auxiliary.loss().item() == pytest.approx(whole)


def test_replicas_of_data_parallel_are_heard_as_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    found, x = model(), batch()
    whole, wanted = trained(found, x)
    found.zero_grad()
    with AuxiliaryLoss(found) as auxiliary:
        replicas = replicas_of(found, 3, monkeypatch)
        losses = [
            in_thread(lambda replica=replica, part=part: replica(part).square().mean())
            for replica, part in zip(replicas, x.split(8), strict=True)
        ]
    assert auxiliary.loss().item() == pytest.approx(whole)
    assert [statistics.layer for statistics in auxiliary.statistics()] == ["first", "second"]
    (sum(losses) / 3 + auxiliary.loss()).backward()
    for ours, theirs in zip(router_gradients(found), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_replicas_are_heard_where_they_were_made_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found, x = model(), batch()
    (before,) = replicas_of(found, 1, monkeypatch)
    with AuxiliaryLoss(found) as auxiliary:
        in_thread(lambda: before(x))
        (inside,) = replicas_of(found, 1, monkeypatch)
    in_thread(lambda: inside(x))
    with pytest.raises(LayerError, match="none of the model's 2 routers was recorded"):
        auxiliary.loss()


@pytest.mark.parametrize("where", ["before", "after", "never-entered", "other-thread", "copy"])
def test_a_forward_pass_that_is_not_heard_is_an_error(where: str) -> None:
    found, x = model(), batch()
    auxiliary = AuxiliaryLoss(found)
    if where in ("before", "never-entered"):
        found(x)
    if where != "never-entered":
        with auxiliary:
            if where == "other-thread":
                in_thread(lambda: found(x))
            if where == "copy":
                copy.deepcopy(found)(x)
    if where == "after":
        found(x)
    with pytest.raises(
        LayerError, match=r"none of the model's 2 routers was recorded[\s\S]*inside `with AuxiliaryLoss"
    ):
        auxiliary.loss()
    assert auxiliary.statistics() == ()


def test_a_context_is_not_entered_twice_at_once() -> None:
    found, x = model(), batch()
    alone, _ = trained(found, x)
    with AuxiliaryLoss(found) as auxiliary:
        found(x)
        with pytest.raises(LayerError, match="active already"), auxiliary:
            pass
    assert auxiliary.loss().item() == pytest.approx(alone)
    with auxiliary:
        found(x)
    assert auxiliary.loss().item() == pytest.approx(alone)


def test_contexts_within_each_other_hear_the_same_passes() -> None:
    found, x = model(), batch()
    alone, _ = trained(found, x)
    with AuxiliaryLoss(found) as outer:
        with AuxiliaryLoss(found) as inner:
            found(x)
        assert inner.loss().item() == outer.loss().item() == pytest.approx(alone)


def test_a_loss_of_its_own_copies() -> None:
    auxiliary = copy.deepcopy(AuxiliaryLoss(model()))
    with auxiliary:
        auxiliary._model(batch())
    assert auxiliary.loss().item() == pytest.approx(trained(model(), batch())[0])


def padded(x: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Rows (rows, 24) of unequal lengths with tokens at the front and noise or NaN behind, and the mask."""
    lengths = torch.arange(1, rows + 1) * 2 * len(x) // (rows * (rows + 1))
    lengths[-1] += len(x) - lengths.sum()
    mask = torch.arange(24)[None] < lengths[:, None]
    values = 5 * torch.randn(rows, 24, x.shape[1], generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    values[mask] = x
    return values, mask


@pytest.mark.parametrize("reentrant", [None, False], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_padding_does_not_count(reentrant: bool | None, dtype: torch.dtype) -> None:
    x = batch()
    alone, wanted = trained(model(), x)
    values, mask = padded(x, 4)  # 75% padding
    assert mask.sum() == 24
    found = model(reentrant)
    with AuxiliaryLoss(found) as everything:
        found(values)
    assert abs(everything.loss().item() / alone - 1) > 0.1
    with AuxiliaryLoss(found, mask=mask.to(dtype)) as auxiliary:
        loss = found(values)[mask].square().mean()
    assert auxiliary.loss().item() == pytest.approx(alone)
    (loss + auxiliary.loss()).backward()
    for ours, theirs in zip(router_gradients(found), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    with AuxiliaryLoss(found) as plain:
        found(x)
    for ours, theirs in zip(auxiliary.statistics(), plain.statistics(), strict=True):
        assert ours.load == pytest.approx(theirs.load)
        assert ours.token_entropy == pytest.approx(theirs.token_entropy)
        assert ours.aggregate_entropy == pytest.approx(theirs.aggregate_entropy)
        assert ours.dropped == 0


def test_padding_may_be_nan() -> None:
    x = batch()
    alone, _ = trained(model(), x)
    values, mask = padded(x, 4)
    values[~mask] = math.nan
    found = model()
    with AuxiliaryLoss(found, mask=mask) as auxiliary:
        found(values)
    assert auxiliary.loss().item() == pytest.approx(alone)


def test_a_mask_for_each_pass() -> None:
    x = batch()
    whole, _ = trained(model(), x)
    found = model()
    with AuxiliaryLoss(found) as auxiliary:
        for part in x.split(12):
            values, auxiliary.mask = padded(part, 2)
            found(values)
        auxiliary.mask = None
        found(x)
    assert auxiliary.loss().item() == pytest.approx(whole)  # the mean over every token twice


def test_nothing_but_padding_is_a_batch_without_tokens() -> None:
    found, x = model(), batch()
    with AuxiliaryLoss(found, mask=torch.zeros(24, dtype=torch.bool)) as auxiliary:
        found(x)
    assert auxiliary.loss().item() == 0
    auxiliary.loss().backward()
    assert [statistics.dropped for statistics in auxiliary.statistics()] == [0, 0]


def test_a_mask_of_a_model_that_flattens_its_tokens() -> None:
    x = batch()
    alone, _ = trained(model(), x)
    values, mask = padded(x, 4)
    found = model()
    with AuxiliaryLoss(found, mask=mask) as auxiliary:
        found(values.flatten(0, 1))
    assert auxiliary.loss().item() == pytest.approx(alone)


def test_a_mask_of_another_shape_is_named() -> None:
    found = model()
    for mask in (torch.ones(8, 3), torch.ones(24), torch.ones(3, 7)):
        with (
            AuxiliaryLoss(found, mask=mask.bool()),
            pytest.raises(LayerError, match=r"mask of shape \(.*\), tokens of first of shape \(3, 8\)"),
        ):
            found(batch().view(3, 8, 8))


def test_a_mask_of_numbers_to_add_is_refused() -> None:
    with pytest.raises(LayerError, match=r"mask of dtype torch.float32"):
        AuxiliaryLoss(model(), mask=torch.zeros(24))


def test_a_mask_for_replicas_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found, x = model(), batch()
    with AuxiliaryLoss(found, mask=torch.ones(24, dtype=torch.bool)):
        replicas = replicas_of(found, 2, monkeypatch)
        with pytest.raises(LayerError, match=r"replica of first[\s\S]*DistributedDataParallel"):
            in_thread(lambda: replicas[0](x[:12]))


def test_inside_a_transform_of_torch_func() -> None:
    found, x = model(), batch()
    _, wanted = trained(found, x)

    def loss(values: dict[str, Tensor]) -> Tensor:
        with AuxiliaryLoss(found) as auxiliary:
            y = torch.func.functional_call(found, values, (x,))
        return y.square().mean() + auxiliary.loss()

    gradients = torch.func.grad(loss)(dict(found.named_parameters()))
    for ours, theirs in zip((gradients[f"{n}.router.weight"] for n in ("first", "second")), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_inside_vmap() -> None:
    found, parts = model(), batch().view(3, 8, 8)

    def loss(x: Tensor) -> Tensor:
        with AuxiliaryLoss(found) as auxiliary:
            found(x)
        return auxiliary.loss()

    wanted = [trained(found, part)[0] for part in parts]
    assert torch.func.vmap(loss)(parts).tolist() == pytest.approx(wanted)
    with AuxiliaryLoss(found) as auxiliary:
        torch.func.vmap(found)(parts)
    with pytest.raises(LayerError, match=r"first ran inside vmap[\s\S]*call loss\(\) inside the function"):
        auxiliary.loss()


def test_a_trace_is_not_a_forward_pass() -> None:
    found, x = model(), batch()
    alone, _ = trained(found, x)
    with AuxiliaryLoss(found) as auxiliary:
        torch.export.export(found, (x,))
        found(x)
    assert auxiliary.loss().item() == pytest.approx(alone)


def test_second_derivatives_of_the_loss() -> None:
    found, x = model(), batch()

    def value(first: Tensor, second: Tensor) -> Tensor:
        with AuxiliaryLoss(found, weight=1.0) as auxiliary:
            torch.func.functional_call(found, {"first.router.weight": first, "second.router.weight": second}, (x,))
        return auxiliary.loss()

    weights = [layer.router.weight.detach().requires_grad_() for layer in (found.first, found.second)]
    assert torch.autograd.gradgradcheck(value, weights, fast_mode=True)


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
def of_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[tuple[int, int], int, bool], dict[str, Any]]:
    """Results of each of two processes, by shares, rank and padding."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "tests.moe.test_auxiliary"]
    root = Path(__file__).parents[2]
    ranks = [subprocess.Popen([*command, str(rank), str(folder)], cwd=root) for rank in range(2)]
    try:
        assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return {
        (shares, rank, pads): torch.load(folder / f"{number}-{rank}-{pads}.pt", weights_only=True)
        for number, shares in enumerate(SHARES)
        for rank in range(2)
        for pads in (False, True)
    }


@pytest.mark.parametrize("pads", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("shares", SHARES, ids=["equal", "unequal", "one-empty"])
def test_distributed_processes_balance_the_global_batch(
    of_processes: dict[tuple[tuple[int, int], int, bool], dict[str, Any]], shares: tuple[int, int], pads: bool
) -> None:
    found, x = model(), batch()
    with AuxiliaryLoss(found) as auxiliary:
        found(x)
    value = auxiliary.loss()
    value.backward()
    ours = [of_processes[shares, rank, pads] for rank in range(2)]
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
    for (number, shares), pads in itertools.product(enumerate(SHARES), (False, True)):
        found = model()
        wrapped = nn.parallel.DistributedDataParallel(found)
        x, mask = batch().split(shares)[rank], None
        if pads:
            x, mask = padded(x, 3)
        with AuxiliaryLoss(wrapped, mask=mask) as auxiliary:
            y = wrapped(x)
        loss = auxiliary.loss()
        (loss + 0 * y.sum()).backward()
        statistics = [found.to_json() for found in auxiliary.statistics()]
        outcome = {"loss": loss.item(), "gradients": router_gradients(found), "statistics": statistics}
        torch.save(outcome, folder / f"{number}-{rank}-{pads}.pt")
    dist.destroy_process_group()
    # Not a return: freeing what still refers to the process group can wait forever for one of its threads.
    os._exit(0)


if __name__ == "__main__":
    _run_process(int(sys.argv[1]), Path(sys.argv[2]))
