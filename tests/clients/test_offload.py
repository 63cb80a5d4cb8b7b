"""Weights that accelerate stores elsewhere and loads before a call."""

from __future__ import annotations

import pytest
import torch

from einsearch_cli.swap import swap_linear
from tests.clients.test_transformers import build, output

accelerate = pytest.importorskip("accelerate")


@pytest.mark.parametrize("name", ["Llama", "GptOss", "MobileNetV2"])
def test_every_kind_of_structured_layer_is_brought_along(name: str) -> None:
    """GptOss has packed experts with biases; MobileNetV2 has convolutions of size 1."""
    model = build(name)
    assert swap_linear(model, "monarch").replaced
    with torch.no_grad():
        expected = output(model, name)
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        assert all(parameter.is_meta for parameter in model.parameters())
        assert torch.equal(output(model, name), expected)
