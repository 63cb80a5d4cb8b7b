"""Swapped models of Hugging Face transformers, written and built again; tiny and random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from einsearch_cli.errors import SpecError
from einsearch_cli.export import load_swapped, save_swapped
from einsearch_cli.layers import swap_linear

transformers = pytest.importorskip("transformers")


def _gpt2(layers: int = 2) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=layers, n_embd=32, n_head=2, n_positions=32, vocab_size=96, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval()


def _llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        num_hidden_layers=2, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=96, max_position_embeddings=32, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def _tokens() -> torch.Tensor:
    return torch.randint(0, 96, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("make", "name"), [(_gpt2, "GPT2LMHeadModel"), (_llama, "LlamaForCausalLM")])
def test_round_trip(make: Any, name: str, tmp_path: Path) -> None:
    model = make()
    reports = [
        swap_linear(model, "btt:r=2", lambda _, name: "attn" in name and "head" not in name, project=True),
        swap_linear(model, "low-rank:r=8", lambda _, name: "mlp" in name, project=True),
    ]
    assert all(report.replaced for report in reports)
    save_swapped(model, reports, tmp_path / "model")
    for model_class in (getattr(transformers, name), transformers.AutoModelForCausalLM):
        loaded = load_swapped(tmp_path / "model", model_class)
        assert list(loaded.state_dict()) == list(model.state_dict())
        assert torch.equal(loaded(_tokens()).logits, model(_tokens()).logits)
    if name == "GPT2LMHeadModel":
        assert loaded.lm_head.weight is loaded.transformer.wte.weight


def test_weights_in_several_files(tmp_path: Path) -> None:
    model = _gpt2()
    report = swap_linear(model, "monarch", lambda _, name: "mlp" in name)
    save_swapped(model, report, tmp_path)
    model.save_pretrained(tmp_path / "split", max_shard_size="20KB")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 1
    (tmp_path / "einsearch_swaps.json").rename(tmp_path / "split" / "einsearch_swaps.json")
    loaded = load_swapped(tmp_path / "split", transformers.GPT2LMHeadModel)
    assert torch.equal(loaded(_tokens()).logits, model(_tokens()).logits)


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    model: nn.Module = _gpt2()
    save_swapped(model, swap_linear(model, "monarch", lambda _, name: "mlp" in name), tmp_path)
    other: nn.Module = _gpt2()
    other.save_pretrained(tmp_path)  # type: ignore[operator]
    with pytest.raises(
        SpecError, match=r"the weights lack transformer.h.0.mlp.c_fc.gain, .* and have 4 that it does not"
    ):
        load_swapped(tmp_path, transformers.GPT2LMHeadModel)
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(SpecError, match="cannot be read"):
        load_swapped(tmp_path, transformers.GPT2LMHeadModel)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(SpecError, match=r"has no \.safetensors file"):
        load_swapped(tmp_path, transformers.GPT2LMHeadModel)
    (tmp_path / "einsearch_swaps.json").write_text("{}}")
    with pytest.raises(SpecError, match=r"einsearch_swaps.json is no list of swap reports"):
        load_swapped(tmp_path, transformers.GPT2LMHeadModel)
