"""Starts by singular value decomposition and by orthogonal blocks, compared with their definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from einsearch_cli.errors import LayerError
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.projection import initialise_


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def test_svd_splits_the_singular_values_of_a_dense_start_evenly() -> None:
    layer = EinsumLinear(24, 16, "low-rank:r=6", dtype=torch.float64)
    torch.manual_seed(7)
    layer.reset_parameters()
    weight = torch.empty(16, 24, dtype=torch.float64).normal_(std=0.02)
    torch.manual_seed(7)
    initialise_(layer, "svd", std=0.02)
    u, s, v = torch.linalg.svd(weight)
    truncated = u[:, :6] @ torch.diag(s[:6]) @ v[:6]
    torch.testing.assert_close(layer.to_dense(), truncated, rtol=1e-10, atol=1e-12)
    down, up = layer.factor_tensor("A"), layer.factor_tensor("B")
    root = s[:6].sqrt()
    torch.testing.assert_close(down.T @ down, torch.diag(s[:6]), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(up.abs(), (u[:, :6] * root).abs(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("d_in", "d_out"), [(32, 32), (16, 64), (64, 16)])
def test_the_dense_start_has_the_deviation_of_a_dense_layer(d_in: int, d_out: int) -> None:
    """A low-rank layer of full rank is the dense start itself."""
    layer = EinsumLinear(d_in, d_out, f"low-rank:r={min(d_in, d_out)}")
    torch.manual_seed(0)
    initialise_(layer, "svd")
    expected = math.sqrt(min(d_in, d_out)) / d_in
    assert layer.to_dense().std().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("name", ["low-rank", "btt-2", "block-shuffle", "block-dense", "bond-of-three", "prime-out"])
def test_every_block_of_every_factor_is_orthogonal(market: dict[str, Any], name: str, dense_by_columns: Any) -> None:
    layer = market[name].layer()
    initialise_(layer, "orthogonal")
    for role in layer.plan.roles:
        blocks = layer.factors[role.factor]
        tall = blocks if blocks.shape[1] >= blocks.shape[2] else blocks.mT
        identity = torch.eye(tall.shape[2], dtype=torch.float64).expand(len(blocks), -1, -1)
        torch.testing.assert_close(tall.mT @ tall, identity, rtol=1e-10, atol=1e-10)
    caps = [
        max(1.0, float(layer.factors[role.factor].square().mean().sqrt()) / role.init_std) for role in layer.plan.roles
    ]
    assert layer.gain.item() == pytest.approx(math.prod(caps))
    torch.testing.assert_close(layer.to_dense(), dense_by_columns(layer), rtol=1e-10, atol=1e-10)
    assert not layer.bias.any()


def test_a_block_shuffle_of_square_blocks_is_orthogonal() -> None:
    layer = EinsumLinear(64, 64, "block-shuffle:blocks=4", dtype=torch.float64)
    initialise_(layer, "orthogonal")
    torch.testing.assert_close(layer.to_dense() @ layer.to_dense().T, torch.eye(64, dtype=torch.float64))


def test_spectral_is_the_layer_own_start() -> None:
    layer = EinsumLinear(32, 32, "btt:r=2")
    torch.manual_seed(0)
    layer.reset_parameters()
    expected = {name: value.clone() for name, value in layer.named_parameters()}
    torch.manual_seed(0)
    initialise_(layer, "spectral")
    for name, value in layer.named_parameters():
        assert torch.equal(value, expected[name])


@pytest.mark.parametrize(
    ("structure", "rule", "std", "message"),
    [
        (
            "monarch",
            "xavier",
            None,
            "initialisation 'xavier': there are spectral, svd, orthogonal\ntry: use one of these",
        ),
        (
            "monarch",
            "orthogonal",
            0.02,
            "std=0.02 with the initialisation orthogonal: only svd draws a dense matrix of that deviation\n"
            "try: leave std out, or use svd",
        ),
        (
            "kronecker:n=3",
            "svd",
            None,
            "initialisation svd: XA^1/3 XB^1/3 XC^1/3 YA^1/3 YB^1/3 YC^1/3 has 3 factors, and the nearest matrix has a "
            "closed form for two factors without padding\ntry: use spectral or orthogonal",
        ),
    ],
)
def test_impossible_initialisations_are_refused(structure: str, rule: Any, std: float | None, message: str) -> None:
    with pytest.raises(LayerError) as caught:
        initialise_(EinsumLinear(27, 27, structure), rule, std)
    assert str(caught.value) == message
