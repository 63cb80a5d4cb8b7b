"""Two routes to every count: arithmetic on sizes, and the network itself on the meta device."""

import pytest
import torch

from einsearch_cli.models import Transformer, preset, structured_linear
from einsearch_cli.models.transformer import meta_transformer
from einsearch_cli.models.transformer.accounting import transformer_count
from einsearch_cli.structures import parse_layer
from einsearch_cli.tasks import open_task

LAYERS = [
    "dense",
    "monarch",
    "low-rank:r=4",
    "btt:r=2",
    "tt:n=3,r=2",
    "kronecker",
    "block-dense:blocks=2,r=4",
    "(0.5|0.25|0.25|0.25|0.5|0.25|0)",
    "btt-moe:experts=4,top=2",
    "dense-moe:experts=3,top=1",
]
CHANGES = [
    {},
    {"bias": False, "first_ffn_dense": True},
    {"activation": "swiglu", "norm": "rms", "tied": False, "bias": False, "qk_norm": True, "kv_heads": 4},
]


@pytest.mark.parametrize("name", ["s", "m", "l", "xl", "wide-m", "wide-l"])
def test_presets(name: str) -> None:
    assert transformer_count(preset(name)) == meta_transformer(preset(name)).count()


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("structured", ["ffn", "attn", "all"])
@pytest.mark.parametrize("text", LAYERS)
def test_transformers(text: str, structured: str, changes: dict[str, object]) -> None:
    sizes = {"layers": 2, "width": 192, "heads": 12, "vocabulary": 100, "context": 32}
    config = preset("s", structure=text, structured=structured, **sizes, **changes)
    assert transformer_count(config) == meta_transformer(config).count()
    with torch.device("meta"):  # as in the proxy network, where dense layers have a gain too
        proxy = Transformer(config, structured_linear(config.layer_spec))
    assert transformer_count(config, dense_as_structure=True) == proxy.count()


@pytest.mark.parametrize("structured", ["ffn", "all"])
def test_networks_of_experts(structured: str) -> None:
    config = preset("s", structure="ffn-moe:experts=8,top=2", structured=structured, bias=False, layers=2)
    assert transformer_count(config) == meta_transformer(config).count()


@pytest.mark.parametrize("text", LAYERS)
def test_the_teachers_student_with_padding_too(text: str) -> None:
    layer = parse_layer(text)
    for settings in ({}, {"dense_input": False}, {"depth": 2}):
        task = open_task("teacher", settings)
        for width in (64, 72, 100):
            with torch.device("meta"):
                built = task.build_model(layer, width)
            assert task.count(layer, width) == built.count()


@pytest.mark.parametrize("text", LAYERS)
def test_the_text_tasks_network(text: str, tmp_path) -> None:
    (tmp_path / "a.txt").write_text("to be or not to be " * 100)
    task = open_task("text", {"data": {"text": str(tmp_path / "a.txt")}, "context": 16})
    layer = parse_layer(text)
    with torch.device("meta"):
        built = task.build_model(layer, 64)
    assert task.count(layer, 64) == built.count()
