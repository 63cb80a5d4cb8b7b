"""Muon compared with torch.optim.Muon, which takes one matrix at a time, and with singular values."""

import math

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli.guided import guide_layers
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.models import MLP, structured_linear
from einsearch_cli.models.base import dense_linear
from einsearch_cli.models.transformer import Transformer, TransformerConfig
from einsearch_cli.structures import parse_layer
from einsearch_cli.training.full.train_plan import plan_run
from einsearch_cli.training.optimizers import find_optimizer
from einsearch_cli.training.optimizers.muon import ITERATIONS, Muon, orthogonalised
from tests.training.full.runs import tiny_spec
from tests.training.optimizers.contract import OptimizerContract, mlp

SHAPES = ((8, 8), (4, 16), (16, 4), (1, 7), (7, 1), (1, 1))


@pytest.fixture
def _float32_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch orthogonalise in float32, as rounding of bfloat16 would hide small differences."""
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.clone)


def gradients(*shape: int, steps: int = 4) -> Tensor:
    return torch.randn(steps, *shape, generator=torch.Generator().manual_seed(sum(shape)))


def trained(optimizer: torch.optim.Optimizer, value: Tensor, all_gradients: Tensor) -> Tensor:
    for gradient in all_gradients:
        value.grad = gradient.clone()
        optimizer.step()
    return value.detach()


class TestMuon(OptimizerContract):
    kind = find_optimizer("muon")

    @pytest.mark.usefixtures("_float32_muon")
    def test_a_dense_linear_layer_is_trained_as_by_torch(self) -> None:
        """At the base width the rate is Liu et al.'s."""
        width, model = 64, MLP(16, 64, 1, depth=4, make_linear=dense_linear, dense_input=True)
        options = self.kind.options(model, base_width=width, learning_rate=0.02, weight_decay=0.1)
        assert options["layers.1.weight"]["adjustment"] == pytest.approx(0.2 * math.sqrt(width))
        assert [name for name in options if "adjustment" in options[name]] == ["layers.1.weight", "layers.2.weight"]
        start = model.layers[1].weight.detach()
        ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        found = trained(Muon([{"params": [ours], **options["layers.1.weight"]}]), ours, gradients(width, width))
        muon = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        expected = trained(muon, theirs, gradients(width, width))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert (found - start).norm() > 0.5

    def test_a_dense_structure_is_trained_as_by_torch_in_bfloat16(self) -> None:
        """The factor of a dense structure is the transposed weight."""
        torch.manual_seed(0)
        layer = EinsumLinear(64, 64, "dense")
        (factor,) = layer.factors.values()
        weight = nn.Parameter(factor.detach()[0].T.clone())
        moves = gradients(64, 64)
        found = trained(Muon([factor], lr=0.01, weight_decay=0.1, adjustment=1.6), factor, moves.mT[:, None])
        muon = torch.optim.Muon([weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        expected = trained(muon, weight, moves)
        step = 4 * 0.01 * 1.6 / math.sqrt(64)  # the numbers of an orthogonal matrix are 1/8 each
        torch.testing.assert_close(found[0].T, expected, rtol=0, atol=0.03 * step)

    @pytest.mark.usefixtures("_float32_muon")
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize("batch", [(5,), (2, 3)], ids=str)
    def test_each_matrix_of_a_batch_is_trained_by_itself(self, batch: tuple[int, ...], shape: tuple[int, int]) -> None:
        """Matrices of very different size are in one batch; their norms must not mix."""
        sizes = torch.logspace(-2, 2, math.prod(batch)).reshape(*batch, 1, 1)
        moves = gradients(*batch, *shape) * sizes
        together = nn.Parameter(torch.ones(*batch, *shape))
        found = trained(Muon([together], lr=0.1, weight_decay=0.2, adjustment=1.0), together, moves)
        for index in torch.cartesian_prod(*map(torch.arange, batch)).reshape(-1, len(batch)).tolist():
            alone = nn.Parameter(torch.ones(shape))
            muon = torch.optim.Muon([alone], lr=0.1, weight_decay=0.2, adjust_lr_fn="original")
            muon.param_groups[0]["adjust_lr_fn"] = "none"  # no adjustment at all
            expected = trained(muon, alone, moves[:, *index])
            torch.testing.assert_close(found[tuple(index)], expected, rtol=1e-4, atol=1e-5)

    def test_the_rest_is_trained_by_adamw(self) -> None:
        """The results agree to the last bit."""
        ours, theirs = mlp("btt:r=2"), mlp("btt:r=2")
        optimizer = self.made(ours)
        adamw = torch.optim.AdamW(
            [
                {"params": [value], "lr": option["lr"], "weight_decay": option["weight_decay"]}
                for (name, value), option in zip(theirs.named_parameters(), self.options(theirs).values(), strict=True)
                if "adjustment" not in option
            ],
            betas=(0.9, 0.95),
            fused=True,
        )
        for seed in range(3):
            self.stepped(ours, optimizer, seed)
            self.stepped(theirs, adamw, seed)
        options = self.options(ours)
        same = {
            name: torch.equal(value, dict(theirs.named_parameters())[name]) for name, value in ours.named_parameters()
        }
        assert same == {name: "adjustment" not in option for name, option in options.items()}

    def test_which_parameters_are_matrices(self) -> None:
        config = TransformerConfig(
            vocabulary=64, width=32, layers=2, heads=2, context=16, structure="btt-moe:experts=4,top=2"
        )
        options = self.kind.options(Transformer(config), base_width=32, learning_rate=0.01, weight_decay=0.1)
        matrices = {name.replace("blocks.0.", "") for name, option in options.items() if "adjustment" in option}
        dense = {f"attention.{name}.weight" for name in ("query", "key", "value", "output")}
        factors = {f"ffn.{layer}.experts.factors.{name}" for layer in ("up", "down") for name in "AB"}
        assert {name for name in matrices if not name.startswith("blocks")} == dense | factors
        model = Transformer(config.model_copy(update={"structure": "low-rank:r=4"}))
        guide_layers(model)
        guided = self.kind.options(model, base_width=32, learning_rate=0.01, weight_decay=0.1)
        assert "adjustment" in guided["blocks.0.ffn.up.guide"]

    def test_rates_follow_the_spectral_condition(self) -> None:
        """0.2 · sqrt(64) · sqrt(fan_out / fan_in) / 2: low-rank 256 x 256 of rank 16, at a base width of 64."""
        model = MLP(16, 256, 1, depth=3, make_linear=structured_linear(parse_layer("low-rank:r=16")), dense_input=True)
        options = self.options(model)
        shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
        for name, fan_in, fan_out in (("layers.1.factors.A", 256, 16), ("layers.1.factors.B", 16, 256)):
            assert shapes[name] == (1, fan_in, fan_out)
            assert options[name]["adjustment"] == pytest.approx(0.2 * 8 * math.sqrt(fan_out / fan_in) / 2)
            assert options[name]["lr"] == 0.01

    def test_memory_of_a_plan_counts_one_running_mean_for_matrices(self) -> None:
        plans = {name: plan_run(tiny_spec(optimizer={"name": name}), 256) for name in ("adamw", "muon")}
        model = Transformer(plans["muon"].config)
        options = self.kind.options(model, base_width=32, learning_rate=1.0, weight_decay=0.0)
        matrices = sum(value.numel() for name, value in model.named_parameters() if "adjustment" in options[name])
        assert plans["adamw"].phases.state_bytes == 8 * model.parameter_count()
        assert plans["muon"].phases.state_bytes == 8 * model.parameter_count() - 4 * matrices
        assert matrices > 5000


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_singular_values_come_close_to_one(shape: tuple[int, int]) -> None:
    """Singular vectors stay: UᵀXV is diagonal."""
    matrices = gradients(6, *shape, steps=1)[0]
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    diagonal = u.mT @ orthogonalised(matrices) @ v.mT
    values = diagonal.diagonal(dim1=-2, dim2=-1)
    assert ((values > 0.3) & (values < 1.3)).all()
    torch.testing.assert_close(diagonal, torch.diag_embed(values), rtol=0, atol=1e-4)
    assert ITERATIONS == 5


def test_no_gradient_is_no_step() -> None:
    assert orthogonalised(torch.zeros(3, 4, 4)).abs().max() == 0


def test_parameters_of_other_dtypes_keep_them() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        value = nn.Parameter(torch.ones(2, 4, 4, dtype=dtype))
        found = trained(Muon([value], adjustment=1.0), value, gradients(2, 4, 4).to(dtype))
        assert found.dtype == dtype
        assert found.isfinite().all()
