"""Runs as folders of Hugging Face, read by transformers alone; tiny models with random weights."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from einsearch_cli.data.tokens import BytesTokenizer, CharacterTokenizer, Tokenizer
from einsearch_cli.data.tokens.subwords import GPT2_PATTERN, HuggingFaceTokenizer, TiktokenTokenizer
from einsearch_cli.errors import DataError, LayerError, OutputError
from einsearch_cli.export import save_for_transformers, transformers_folder
from einsearch_cli.export.twins import twin_of
from einsearch_cli.guided import guide_layers
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.models.transformer import Transformer, TransformerConfig, preset
from einsearch_cli.moe import StructuredMoE

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {"vocabulary": 256, "width": 32, "layers": 2, "heads": 4, "hidden": 48, "context": 24}
LLAMA = {"norm": "rms", "activation": "swiglu"}


def _model(**changes: Any) -> Transformer:
    """A model with every parameter random: a zero head, a gain of 1 or a bias of 0 would hide a mix-up."""
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(**{**SIZES, **changes}))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "factors" not in name:
                value.copy_(torch.randn_like(value) * 0.3 + ("norm" in name or "gain" in name))
            elif not value.any():
                nn.init.normal_(value, std=0.3)
    return model.eval()


def _load(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def _tokens(model: Transformer) -> torch.Tensor:
    shape = (2, model.config.context)
    return torch.randint(model.config.vocabulary, shape, generator=torch.Generator().manual_seed(1))


TWINS = {
    "Llama": LLAMA,
    "Llama of two": LLAMA | {"kv_heads": 2, "head_size": 6, "rotary_base": 500.0, "tied": True},
    "Llama with biases": LLAMA | {"bias": True},
    "Qwen3": LLAMA | {"qk_norm": True, "kv_heads": 1, "head_size": 10, "tied": True},
    "GPT-NeoX": {"bias": True, "tied": True},
    "GPT-NeoX without biases": {"rotary_base": 777.0},
    "StarCoder2": {"kv_heads": 2, "head_size": 4, "bias": True, "tied": True},
    "StarCoder2 without biases": {"kv_heads": 2},
    "Arcee": {"norm": "rms", "bias": True, "kv_heads": 2, "tied": True},
    "StableLM": {"activation": "swiglu", "kv_heads": 2, "tied": True},
}


@pytest.mark.parametrize("name", TWINS)
def test_logits_are_those_of_the_run(tmp_path: Path, name: str) -> None:
    model = _model(**TWINS[name])
    assert twin_of(model.config).label == name.partition(" ")[0]
    assert save_for_transformers(model, tmp_path / "out", BytesTokenizer()) < 1e-5
    loaded = _load(tmp_path / "out")
    assert type(loaded).__module__.startswith("transformers.models.")
    tokens = _tokens(model)
    with torch.no_grad():
        expected, found = model(tokens), loaded(tokens).logits
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["max_position_embeddings"] == 24
    assert config["eos_token_id"] is None
    again = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert again.rope_parameters["rope_theta"] == config["rotary_emb_base"] == model.config.rotary_base
    assert again.rope_parameters.get("partial_rotary_factor", 1.0) == config["rotary_pct"] == 1.0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


STRUCTURED = {
    "Llama": LLAMA | {"structure": "btt:r=2", "structured": "all", "first_ffn_dense": True, "kv_heads": 2},
    "Qwen3": LLAMA | {"structure": "low-rank:r=4", "qk_norm": True},
    "GPT-NeoX": {"structure": "monarch", "bias": True, "tied": True},
    "GPT-NeoX without biases": {"structure": "block-shuffle:blocks=2"},
    "StarCoder2": {"structure": "monarch", "structured": "all", "bias": True},
    "StarCoder2 of attention": {"structure": "tt:r=2", "structured": "attn"},
    "Llama of experts": LLAMA | {"structure": "btt-moe:experts=4,top=2", "structured": "all"},
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_layers_stay_or_are_merged(tmp_path: Path, name: str) -> None:
    model = _model(**STRUCTURED[name])
    for layer in model.modules():
        if isinstance(layer, EinsumLinear) and "btt" in model.config.structure:
            layer.order = "standard"  # an order that no new layer has
    assert twin_of(model.config, structured=True).label == name.partition(" ")[0]
    tokens = _tokens(model)
    with torch.no_grad():
        expected = model(tokens)
    assert save_for_transformers(model, tmp_path / "kept", structured=True) < 1e-5
    with torch.no_grad():
        found = _load(tmp_path / "kept")(tokens).logits
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    kept = sum(isinstance(layer, EinsumLinear | StructuredMoE) for layer in _load(tmp_path / "kept").modules())
    assert kept == len(model.structured_layers())
    assert json.loads((tmp_path / "kept" / "config.json").read_text())["model_type"].startswith("einsearch-")
    if "experts" in name:
        with pytest.raises(LayerError, match=r"btt-moe.*a layer is not a single matrix\ntry: keep the structures with"):
            save_for_transformers(model, tmp_path / "merged")
        return
    assert save_for_transformers(model, tmp_path / "merged") < 1e-5
    merged = _load(tmp_path / "merged")
    assert not any(isinstance(layer, EinsumLinear) for layer in merged.modules())
    with torch.no_grad():
        assert (merged(tokens).logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def _byte_pairs() -> Tokenizer:
    return HuggingFaceTokenizer.train(["the cat sat on the mat, and the hat that the cat had. " * 9], 280)


def _with_ends() -> Tokenizer:
    """A tokenizer whose file adds a token at each end of a text, which `einsearch train` does not."""
    import tokenizers

    words = tokenizers.Tokenizer.from_str(_byte_pairs().to_json()["tokenizer_json"])
    words.add_special_tokens(["<s>", "</s>"])
    ends = [(name, words.token_to_id(name)) for name in ("<s>", "</s>")]
    words.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return HuggingFaceTokenizer(words)


GPT4_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|"""
    r"""\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
)
"""Pattern by which cl100k_base splits texts into words, from tiktoken's openai_public.py."""


def _tiktoken(pattern: str) -> Tokenizer:
    words = [bytes([byte]) for byte in range(256)] + [b"he", b" t", b" the", b"at", b" cat", b"12", b"123", b"\n\n"]
    ranks = {base64.b64encode(word).decode(): rank for rank, word in enumerate(words)}
    special = {"<|endoftext|>": len(words), "<|later|>": len(words) + 5}
    description = {"name": "tiny", "pattern": pattern, "ranks": ranks, "special_tokens": special}
    return TiktokenTokenizer.from_json(description)


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": BytesTokenizer,
    "characters": lambda: CharacterTokenizer.of(["the cat sat on the mat.\n  12 ü猫"]),
    "characters with the unknown one": lambda: CharacterTokenizer("at\N{REPLACEMENT CHARACTER}"),
    "bpe": _byte_pairs,
    "with ends": _with_ends,
    "tiktoken of GPT-2": lambda: _tiktoken(GPT2_PATTERN),
    "tiktoken of GPT-4": lambda: _tiktoken(GPT4_PATTERN),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_tokenizer_gives_the_tokens_of_training(tmp_path: Path, name: str) -> None:
    own = TOKENIZERS[name]()
    model = _model(**LLAMA, layers=1, vocabulary=own.vocabulary)
    save_for_transformers(model, tmp_path / "out", own)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in ("the cat sat", " the\n\n\ncat  123 1234 \t", "über 猫🐈 \ufffd don't", ""):
        expected = own.encode(text).tolist()
        assert loaded(text)["input_ids"] == expected
        assert loaded(text, add_special_tokens=False)["input_ids"] == expected
        if name != "characters with the unknown one":
            assert loaded.decode(expected) == own.decode(expected)
    assert loaded.eos_token_id == loaded.bos_token_id == own.end_of_text
    assert loaded.model_max_length == 24
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert generation.eos_token_id == own.end_of_text


def test_generation_writes_what_the_run_writes(tmp_path: Path) -> None:
    model = _model(**LLAMA, structure="btt:r=2")
    save_for_transformers(model, tmp_path / "out", BytesTokenizer())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    prompt = tokenizer("the cat", return_tensors="pt")
    (found,) = _load(tmp_path / "out").generate(**prompt, max_new_tokens=16, do_sample=False)
    tokens = BytesTokenizer().encode("the cat").tolist()
    with torch.no_grad():
        for _ in range(16):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    assert found.tolist() == tokens


REFUSED: list[tuple[dict[str, Any], str]] = [
    (LLAMA | {"qk_norm": True, "bias": True}, "Qwen3 has norms of queries and keys, and no biases"),
    (LLAMA | {"width": 30, "head_size": 6}, "Llama needs heads that divide the width"),
    ({"qk_norm": True}, "norms of queries and keys exist only with RMSNorm and SwiGLU, as in Qwen3"),
    ({"norm": "rms", "qk_norm": True}, "norms of queries and keys exist only with RMSNorm"),
    ({"activation": "swiglu", "bias": True}, "StableLM, which has LayerNorm and SwiGLU, has no biases"),
    ({"activation": "swiglu", "head_size": 4}, "StableLM, .*, has attention as wide as the stream"),
    ({"structure": "ffn-moe:experts=4,top=2"}, "no architecture of Hugging Face has experts of two matrices and GELU"),
]


@pytest.mark.parametrize(("changes", "reason"), REFUSED)
def test_what_no_architecture_computes_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(LayerError, match=reason):
        save_for_transformers(_model(**changes), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_reason_comes_with_the_settings() -> None:
    with pytest.raises(LayerError) as caught:
        twin_of(preset("s", qk_norm=True))
    assert str(caught.value) == (
        "no architecture of Hugging Face computes what this run does (norm=layer, activation=gelu, bias=true, "
        "qk_norm=true, kv_heads=12, heads=12, head_size=64): norms of queries and keys exist only with RMSNorm and "
        "SwiGLU, as in Qwen3\ntry: use --to dense, --to torch-export or --to onnx"
    )


def test_guided_models_are_merged_or_refused(tmp_path: Path) -> None:
    model = _model(**LLAMA, structure="btt:r=2")
    guide_layers(model).set_weight(0.5)
    model.eval()
    assert save_for_transformers(model, tmp_path / "merged") < 1e-5
    with pytest.raises(LayerError, match="has a guide"):
        save_for_transformers(model, tmp_path / "kept", structured=True)
    assert [item.name for item in tmp_path.iterdir()] == ["merged"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_disk: None) -> None:  # noqa: ARG001
    with pytest.raises(OutputError, match=r"cannot write '.*out': File too large"):
        save_for_transformers(_model(**LLAMA), tmp_path / "out", BytesTokenizer())
    assert not list(tmp_path.iterdir())


def test_other_tokens_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"tokenizer.json": json.dumps({}), "tokenizer_config.json": "{}"}
    given = transformers_folder.tokenizer_files(CharacterTokenizer("eth"), 24)
    monkeypatch.setattr(transformers_folder, "tokenizer_files", lambda *_: files | given)
    with pytest.raises(DataError, match=r"of kind 'bytes', gives other tokens as a tokenizer\.json"):
        save_for_transformers(_model(**LLAMA), tmp_path / "out", BytesTokenizer())
    assert not list(tmp_path.iterdir())


def test_a_model_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = transformers_folder.twin_config
    monkeypatch.setattr(transformers_folder, "twin_config", lambda *both: right(*both) | {"hidden_act": "relu"})
    with pytest.raises(Exception, match="outputs that differ from the model's by"):
        save_for_transformers(_model(**LLAMA), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_without_transformers_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(OutputError) as caught:
        save_for_transformers(_model(**LLAMA), tmp_path / "out")
    assert str(caught.value) == (
        "a Hugging Face folder needs transformers, which is not installed\ntry: pip install 'einsearch[transformers]'"
    )
