"""Typical uses of a swapped model of transformers, in every architecture of a table; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli.export import load_swapped, save_swapped
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.swap import swap_linear
from tests.clients.architectures import ARCHITECTURES

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def build(name: str) -> Any:
    torch.manual_seed(0)
    made = ARCHITECTURES[name]
    config = getattr(transformers, made.config)(**made.settings)
    return getattr(transformers, made.auto).from_config(config).eval()


def inputs(name: str) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(0)
    kind = ARCHITECTURES[name].inputs
    if kind == "pixels":
        return {"pixel_values": torch.randn(1, 3, 32, 32, generator=draws)}
    tokens = torch.randint(3, 96, (2, 8), generator=draws)
    return {"input_ids": tokens} | ({"decoder_input_ids": tokens} if kind == "pairs" else {})


def output(model: nn.Module, name: str) -> Tensor:
    found: Tensor = model(**inputs(name))[0]
    return found


def output_in(dtype: torch.dtype, model: nn.Module, name: str) -> Tensor:
    given = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs(name).items()}
    found: Tensor = model(**given)[0]
    return found


KEEPS_FLOAT = ("XLNet",)
"""Architectures of which `from_pretrained` leaves some parameters in float32, in dense models too."""
FLOAT_OUTPUT = ("Mamba",)
"""Architectures that add their residuals in float32."""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_dense_factors_give_the_output_of_the_dense_model(name: str) -> None:
    model = build(name)
    with torch.no_grad():
        expected = output(model, name)
        report = swap_linear(model, "dense", project=True)
        found = output(model, name)
    assert report.replaced
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_swapped_model_trains_and_comes_back_from_its_folder(name: str, tmp_path: Path) -> None:
    """The model is loaded by `load_swapped` and by plain `from_pretrained`, also in bfloat16 and after another save."""
    model = build(name)
    report = swap_linear(model, "monarch")
    output(model, name).square().mean().backward()
    factors = [p for layer in model.modules() if isinstance(layer, EinsumLinear) for p in layer.factors.values()]
    assert factors
    assert sum(factor.grad is not None for factor in factors) >= len(factors) / 2, "some layers serve another output"
    save_swapped(model, report, tmp_path / "first")
    auto = getattr(transformers, ARCHITECTURES[name].auto)
    loaded = load_swapped(tmp_path / "first", auto)
    loaded.save_pretrained(tmp_path / "again")
    ways = {
        "load_swapped": loaded,
        "from_pretrained": auto.from_pretrained(tmp_path / "first"),
        "the class": type(model).from_pretrained(tmp_path / "first"),
        "saved again": auto.from_pretrained(tmp_path / "again"),
    }
    state = model.state_dict()
    for way, other in ways.items():
        own = other.state_dict()
        assert own.keys() == state.keys(), way
        assert [key for key in state if not torch.equal(state[key], own[key])] == [], way
        assert other.config.model_type == model.config.model_type, way
    with torch.no_grad():
        expected = output(model.eval(), name)
        torch.testing.assert_close(output(loaded, name), expected)
        half = auto.from_pretrained(tmp_path / "first", dtype=torch.bfloat16)
        in_half = output_in(torch.bfloat16, half.to(torch.bfloat16) if name in KEEPS_FLOAT else half, name)
    assert in_half.dtype == (torch.float32 if name in FLOAT_OUTPUT else torch.bfloat16)
    assert (in_half.float() - expected).norm() < 0.1 * expected.norm()
    layers = [layer for layer in half.modules() if isinstance(layer, EinsumLinear)]
    assert {layer.factors[name].dtype for layer in layers for name in layer.factors} == {torch.bfloat16}


@pytest.mark.parametrize("name", [name for name, made in ARCHITECTURES.items() if made.auto.endswith("CausalLM")])
def test_a_loaded_model_generates_what_the_swapped_one_does(name: str, tmp_path: Path) -> None:
    model = build(name)
    save_swapped(model, swap_linear(model, "monarch"), tmp_path)
    loaded = getattr(transformers, ARCHITECTURES[name].auto).from_pretrained(tmp_path)
    prompt = inputs(name)["input_ids"]
    found = [network.generate(prompt, max_new_tokens=4, do_sample=False) for network in (model, loaded)]
    assert torch.equal(*found)
    assert found[0].shape[1] > prompt.shape[1]


WITHOUT_CHECKPOINTING = ("Albert", "MPNet", "XLNet", "ConvNext", "MobileNetV2")
"""Architectures that transformers does not checkpoint."""


@pytest.mark.parametrize("name", [name for name, made in ARCHITECTURES.items() if made.inputs != "pixels"])
def test_a_swapped_model_takes_another_vocabulary(name: str, tmp_path: Path) -> None:
    model = build(name)
    report = swap_linear(model, "monarch")
    model.resize_token_embeddings(110, mean_resizing=False)
    save_swapped(model, report, tmp_path)
    loaded = load_swapped(tmp_path, getattr(transformers, ARCHITECTURES[name].auto))
    assert loaded.get_input_embeddings().weight.shape[0] == 110
    with torch.no_grad():
        found = output(loaded, name)
        torch.testing.assert_close(found, output(model, name))
    assert found.shape[-1] == 110


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_checkpointing_changes_no_gradient(name: str) -> None:
    gradients = []
    for is_checkpointed in (False, True):
        model = build(name)
        if name in WITHOUT_CHECKPOINTING:
            assert not model.supports_gradient_checkpointing
            return
        swap_linear(model, "monarch")
        model.train()
        if is_checkpointed:
            model.activation_checkpointing_enable()
        torch.manual_seed(0)
        output(model, name).square().mean().backward()
        gradients.append({key: value.grad for key, value in model.named_parameters() if value.grad is not None})
    assert any("factors" in key for key in gradients[0])
    torch.testing.assert_close(*gradients)
