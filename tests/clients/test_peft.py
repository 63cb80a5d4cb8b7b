"""LoRA of peft on swapped models, without naming einsearch's layers anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from einsearch_cli.errors import LayerError
from einsearch_cli.export import dense_copy, load_swapped, save_swapped
from einsearch_cli.layers import EinsumLinear
from einsearch_cli.swap import swap_linear
from tests.clients.test_transformers import build

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

# peft uses names of earlier versions of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")

TOKENS = torch.arange(3, 19).reshape(2, 8)


def swapped(name: str = "Llama") -> Any:
    model = build(name)
    model.report = swap_linear(model, "monarch", lambda _, name: "down_proj" not in name and "head" not in name)
    return model


def drawn(model: Any, **options: Any) -> Any:
    """Add adapters that have an effect; peft's start at zero by default."""
    torch.manual_seed(1)
    return peft.get_peft_model(model, peft.LoraConfig(r=3, init_lora_weights=False, **options)).eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=TOKENS).logits
        return found


def test_all_linear_finds_structured_and_dense_layers_but_not_the_head() -> None:
    model = swapped()
    names = {name for name, module in model.named_modules() if isinstance(module, EinsumLinear | nn.Linear)}
    adapted = drawn(model, target_modules="all-linear")
    wrapped = {name for name, module in adapted.base_model.model.named_modules() if hasattr(module, "lora_A")}
    assert wrapped == names - {"lm_head"}
    again = peft.LoraConfig(r=2, target_modules="all-linear")
    adapted.add_adapter("second", again)
    assert not any("lora_A" in name for name in again.target_modules)


def test_the_adapter_adds_what_its_factors_say_and_trains_alone() -> None:
    model = swapped()
    before = logits(model)
    layer = model.model.layers[0].self_attn.q_proj
    x = torch.randn(5, 32)
    plain = layer(x)
    adapted = drawn(model, target_modules=["q_proj"], lora_alpha=6)
    wrapped = model.model.layers[0].self_attn.q_proj
    a, b = (getattr(wrapped, f"lora_{part}")["default"].weight for part in "AB")
    torch.testing.assert_close(wrapped(x), plain + 2 * x @ a.T @ b.T)
    with adapted.disable_adapter():
        torch.testing.assert_close(logits(adapted), before)
    adapted.train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
    with_gradient = {name for name, p in adapted.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, _ in adapted.named_parameters() if "lora_" in name}


def test_adapters_are_saved_and_loaded_next_to_the_swapped_model(tmp_path: Path) -> None:
    model = swapped()
    save_swapped(model, model.report, tmp_path / "base")
    adapted = drawn(model, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted.save_pretrained(tmp_path / "adapter")
    base = load_swapped(tmp_path / "base", transformers.AutoModelForCausalLM)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.equal(logits(loaded), logits(adapted))
    adapted.save_pretrained(tmp_path / "base")  # as Trainers do, into the same folder
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    torch.testing.assert_close(logits(whole), logits(adapted))


@pytest.mark.parametrize("merge", ["merge_and_unload", "merge_adapter"])
def test_a_merge_is_refused_before_anything_is_merged_and_exact_for_a_dense_copy(merge: str) -> None:
    model = build("Llama")
    swap_linear(model, "monarch", lambda _, name: "down_proj" in name)  # behind layers that could be merged
    adapted = drawn(model, target_modules=["q_proj", "down_proj"])
    expected = logits(adapted)
    with pytest.raises(LayerError, match=r"(?s)merging LoRA adapters into structured layers.*dense_copy"):
        getattr(adapted, merge)()
    assert not any(getattr(module, "merged", False) for module in adapted.modules())
    assert torch.equal(logits(adapted), expected)
    dense = dense_copy(adapted)
    merged = getattr(dense, merge)() or dense
    torch.testing.assert_close(logits(merged), expected, rtol=1e-3, atol=1e-4)
    assert logits(adapted.unload()).shape == expected.shape


def test_what_is_merged_into_a_dense_copy_of_a_loaded_model_is_saved_as_dense(tmp_path: Path) -> None:
    model = swapped()
    save_swapped(model, model.report, tmp_path / "base")
    for name, base in (("saved", model), ("loaded", load_swapped(tmp_path / "base", type(model)))):
        adapted = drawn(base, target_modules=["q_proj", "down_proj"])
        merged = dense_copy(adapted).merge_and_unload()
        merged.save_pretrained(tmp_path / name)
        assert "einsearch" not in (tmp_path / name / "config.json").read_text()
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name)
        torch.testing.assert_close(logits(again), logits(adapted), rtol=1e-3, atol=1e-4)
        adapted.unload()
        base.save_pretrained(tmp_path / f"{name}-swapped")
        assert "einsearch" in (tmp_path / f"{name}-swapped" / "config.json").read_text(), "the copy alone is dense"


@pytest.mark.parametrize("options", [{"use_dora": True}, {"init_lora_weights": "pissa"}], ids=lambda o: next(iter(o)))
def test_variants_that_change_a_dense_weight_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, LayerError), match=r"combination|a write to the weight"):
        peft.get_peft_model(swapped(), peft.LoraConfig(r=3, target_modules=["q_proj"], **options))


def test_an_adapter_of_the_dense_model_fits_the_swapped_one_by_name(tmp_path: Path) -> None:
    drawn(build("Llama"), target_modules=["q_proj"]).save_pretrained(tmp_path)
    model = swapped()
    before = logits(model)
    loaded = peft.PeftModel.from_pretrained(model, tmp_path).eval()
    assert (logits(loaded) - before).abs().max() > 1e-3
