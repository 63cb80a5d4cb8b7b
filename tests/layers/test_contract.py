"""Every class of layer under the contract."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli.guided import SelfGuidedLinear
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.layers.plans.planner import routes
from einsearch_cli.moe import FeedForwardMoE, StructuredMoE
from einsearch_cli.moe.routing import Router
from einsearch_cli.swap import SplitMultiheadAttention, swap_linear
from tests.layers.contract import LayerContract, Subject


def random_input(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def einsum_linear(structure: str, d_in: int, d_out: int, bias: bool = True, route: int | None = None) -> EinsumLinear:
    """A layer whose factors are alternately far above and far below their cap."""
    torch.manual_seed(0)
    layer = EinsumLinear(d_in, d_out, structure, bias=bias, dtype=torch.float64)
    randomize(layer)
    if route is not None:
        layer.route = routes(layer.sized)[route].text
    return layer


@torch.no_grad()
def randomize(layer: nn.Module) -> None:
    factors = [parameter for name, parameter in layer.named_parameters() if "factors." in name]
    for number, factor in enumerate(factors):
        factor.mul_(1.5 if number % 2 else 0.7)
    for name, parameter in layer.named_parameters():
        if name.endswith(("gain", "bias")):
            parameter.normal_(0.8, 0.3)
        if "router" in name:
            parameter.normal_()


def assert_no_ties(layer: nn.Module, x: Tensor) -> None:
    """Check that a difference quotient does not change which experts are chosen."""
    for router in (module for module in layer.modules() if isinstance(module, Router)):
        tokens = x.reshape(-1, x.shape[-1])
        logits = (tokens @ router.weight.T).sort(dim=1, descending=True).values
        if router.top < router.experts:
            assert (logits[:, router.top - 1] - logits[:, router.top]).min() > 1e-2
            assert len(router(tokens).experts_TK.unique()) > 1


class TestEinsumLinear(LayerContract):
    SUBJECTS: ClassVar[dict[str, dict[str, Any]]] = {
        "dense": {"structure": "dense", "d_in": 6, "d_out": 10},
        "wide": {"structure": "btt:r=2", "d_in": 4, "d_out": 16},
        "narrow": {"structure": "monarch", "d_in": 16, "d_out": 4},
        "padded": {"structure": "btt:r=2", "d_in": 7, "d_out": 5},
        "without-bias": {"structure": "low-rank:r=3", "d_in": 8, "d_out": 6, "bias": False},
        "three-factors": {"structure": "btt:n=3,r=2", "d_in": 8, "d_out": 8},
        "generic": {"structure": "XA^1/2 XB^1/4 XAB^1/4 YA^1/4 YB^1/2 YAB^1/4 AB=3", "d_in": 16, "d_out": 16},
        "merged": {"structure": "btt:r=2", "d_in": 9, "d_out": 9, "route": -1},
        "own-sequence": {"structure": "btt:r=2", "d_in": 9, "d_out": 9, "route": 0},
    }

    @pytest.fixture(params=SUBJECTS)
    def subject(self, request: pytest.FixtureRequest) -> Subject:
        layer = einsum_linear(**self.SUBJECTS[request.param])
        return Subject(layer, random_input(3, layer.in_features))


class TestSelfGuidedLinear(LayerContract):
    @pytest.fixture(params=[(1.0, True), (0.3, True), (0.3, False)], ids=["guide-alone", "both", "not-evaluated"])
    def subject(self, request: pytest.FixtureRequest) -> Subject:
        layer = SelfGuidedLinear(einsum_linear("btt:r=2", 7, 5))
        with torch.no_grad():
            layer.guide.add_(torch.randn_like(layer.guide))
        layer.set_weight(*request.param)
        return Subject(layer, random_input(2, 3, 7))


class TestStructuredMoE(LayerContract):
    SUBJECTS: ClassVar[dict[str, tuple[int, int, str, bool]]] = {
        "btt": (9, 9, "btt-moe:r=2,experts=4,top=2", True),
        "one-expert-each": (8, 8, "btt-moe:experts=4,top=1", True),
        "all-experts": (8, 6, "monarch-moe:experts=3,top=3", True),
        "low-rank": (8, 6, "low-rank-moe:r=3,experts=4,top=2", False),
        "dense": (6, 8, "dense-moe:experts=4,top=2", True),
        "padded": (7, 5, "btt-moe:r=2,experts=3,top=2", True),
        "three-factors": (8, 8, "btt-moe:n=3,r=2,experts=3,top=2", False),
    }

    @pytest.fixture(params=SUBJECTS)
    def subject(self, request: pytest.FixtureRequest) -> Subject:
        d_in, d_out, mixture, bias = self.SUBJECTS[request.param]
        torch.manual_seed(0)
        layer = StructuredMoE(d_in, d_out, mixture, bias=bias, dtype=torch.float64)
        randomize(layer)
        x = random_input(2, 3, d_in)
        assert_no_ties(layer, x)
        return Subject(layer, x)


class TestFeedForwardMoE(LayerContract):
    @pytest.fixture(params=["experts=4,top=2", "experts=4,top=1", "experts=3,top=3"])
    def subject(self, request: pytest.FixtureRequest) -> Subject:
        torch.manual_seed(0)
        layer = FeedForwardMoE(6, 10, f"ffn-moe:{request.param}", dtype=torch.float64)
        randomize(layer)
        x = random_input(2, 3, 6)
        assert_no_ties(layer, x)
        return Subject(layer, x)


class Attends(nn.Module):
    """Self-attention in which some tokens may be masked."""

    def __init__(self, attention: nn.Module, **options: Any) -> None:
        super().__init__()
        self.attention = attention
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.attention(x, x, x, **self.options)[0]
        return y


CAUSAL = nn.Transformer.generate_square_subsequent_mask(3, dtype=torch.float64)


class TestSplitMultiheadAttention(LayerContract):
    OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "fused": {"need_weights": False},
        "with-weights": {"need_weights": True},
        "causal": {"need_weights": False, "is_causal": True, "attn_mask": CAUSAL},
        "masked": {"need_weights": False, "attn_mask": CAUSAL},
    }

    @pytest.fixture(params=OPTIONS)
    def subject(self, request: pytest.FixtureRequest) -> Subject:
        torch.manual_seed(0)
        dense = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
        model = nn.ModuleDict({"attention": dense})
        swap_linear(model, "btt:r=2")
        assert isinstance(model["attention"], SplitMultiheadAttention)
        randomize(model)
        return Subject(Attends(model["attention"], **self.OPTIONS[request.param]), random_input(2, 3, 8))
