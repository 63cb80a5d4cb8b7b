"""Swapped models of Hugging Face transformers, written and built again; tiny and random."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from einsearch_cli.errors import SpecError
from einsearch_cli.export import load_swapped, save_swapped
from einsearch_cli.swap import swap_linear

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


def test_the_config_names_the_class_unless_one_is_given(tmp_path: Path) -> None:
    model = _gpt2()
    save_swapped(model, swap_linear(model, "monarch", lambda _, name: "mlp" in name), tmp_path)
    loaded = load_swapped(tmp_path)
    assert type(loaded) is transformers.GPT2LMHeadModel
    assert torch.equal(loaded(_tokens()).logits, model(_tokens()).logits)
    config = json.loads((tmp_path / "config.json").read_text())
    for names, said in (
        (["MineForCausalLM"], "names MineForCausalLM"),
        (None, "names no class"),
        ([], "names no class"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": names}))
        with pytest.raises(SpecError, match=rf"{said} (?s:.*)try: give the class, such as load_swapped\(folder, tra"):
            load_swapped(tmp_path)
        assert load_swapped(tmp_path, transformers.GPT2LMHeadModel)
    for given in ([], [transformers.GPT2LMHeadModel]):
        with pytest.raises(
            SpecError, match=r"the config of .*nowhere cannot be read: (?s:.*)try: give the folder that"
        ):
            load_swapped(tmp_path / "nowhere", *given)


def test_weights_in_several_files(tmp_path: Path) -> None:
    model = _gpt2()
    report = swap_linear(model, "monarch", lambda _, name: "mlp" in name)
    save_swapped(model, report, tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    readme = tmp_path / "README.md"
    assert "import einsearch_cli" in readme.read_text()
    readme.write_text("mine")
    save_swapped(model, report, tmp_path, max_shard_size="20KB")
    assert readme.read_text() == "mine"
    loaded = load_swapped(tmp_path, transformers.GPT2LMHeadModel)
    assert torch.equal(loaded(_tokens()).logits, model(_tokens()).logits)


def test_options_generation_and_further_files_are_as_with_from_pretrained(tmp_path: Path) -> None:
    model = _llama()
    model.generation_config.eos_token_id = [42, 43]
    save_swapped(model, swap_linear(model, "monarch"), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"not of the model")
    options = {"dtype": torch.bfloat16, "attn_implementation": "eager"}
    loaded = load_swapped(tmp_path, transformers.AutoModelForCausalLM, **options)
    assert loaded.dtype == torch.bfloat16
    assert loaded.config._attn_implementation == "eager"
    assert loaded.generation_config.eos_token_id == [42, 43]
    assert not loaded.training
    assert loaded.half().dtype == torch.float16, "nothing is quantised"


def test_what_is_saved_of_a_loaded_model_loads_again_with_head_and_without(tmp_path: Path) -> None:
    model = _llama()
    save_swapped(model, swap_linear(model, "monarch"), tmp_path / "first")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "second")
    body = transformers.AutoModel.from_pretrained(tmp_path / "second")
    states = [network.state_dict() for network in (model, again)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert all(torch.equal(states[0][f"model.{name}"], value) for name, value in body.state_dict().items())


def test_folders_of_earlier_versions_have_the_swaps_next_to_the_config(tmp_path: Path) -> None:
    model = _gpt2()
    report = swap_linear(model, "monarch", lambda _, name: "mlp" in name)
    model.save_pretrained(tmp_path)
    (tmp_path / "einsearch_swaps.json").write_text(json.dumps([report.to_json()]))
    loaded = load_swapped(tmp_path, transformers.GPT2LMHeadModel)
    assert torch.equal(loaded(_tokens()).logits, model(_tokens()).logits)


def test_the_config_is_read_from_where_the_weights_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _gpt2()
    save_swapped(model, swap_linear(model, "monarch", lambda _, name: "mlp" in name), tmp_path / "inside")
    seen: list[dict[str, Any]] = []
    read = transformers.AutoConfig.from_pretrained
    monkeypatch.setattr(
        transformers.AutoConfig, "from_pretrained", lambda *words, **named: seen.append(named) or read(*words, **named)
    )
    places = {"subfolder": "inside", "revision": "main", "local_files_only": True, "cache_dir": str(tmp_path / "cache")}
    loaded = load_swapped(tmp_path, transformers.GPT2LMHeadModel, **places, dtype=torch.float32)
    assert torch.equal(loaded(_tokens()).logits, model(_tokens()).logits)
    assert seen[0] == places


def test_layers_swapped_after_loading_are_noted_behind_those_before(tmp_path: Path) -> None:
    model = _llama()
    save_swapped(model, swap_linear(model, "monarch", lambda _, name: "mlp" in name), tmp_path / "first")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "first")
    report = swap_linear(loaded, "btt-moe:experts=4,top=1", lambda _, name: "attn" in name)
    for _ in range(2):  # nothing is noted twice
        save_swapped(loaded, report, tmp_path / "second")
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "second")
        assert torch.equal(again(_tokens()).logits, loaded(_tokens()).logits)
    entry = json.loads((tmp_path / "second" / "config.json").read_text())["quantization_config"]
    assert [len(swaps["replaced"]) for swaps in entry["swaps"]] == [6, 8]


def test_reports_that_do_not_name_the_structured_layers_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model, other = _llama(), _llama()
    report = swap_linear(model, "monarch", lambda _, name: "mlp" in name)
    stranger = swap_linear(other, "low-rank:r=4", lambda _, name: "mlp" in name)
    more = swap_linear(model, "monarch", lambda _, name: "attn" in name)
    for reports, message in (
        (
            [stranger, more],
            r"says XA\^1 YB\^1 AB=4 32 -> 48 for model.layers.0.mlp.gate_proj: the model has XA.1/2 XAB",
        ),
        ([report], r"8 structured layers of the model are in no report, such as model.layers.0.self_attn.q_proj"),
        ([swap_linear(_llama(), "monarch", lambda _, __: True)], r"lm_head: the model has no structured layer there"),
    ):
        with pytest.raises(SpecError, match=message):
            save_swapped(model, reports, tmp_path / "folder")
        assert not (tmp_path / "folder").exists()
        assert getattr(model.config, "quantization_config", None) is None
    save_swapped(model, [report, more], tmp_path / "folder")


def test_plain_from_pretrained_refuses_a_folder_in_which_factors_are_missing(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = _llama()
    save_swapped(model, swap_linear(model, "monarch"), tmp_path)
    pytest.importorskip("accelerate")
    places = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    places["model.rotary_emb"] = "cpu"
    on_disk = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path, device_map=places, offload_folder=tmp_path / "disk"
    )
    assert torch.equal(on_disk(_tokens()).logits, model(_tokens()).logits), "parameters on disk are not missing"
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.factors.A"]
    save_file(weights, path, {"format": "pt"})
    for kind in (transformers.AutoModelForCausalLM, transformers.LlamaForCausalLM):
        with pytest.raises(SpecError, match=r"lack 1 parameters .*: model.layers.1.mlp.up_proj.factors.A"):
            kind.from_pretrained(tmp_path)


LOADING = """
import sys, torch, transformers
if sys.argv[2] == "einsearch":
    import einsearch_cli
try:
    model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
except ValueError as error:
    print("refused:", error)
else:
    print(model(torch.arange(7)[None]).logits.double().sum().item())
"""


@pytest.mark.parametrize("imported", ["einsearch", "nothing"])
def test_another_process_loads_a_swapped_mixtral_where_einsearch_is_imported(tmp_path: Path, imported: str) -> None:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval()
    save_swapped(model, swap_linear(model, "monarch"), tmp_path)
    command = [sys.executable, "-c", LOADING, str(tmp_path), imported]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    if imported == "nothing":
        assert said.startswith("refused: The checkpoint you are trying to load has model type `einsearch-mixtral`")
    else:
        expected = model(torch.arange(7)[None]).logits.double().sum().item()
        assert float(said) == pytest.approx(expected, rel=1e-6)


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    model: nn.Module = _gpt2()
    save_swapped(model, swap_linear(model, "monarch", lambda _, name: "mlp" in name), tmp_path)
    config = tmp_path / "config.json"
    before = config.read_bytes()
    other: nn.Module = _gpt2()
    other.save_pretrained(tmp_path)  # type: ignore[operator]
    config.write_bytes(before)
    with pytest.raises(
        SpecError, match=r"the weights lack transformer.h.0.mlp.c_fc.factors.A, .* and have 4 that it does not"
    ):
        load_swapped(tmp_path, transformers.GPT2LMHeadModel)
    other = _gpt2()
    wide = tmp_path / "wide"
    save_swapped(other, swap_linear(other, "monarch:blocks=2", lambda _, name: "mlp" in name), wide)
    (tmp_path / "model.safetensors").write_bytes((wide / "model.safetensors").read_bytes())
    with pytest.raises(
        SpecError, match=r"8 of the weights have other shapes than the model: transformer.h.0.mlp.c_fc.fac"
    ):
        load_swapped(tmp_path, transformers.GPT2LMHeadModel)
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(SpecError, match="cannot be read"):
        load_swapped(tmp_path, transformers.GPT2LMHeadModel)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(SpecError, match=r"cannot be read: Error no file named model.safetensors"):
        load_swapped(tmp_path, transformers.GPT2LMHeadModel)
    document = json.loads(before)
    for changes, message in (
        ({"format": 2}, r"of format 2, and this version of einsearch reads 1\ntry: pip install --upgrade einsearch"),
        ({"swaps": {"a": 1}}, "the swaps of the model are not a list of swap reports"),
    ):
        entry = document["quantization_config"] | changes
        config.write_text(json.dumps({**document, "quantization_config": entry}))
        with pytest.raises(SpecError, match=message):
            load_swapped(tmp_path, transformers.GPT2LMHeadModel)
    del document["quantization_config"]
    config.write_text(json.dumps(document))
    with pytest.raises(SpecError, match="says nowhere which layers were swapped"):
        load_swapped(tmp_path, transformers.GPT2LMHeadModel)
