"""Convolutions of kernel size 1, and subclasses of nn.Linear, as structured layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from einsearch_cli.export import dense_copy
from einsearch_cli.swap import plan_swaps, swap_linear
from einsearch_cli.swap.pointwise import PointwiseConv
from einsearch_cli.swap.subclasses import acts_as_linear

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_size_1_is_a_linear_layer_at_every_position(axes: int, bias: bool) -> None:
    torch.manual_seed(axes)
    convolution = CONVOLUTIONS[axes - 1](12, 20, 1, bias=bias)
    x = torch.randn(2, 12, *(5, 4, 3)[:axes])
    expected = convolution(x)
    model = nn.Sequential(convolution)
    report = swap_linear(model, "dense", project=True)
    (swap,) = report.replaced
    assert swap.relative_error < 1e-5
    assert swap.costs.flops_before == 2 * 12 * 20
    assert report.model.flops_before == 2 * 12 * 20
    found = model(x)
    assert isinstance(model[0], PointwiseConv)
    assert found.stride() == expected.stride()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x[0]), expected[0], rtol=1e-4, atol=1e-5)
    assert torch.allclose(model[0].weight, convolution.weight, rtol=1e-4, atol=1e-5)
    dense = dense_copy(model)
    assert type(dense[0]) is type(convolution)
    assert dense.state_dict().keys() == nn.Sequential(convolution).state_dict().keys()
    torch.testing.assert_close(dense(x), expected, rtol=1e-4, atol=1e-5)


def test_channels_last_stays() -> None:
    model = nn.Sequential(nn.Conv2d(8, 16, 1))
    swap_linear(model, "monarch")
    y = model(torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "options",
    [{"kernel_size": 3}, {"stride": 2}, {"groups": 2}, {"padding": 1}, {"kernel_size": (1, 3)}],
    ids=lambda options: next(iter(options)),
)
def test_other_convolutions_stay_and_are_listed(options: dict[str, int]) -> None:
    report = plan_swaps(nn.Sequential(nn.Conv2d(8, 8, **{"kernel_size": 1, **options})), "monarch")
    assert not report.replaced
    (kept,) = report.kept or ()
    assert kept.kind == "nn.Conv2d"
    assert kept.names == ("0.weight",)


def test_a_mixture_of_experts_may_take_the_place_of_a_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(8, 16, 1, padding="same"))
    swap_linear(model, "low-rank-moe:r=2,experts=4,top=1")
    assert model(torch.randn(2, 8, 4, 4)).shape == (2, 16, 4, 4)


class Written(nn.Linear):
    """A linear layer written as transformers writes Falcon's."""

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class Bounded(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.clamp(-1e3, 1e3), self.bias)


class Dropping(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(functional.dropout(x, 0.1, self.training), self.weight, self.bias)


class Twice(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + y


class Branching(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.abs().max() < 1e3 else x.new_zeros(*x.shape[:-1], self.out_features)


class Named(nn.Linear):
    bits = 4


class Holding(nn.Linear):
    def __init__(self, *widths: int, bias: bool = True) -> None:
        super().__init__(*widths, bias=bias)
        self.scale = 2.0


@pytest.mark.parametrize("bias", [True, False])
def test_only_subclasses_that_are_linear_layers_and_nothing_more_are_replaced(bias: bool) -> None:
    assert acts_as_linear(Written(8, 8, bias=bias))
    for kind in (Bounded, Dropping, Twice, Branching, Named, Holding):
        assert not acts_as_linear(kind(8, 8, bias=bias)), kind
    report = plan_swaps(nn.ModuleList([Written(8, 8, bias=bias), Bounded(8, 8, bias=bias)]), "monarch")
    assert [swap.name for swap in report.replaced] == ["0"]
    assert report.skipped == {"1": "Bounded is a subclass of nn.Linear whose own behaviour would be lost"}


def test_on_meta_and_the_state_of_random_numbers_stays() -> None:
    state = torch.get_rng_state()

    class Fresh(Written):
        pass

    assert acts_as_linear(Fresh(8, 8, device="meta"))
    assert torch.equal(state, torch.get_rng_state())
