"""Swapped models of diffusers and sentence-transformers, written and loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from einsearch_cli.errors import SpecError
from einsearch_cli.export import dense_copy, load_swapped, remember_swaps, save_swapped
from einsearch_cli.swap import swap_linear
from tests.clients.test_transformers import build

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


def made(name: str) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(0)
    if name == "DiT":
        model = diffusers.DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=1, sample_size=8,
            num_embeds_ada_norm=10, norm_num_groups=4,
        )  # fmt: skip
        labels = torch.tensor([1, 2])
        given = {"hidden_states": torch.randn(2, 4, 8, 8), "timestep": torch.tensor([1, 5]), "class_labels": labels}
        return model.eval(), given
    model = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=8, norm_num_groups=4,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    given = {"sample": torch.randn(2, 4, 8, 8), "timestep": 3, "encoder_hidden_states": torch.randn(2, 5, 8)}
    return model.eval(), given


@pytest.mark.parametrize("name", ["DiT", "UNet"])
def test_a_model_comes_back_by_load_swapped_and_by_from_pretrained(name: str, tmp_path: Path) -> None:
    """The models include convolutions of size 1, which a UNet has."""
    model, given = made(name)
    report = swap_linear(model, "monarch", lambda layer, _: min(layer.in_features, layer.out_features) > 4)
    assert any(swap.kind == "Conv2d" for swap in report.replaced) == (name == "UNet")
    save_swapped(model, report, tmp_path / "first")
    loaded = load_swapped(tmp_path / "first")
    assert type(loaded) is type(model)
    loaded.save_pretrained(tmp_path / "again")
    with torch.no_grad():
        expected = model(**given).sample
        for other in (loaded, type(model).from_pretrained(tmp_path / "again")):
            assert torch.equal(other(**given).sample, expected)
    dense_copy(loaded).save_pretrained(tmp_path / "dense")
    with torch.no_grad():
        torch.testing.assert_close(type(model).from_pretrained(tmp_path / "dense")(**given).sample, expected)
    assert loaded.to(torch.float64).dtype == torch.float64
    code = f"import diffusers; diffusers.{type(model).__name__}.from_pretrained({str(tmp_path / 'first')!r})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Unknown quantization type, got einsearch" in ended.stderr


def test_a_folder_of_a_dense_model_is_refused(tmp_path: Path) -> None:
    model, _ = made("DiT")
    model.save_pretrained(tmp_path)
    with pytest.raises(SpecError, match="says nowhere which layers were swapped"):
        load_swapped(tmp_path, diffusers.DiTTransformer2DModel)


def test_a_model_without_a_config_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(16, 16))
    report = swap_linear(model, "monarch")
    with pytest.raises(SpecError, match=r"Sequential has no config of transformers or diffusers(?s:.*)auto_model"):
        save_swapped(model, report, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_sentence_transformer_saves_and_loads_what_was_noted_inside(tmp_path: Path) -> None:
    sentence = pytest.importorskip("sentence_transformers")
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "a", "b", "c"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    build("Bert").bert.save_pretrained(tmp_path / "bert")
    fast.save_pretrained(tmp_path / "bert")
    model = sentence.SentenceTransformer(str(tmp_path / "bert"), device="cpu")
    inner = model[0].auto_model
    remember_swaps(inner, swap_linear(inner, "monarch"))
    model.save(str(tmp_path / "sentences"))
    loaded = sentence.SentenceTransformer(str(tmp_path / "sentences"), device="cpu")
    texts = ["a b c", "c"]
    assert (loaded.encode(texts) == model.encode(texts)).all()
