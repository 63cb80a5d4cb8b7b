"""A transformer as one safetensors file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from einsearch_cli.errors import LayerError, OutputError, SpecError
from einsearch_cli.export import dense_copy, load_transformer, safetensors_file, save_run, save_transformer
from einsearch_cli.guided import guide_layers
from einsearch_cli.layers import layer_orders, set_layer_orders_
from einsearch_cli.models.transformer import Transformer, TransformerConfig
from einsearch_cli.training.full import load_model


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    config = TransformerConfig(vocabulary=20, width=32, layers=1, heads=2, context=8, structure="btt:r=2")
    model = Transformer(config).eval()
    for value in model.parameters():
        nn.init.normal_(value, std=0.3)
    return model


@pytest.mark.parametrize("dense", [False, True])
def test_round_trip(model: Transformer, tmp_path: Path, dense: bool) -> None:
    stored = dense_copy(model) if dense else model
    save_transformer(stored, tmp_path / "model.safetensors")
    loaded = load_transformer(tmp_path / "model.safetensors")
    tokens = torch.randint(0, 20, (2, 8))
    assert torch.equal(loaded(tokens), stored(tokens))
    assert loaded.config == stored.config
    assert [item.name for item in tmp_path.iterdir()] == ["model.safetensors"]
    (tmp_path / "plain").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.fixture
def equations() -> Transformer:
    """A transformer as versions without orders built it: an equation as structure, in the fast order."""
    structure = "...ab,acr,bdr->...cd; a=4,b=8,c=16,d=8,r=2"
    config = TransformerConfig(vocabulary=20, width=32, layers=1, heads=2, context=8, structure=structure)
    model = Transformer(config).eval()
    set_layer_orders_(model, dict.fromkeys(layer_orders(model), "fast"))
    for value in model.parameters():
        nn.init.normal_(value, std=0.3)
    return model


def test_files_and_runs_without_orders_are_in_the_fast_order(
    equations: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors_file, "layer_orders", lambda _: {})
    save_transformer(equations, tmp_path / "model.safetensors")
    save_run(equations, tmp_path / "run", None)
    monkeypatch.undo()
    tokens = torch.randint(0, 20, (2, 8))
    for loaded in (load_transformer(tmp_path / "model.safetensors"), load_model(tmp_path / "run")[0]):
        assert torch.allclose(loaded(tokens), equations(tokens), atol=1e-6)
        save_transformer(loaded, tmp_path / "again.safetensors")
        assert torch.equal(load_transformer(tmp_path / "again.safetensors")(tokens), loaded(tokens))


def test_a_full_disk_is_named(model: Transformer, tmp_path: Path, full_disk: None) -> None:  # noqa: ARG001
    """safetensors wraps the system's error in one of its own."""
    with pytest.raises(OutputError, match=r"cannot write '.*model.safetensors': .*File too large"):
        save_transformer(model, tmp_path / "model.safetensors")
    with pytest.raises(OutputError, match=r"cannot write '.*run': .*File too large"):
        save_run(model, tmp_path / "run", None)
    assert not list(tmp_path.iterdir())


def test_tensors_of_another_config_are_refused(model: Transformer, tmp_path: Path) -> None:
    save_transformer(model, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        save_file({"norm.weight": torch.ones(32)}, tmp_path / "part.safetensors", file.metadata())
    with pytest.raises(SpecError, match=r"part.safetensors: its tensors are not those of the config"):
        load_transformer(tmp_path / "part.safetensors")


def test_a_failed_write_leaves_the_old_file(
    model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write '.*model.safetensors': No space left on device"):
        save_transformer(model, path)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["model.safetensors"]


def test_other_files_are_refused(model: Transformer, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(SpecError, match=r"other.safetensors cannot be read as safetensors"):
        load_transformer(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(SpecError, match=r"has no entry 'einsearch' with a config in its metadata"):
        load_transformer(path)
    with pytest.raises(OutputError, match="it is a folder, a file is needed"):
        save_transformer(model, tmp_path)
    with pytest.raises(OutputError, match=r"'.*other.safetensors' is not a folder"):
        save_transformer(model, path / "model.safetensors")


def test_a_guided_model_is_stored_as_dense_only(model: Transformer, tmp_path: Path) -> None:
    guide_layers(model).set_weight(0.5)
    for save in (save_transformer, save_run):
        with pytest.raises(LayerError, match=r"blocks.0.ffn.up has a guide"):
            save(model, tmp_path / "model", None)
    save_transformer(dense_copy(model), tmp_path / "dense.safetensors")
    tokens = torch.randint(0, 20, (2, 8))
    torch.testing.assert_close(load_transformer(tmp_path / "dense.safetensors")(tokens), model(tokens))
