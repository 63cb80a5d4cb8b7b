"""From dense matrices to structures, compared with singular values, exact members of a structure, and searches."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.guided import SelfGuidedLinear
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.projection import Projection, project_
from einsearch_cli.structures import FeatureOrder, parse_structure

SEARCHED = {"input-of-two"}
"""Structures whose members are found by a search that may end near them."""


def _error(layer: EinsumLinear, weight: Tensor) -> float:
    return float((weight - layer.to_dense()).norm() / weight.norm())


def _fresh(case: Any) -> EinsumLinear:
    torch.manual_seed(1)
    return EinsumLinear(case.d_in, case.d_out, case.text, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def test_a_member_of_the_structure_comes_back(case: Any, request: pytest.FixtureRequest) -> None:
    weight = case.layer(cap=True).to_dense().detach()
    layer = _fresh(case)
    bias = layer.bias.normal_() if layer.bias is not None else None  # type: ignore[union-attr]
    found = project_(layer, weight)
    name = request.node.callspec.id
    assert found.relative_error < (1e-2 if name in SEARCHED else 1e-9)
    assert found.relative_error == pytest.approx(_error(layer, weight), rel=1e-6, abs=1e-15)
    is_closed = len(layer.sized.factors) <= 2 and layer.sized.padding is None
    assert found.is_optimal == is_closed
    assert bias is layer.bias or torch.equal(bias, layer.bias)


def test_low_rank_is_the_truncated_singular_value_decomposition() -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 24, dtype=torch.float64)
    values = torch.linalg.svdvals(weight)
    for rank in (1, 7, 24):
        layer = EinsumLinear(24, 40, f"low-rank:r={rank}", dtype=torch.float64)
        found = project_(layer, weight)
        expected = pytest.approx(float(values[rank:].norm() / weight.norm()), abs=1e-12)
        assert found == Projection(expected, True, FeatureOrder(("XA",), ("YB",), layer.order.factors))


@pytest.mark.parametrize("name", ["monarch", "btt-2", "block-shuffle", "block-dense", "tt", "kronecker"])
def test_every_block_is_cut_by_its_singular_values(market: dict[str, Any], name: str) -> None:
    """Blocks are cut out of the matrix entry by entry; the error is their singular values beyond the bond."""
    case = market[name]
    layer = _fresh(case)
    weight = torch.randn(case.d_out, case.d_in, dtype=torch.float64)
    losses = [_lost(layer, weight, inputs, outputs) for inputs, outputs in _all_orders(layer)]
    found = project_(layer, weight)
    assert found.relative_error == pytest.approx(math.sqrt(min(losses)) / float(weight.norm()), rel=1e-9)
    again = _lost(layer, weight, *found.order.sides)
    assert again == pytest.approx(min(losses), rel=1e-9)


def _all_orders(layer: EinsumLinear) -> Any:
    return itertools.product(*(itertools.permutations(side) for side in layer.order.sides))


def _lost(layer: EinsumLinear, weight: Tensor, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> float:
    sized = layer.sized
    bond = math.prod(sized.size(c) for c, _ in sized.sizes if not set(c) & set("XY"))
    blocks: dict[tuple[int, ...], dict[tuple[Any, Any], float]] = {}
    for row in range(layer.out_features):
        for column in range(layer.in_features):
            at = _digits(row, outputs, sized) | _digits(column, inputs, sized)
            both = tuple(value for c, value in sorted(at.items()) if "A" in c and "B" in c)
            first = tuple(value for c, value in sorted(at.items()) if "A" in c and "B" not in c)
            second = tuple(value for c, value in sorted(at.items()) if "B" in c and "A" not in c)
            blocks.setdefault(both, {})[first, second] = float(weight[row, column])
    lost = 0.0
    for entries in blocks.values():
        rows, columns = sorted({first for first, _ in entries}), sorted({second for _, second in entries})
        block = torch.tensor([[entries[r, c] for c in columns] for r in rows], dtype=torch.float64)
        lost += float(torch.linalg.svdvals(block)[bond:].square().sum())
    return lost


def _digits(number: int, order: tuple[str, ...], sized: Any) -> dict[str, int]:
    found = {}
    for carriers in reversed(order):
        number, found[carriers] = divmod(number, sized.size(carriers))
    return found


def test_no_step_of_gradient_descent_improves_a_search() -> None:
    """Alternating least squares ends where the gradient of the error is zero."""
    torch.manual_seed(0)
    layer = EinsumLinear(27, 27, "btt:n=3,r=2", dtype=torch.float64)
    weight = torch.randn(27, 27, dtype=torch.float64)
    before = _error(layer, weight)
    found = project_(layer, weight)
    assert not found.is_optimal
    assert found.relative_error < 0.75 < before
    with torch.enable_grad():
        error = (weight - layer.to_dense()).norm() / weight.norm()
        error.backward()
    for factor in layer.factors.values():
        assert factor.grad is not None
        # Relative to the factor: how much the error falls for a change as large as the factor itself.
        assert factor.grad.norm() * factor.norm() < 0.05


def test_free_entries_of_the_padding_are_used() -> None:
    """13 inputs are read as 14 or more, and the factors may choose W there."""
    torch.manual_seed(0)
    layer = EinsumLinear(13, 16, "kronecker", dtype=torch.float64)
    weight = torch.randn(16, 13, dtype=torch.float64)
    assert layer.sized.padded_in > 13
    found = project_(layer, weight)
    padded = EinsumLinear(layer.sized.padded_in, 16, layer.structure, dtype=torch.float64)
    assert padded.sized.sizes == layer.sized.sizes
    with_zeros = nn.functional.pad(weight, (0, layer.sized.padded_in - 13))
    project_(padded, with_zeros)
    assert found.relative_error < _error_inside(padded, weight) - 1e-4


def _error_inside(padded: EinsumLinear, weight: Tensor) -> float:
    return float((weight - padded.to_dense()[:, :13]).norm() / weight.norm())


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_the_product_is_exact_however_large(size: float) -> None:
    """Beyond the caps the gain takes over; all factors are equally large relative to their init std."""
    torch.manual_seed(0)
    layer = EinsumLinear(36, 16, "btt:r=2")
    weight = size * torch.randn(16, 36)
    found = project_(layer, weight)
    layer64 = EinsumLinear(36, 16, "btt:r=2", dtype=torch.float64)
    assert found.relative_error == pytest.approx(project_(layer64, weight.double()).relative_error, rel=1e-5)
    ratios = [float(layer.factors[role.factor].square().mean().sqrt()) / role.init_std for role in layer.plan.roles]
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-5)
    if size < 1:
        assert layer.gain.item() == 1


def test_zero_comes_out_as_zero_and_can_still_learn() -> None:
    layer = EinsumLinear(16, 16, "btt:r=2")
    assert project_(layer, torch.zeros(16, 16)) == Projection(0.0, True, layer.order)
    assert not layer.to_dense().any()
    with torch.enable_grad():
        layer(torch.randn(4, 16)).sum().backward()
    assert layer.factors["A"].any()
    assert layer.factors["B"].grad is not None
    assert layer.factors["B"].grad.any()


def test_indices_that_input_and_output_share() -> None:
    structure = parse_structure("XYA=4 XA YA", block_diagonal=True)
    layer = EinsumLinear(8, 8, structure, dtype=torch.float64)
    member = EinsumLinear(8, 8, structure, dtype=torch.float64).to_dense().detach()
    assert project_(layer, member).relative_error < 1e-12
    noise = torch.randn(8, 8, dtype=torch.float64)
    outside = noise * (member == 0)
    assert project_(layer, member + outside).relative_error == pytest.approx(
        float(outside.norm() / (member + outside).norm()), rel=1e-9
    )


def test_half_precision() -> None:
    torch.manual_seed(0)
    layer = EinsumLinear(32, 32, "monarch", dtype=torch.bfloat16)
    weight = EinsumLinear(32, 32, "monarch").to_dense().bfloat16()
    assert project_(layer, weight).relative_error < 0.01


@pytest.mark.parametrize(
    ("layer", "weight", "message"),
    [
        (
            EinsumLinear(8, 4, "monarch"),
            torch.zeros(8, 4),
            "weight of shape (8, 4): the layer's matrix is (out_features, in_features) = (4, 8)\n"
            "try: transpose it, or build the layer with its widths",
        ),
        (
            EinsumLinear(2, 2, "monarch"),
            torch.tensor([[1.0, math.nan], [math.inf, 0.0]]),
            "weight with 2 of 4 entries NaN or infinite: nothing is near to it\n"
            "try: look for the step of training at which it diverged",
        ),
        (
            SelfGuidedLinear(EinsumLinear(2, 2, "monarch")),
            torch.zeros(2, 2),
            "factors given to a SelfGuidedLinear: only an EinsumLinear is made of these alone\n"
            "try: initialise or project before guide_layers; layers of experts have no single matrix",
        ),
    ],
)
def test_weights_that_cannot_be_projected_are_refused(layer: EinsumLinear, weight: Tensor, message: str) -> None:
    with pytest.raises(LayerError) as caught:
        project_(layer, weight)
    assert str(caught.value) == message
