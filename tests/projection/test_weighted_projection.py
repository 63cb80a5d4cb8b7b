"""Projection for given inputs, compared with converged gradient descent, singular values, and plain projection."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from einsearch_cli.errors import LayerError
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.projection import project_, weighting


def _drawn(d_in: int, d_out: int, seed: int = 0, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    """A matrix, and the moment of correlated inputs whose scales span `spread` powers of ten."""
    draws = torch.Generator().manual_seed(seed)
    weight = torch.randn(d_out, d_in, dtype=torch.float64, generator=draws)
    scales = torch.logspace(0, -spread, d_in, dtype=torch.float64)
    inputs = torch.randn(4 * d_in, d_in, dtype=torch.float64, generator=draws) * scales
    inputs = inputs @ torch.randn(d_in, d_in, dtype=torch.float64, generator=draws)
    return weight, inputs.T @ inputs / len(inputs)


def _fresh(case: Any, order: Any = None) -> EinsumLinear:
    torch.manual_seed(1)
    return EinsumLinear(case.d_in, case.d_out, case.text, dtype=torch.float64, order=order)


def _output_error(layer: EinsumLinear, weight: Tensor, moment: Tensor) -> float:
    """The output error by its definition: on inputs with exactly this second moment."""
    values, vectors = torch.linalg.eigh(moment)
    inputs = (vectors * values.clamp_min(0).sqrt()).T
    lost = inputs @ (weight - layer.to_dense().detach()).T
    return float(lost.norm() / (inputs @ weight.T).norm())


def _descended(layer: EinsumLinear, weight: Tensor, moment: Tensor, steps: int = 400) -> float:
    """The end of gradient descent from the layer: the slow, obvious route."""
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=steps, line_search_fn="strong_wolfe")
    norm = ((weight @ moment) * weight).sum()

    def loss() -> Tensor:
        optimizer.zero_grad()
        difference = weight - layer.to_dense()
        value = ((difference @ moment) * difference).sum() / norm
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return math.sqrt(loss().item())


def test_errors_are_those_of_outputs_and_never_above_the_plain_projection(case: Any) -> None:
    weight, moment = _drawn(case.d_in, case.d_out)
    plain, layer = _fresh(case), _fresh(case)
    project_(plain, weight)
    found = project_(layer, weight, moment)
    assert found.output_error == pytest.approx(_output_error(layer, weight, moment), rel=1e-6, abs=1e-9)
    assert found.output_error <= _output_error(plain, weight, moment) * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize(
    "name", ["low-rank", "monarch", "btt-2", "block-shuffle", "one-sided", "prime-out", "chain-of-three"]
)
def test_gradient_descent_finds_nothing_better_nearby(market: dict[str, Any], name: str) -> None:
    case = market[name]
    weight, moment = _drawn(case.d_in, case.d_out)
    layer = _fresh(case)
    found = project_(layer, weight, moment).output_error
    assert found is not None
    assert _descended(layer, weight, moment, 100) > found * 0.97 - 1e-6


@pytest.mark.parametrize("name", ["monarch", "btt-2", "block-shuffle", "kronecker", "tt", "generic", "block-dense"])
def test_conjugate_gradients_find_what_normal_equations_give(
    market: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = market[name]
    weight, moment = _drawn(case.d_in, case.d_out, spread=0.5)
    exact = project_(_fresh(case), weight, moment)
    monkeypatch.setattr(weighting, "_LARGEST", 0)
    iterated = project_(_fresh(case), weight, moment)
    assert iterated.output_error == pytest.approx(exact.output_error, rel=0.05)


def test_equal_and_uncorrelated_inputs_give_the_plain_projection(case: Any) -> None:
    weight, _ = _drawn(case.d_in, case.d_out)
    plain = project_(_fresh(case), weight)
    found = project_(_fresh(case), weight, 3 * torch.eye(case.d_in))
    assert found.output_error == pytest.approx(found.relative_error, abs=1e-9)
    assert found.relative_error <= plain.relative_error + 1e-9
    if plain.is_optimal:
        assert found.relative_error == pytest.approx(plain.relative_error, rel=1e-6)


def test_low_rank_is_the_decomposition_for_uncorrelated_inputs() -> None:
    """Eckart and Young 1936 in coordinates in which the inputs are white."""
    weight, moment = _drawn(24, 40)
    white = weight @ torch.linalg.cholesky(moment)
    values = torch.linalg.svdvals(white)
    for rank in (1, 7, 24):
        layer = EinsumLinear(24, 40, f"low-rank:r={rank}", dtype=torch.float64)
        found = project_(layer, weight, moment)
        assert found.is_optimal
        assert found.output_error == pytest.approx(float(values[rank:].norm() / values.norm()), abs=1e-8)


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        (torch.eye(3), "moment of shape (3, 3): that of the layer's inputs is (in_features, in_features) = (16, 16)"),
        (torch.full((16, 16), torch.inf), "moment with entries that are NaN or infinite"),
    ],
)
def test_moments_that_cannot_be_used(moment: Tensor, message: str) -> None:
    layer = EinsumLinear(16, 16, "monarch")
    with pytest.raises(LayerError) as caught:
        project_(layer, torch.randn(16, 16), moment)
    assert message in str(caught.value)


def test_inputs_that_are_always_zero_or_equal_do_no_harm() -> None:
    weight, moment = _drawn(36, 16)
    moment[:, 3] = moment[3] = 0
    moment[:, 7], moment[7] = moment[:, 8].clone(), moment[8].clone()
    moment[7, 7] = moment[8, 8]
    for structure in ("low-rank:r=4", "monarch", "btt:r=2"):
        layer = EinsumLinear(36, 16, structure, dtype=torch.float64)
        found = project_(layer, weight, moment)
        assert found.output_error == pytest.approx(_output_error(layer, weight, moment), rel=1e-4)
        assert layer.to_dense().isfinite().all()
