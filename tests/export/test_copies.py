"""Dense and serving copies return the model's outputs, and leave the model unchanged."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from einsearch_cli.errors import LayerError
from einsearch_cli.export import ServingLinear, dense_copy, serving_copy
from einsearch_cli.guided import guide_layers
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.models.transformer import Transformer, TransformerConfig
from einsearch_cli.moe import StructuredMoE

STRUCTURES = ["btt:r=2", "block-shuffle:blocks=2", "kronecker:n=3", "monarch"]


def _network(structure: str, dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [EinsumLinear(13, 36, structure), nn.GELU(), EinsumLinear(36, 16, structure, bias=False), nn.Linear(16, 3)]
    model = nn.Sequential(*layers).to(dtype)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(3).add_(0.1)  # above the caps, gains and biases not at their start
    return model


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_copies_give_the_same(structure: str, dtype: torch.dtype, tolerance: float) -> None:
    model = _network(structure, dtype)
    x = torch.randn(2, 5, 13, dtype=dtype)
    y, before = model(x), list(model.state_dict())
    for make, kind in ((dense_copy, nn.Linear), (serving_copy, ServingLinear)):
        made = make(model)
        assert [type(layer) for layer in made] == [kind, nn.GELU, kind, nn.Linear]
        torch.testing.assert_close(made(x), y, rtol=tolerance, atol=tolerance * y.abs().max().item())
        with torch.no_grad():
            made[3].weight.zero_()
    assert torch.equal(model(x), y)
    assert list(model.state_dict()) == before


def test_a_dense_copy_of_a_transformer_is_a_dense_transformer() -> None:
    config = TransformerConfig(vocabulary=20, width=32, layers=1, heads=2, context=8, structure="btt:r=2", tied=True)
    model = Transformer(config).double()
    for value in model.parameters():
        nn.init.normal_(value, std=0.3)
    dense = dense_copy(model)
    assert dense.config == config.model_copy(update={"structure": "dense"})
    assert model.config == config
    assert dense.head is None
    rebuilt = Transformer(dense.config).double()
    rebuilt.load_state_dict(dense.state_dict())
    tokens = torch.randint(0, 20, (2, 8))
    torch.testing.assert_close(rebuilt(tokens), model(tokens), rtol=1e-10, atol=1e-10)


def test_tied_factors_become_a_tied_weight() -> None:
    first, second = EinsumLinear(16, 16, "monarch"), EinsumLinear(16, 16, "monarch")
    second.factors, second.gain = first.factors, first.gain
    dense = dense_copy(nn.Sequential(first, second, first))
    assert dense[0].weight is dense[1].weight
    assert dense[0] is dense[2]


def test_guided_layers_have_a_matrix_and_no_structured_program() -> None:
    model = nn.Sequential(EinsumLinear(16, 16, "monarch"))
    guide_layers(model).set_weight(0.5)
    with torch.no_grad():
        model[0].guide.add_(1)
    x = torch.randn(3, 16)
    torch.testing.assert_close(dense_copy(model)(x), model(x))
    with pytest.raises(LayerError) as caught:
        serving_copy(model)
    assert str(caught.value) == (
        "0 has a guide: its output is still partly that of a dense matrix\n"
        "try: train to the end of the guided part, or export the model as dense"
    )


def test_experts_are_refused_by_name() -> None:
    model = nn.Sequential(nn.ReLU(), StructuredMoE(16, 16, "btt-moe:experts=2,top=1"))
    with pytest.raises(LayerError) as caught:
        dense_copy(model)
    assert str(caught.value) == (
        "1 is a StructuredMoE: which experts run depends on the token, so it is not one matrix\n"
        "try: export it as safetensors, as a program, or as a folder of transformers with structured layers"
    )


def test_serving_layers_store_no_plan_and_name_a_wrong_input() -> None:
    layer, x = EinsumLinear(13, 36, "btt:r=2"), torch.randn(3, 13)
    serving = ServingLinear(layer)
    written = pickle.dumps(serving)
    assert b"Plan" not in written
    for made in (copy.deepcopy(serving), pickle.loads(written)):  # noqa: S301
        torch.testing.assert_close(made(x), layer(x))
        made.__setstate__({**serving.__dict__})  # as in files of earlier versions
        assert made.plan is serving.plan
    for wrong, message in ((torch.zeros(3, 26), r"in_features = 13"), (x.long(), "dtype torch.int64")):
        with pytest.raises(LayerError, match=message):
            serving(wrong)
