import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from einsearch_cli.errors import SizeError
from einsearch_cli.models import MLP, structured_linear
from einsearch_cli.structures import parse_layer, parse_structure
from tests.models.routes import keep_factors_apart

STRUCTURES = ["dense", "monarch", "btt:r=2", "low-rank", "kronecker"]


@pytest.mark.parametrize("text", STRUCTURES)
@pytest.mark.parametrize("dense_input", [False, True])
def test_flops_equal_torchs_own_counter(text: str, dense_input: bool) -> None:
    model = MLP(8, 64, 3, depth=4, make_linear=structured_linear(parse_structure(text)), dense_input=dense_input)
    keep_factors_apart(model)
    samples = 256
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(samples, 8))
    assert counter.get_total_flops() == samples * model.flops_per_token().total


@pytest.mark.parametrize("text", [*STRUCTURES, "btt-moe:experts=4,top=2", "dense-moe:experts=4,top=1"])
@pytest.mark.parametrize("dense_input", [False, True])
def test_training_flops_equal_torchs_own_counter(text: str, dense_input: bool) -> None:
    """The samples need no gradient, so the first layer saves a product."""
    model = MLP(8, 64, 3, depth=4, make_linear=structured_linear(parse_layer(text)), dense_input=dense_input)
    keep_factors_apart(model)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(64, 8)).sum().backward()
    assert counter.get_total_flops() == 64 * model.training_flops_per_token().total
    assert counter.get_total_flops() < 64 * 3 * model.flops_per_token().total


def test_forward_is_relu_between_plain_products() -> None:
    model = MLP(8, 32, 2, depth=3, make_linear=nn.Linear)
    nn.init.normal_(model.head.weight)
    x = torch.randn(5, 8)
    value = x
    for layer in model.layers:
        value = (value @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(model(x), value @ model.head.weight.T + model.head.bias)


@pytest.mark.parametrize("text", STRUCTURES)
def test_starts_at_zero_and_every_parameter_learns_within_two_steps(text: str) -> None:
    torch.manual_seed(0)
    model = MLP(8, 64, 1, depth=3, make_linear=structured_linear(parse_structure(text)))
    x = torch.randn(64, 8)
    assert model(x).abs().max() == 0
    (model(x) - 1).square().mean().backward()
    with torch.no_grad():  # a step on the head alone: the layers below had zero gradient
        model.head.weight -= model.head.weight.grad
    model.zero_grad()
    (model(x) - 1).square().mean().backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in model.parameters())


def test_activations_keep_their_size_when_the_width_grows() -> None:
    """With spectral muP, the size of a hidden unit at the start does not depend on the width."""
    torch.manual_seed(0)
    x = torch.randn(512, 8)
    sizes = []
    for width in (64, 1024):
        model = MLP(8, width, 1, depth=3, make_linear=structured_linear(parse_structure("dense")), dense_input=True)
        sizes.append(model.layers[0](x).square().mean().sqrt().item())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15)
    assert sizes[0] == pytest.approx(1.0, rel=0.25)


def test_impossible_sizes() -> None:
    with pytest.raises(SizeError, match=r"an MLP of depth 1: .*already 2\ntry: give a depth of 2 or more"):
        MLP(8, 16, 1, depth=1, make_linear=nn.Linear)
    with pytest.raises(SizeError, match=r"sizes 8 -> 0 -> 1"):
        MLP(8, 0, 1, depth=2, make_linear=nn.Linear)


@pytest.mark.parametrize(
    "text",
    ["dense", "low-rank", "btt:r=d^1/4", "tt:r=4", "kronecker", "block-dense:r=4", "btt-moe:experts=8,top=4"],
)
def test_every_layer_starts_with_outputs_of_unit_rms(text: str) -> None:
    """Without norms, nothing makes up for a bottleneck: low-rank would start at a quarter, and fall with width."""
    torch.manual_seed(0)
    inputs, found = torch.randn(500, 256), []
    for _ in range(12):
        model = MLP(256, 256, 1, depth=3, make_linear=structured_linear(parse_layer(text)))
        found.append([layer(inputs).detach().square().mean().item() for layer in model.layers])
    assert torch.tensor(found).mean(0).sqrt().tolist() == pytest.approx([1.0, 1.0], rel=0.08)
