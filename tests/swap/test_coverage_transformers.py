"""The report of a swap on tiny random models of transformers: nothing that multiplies is missing."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from einsearch_cli.swap import Kept, SwapReport, plan_swaps

transformers = pytest.importorskip("transformers")

WIDTH, HIDDEN, EXPERTS, TOP = 32, 48, 8, 2


def _made(name: str, **settings: Any) -> nn.Module:
    common = {
        "vocab_size": 96, "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    config = getattr(transformers, f"{name}Config")(**(common | settings))
    model: nn.Module = getattr(transformers, f"{name}ForCausalLM")(config)
    return model


def _mixtral() -> nn.Module:
    return _made("Mixtral", num_local_experts=EXPERTS, num_experts_per_tok=TOP, intermediate_size=HIDDEN)


def _qwen2_moe() -> nn.Module:
    sizes = {"moe_intermediate_size": HIDDEN, "shared_expert_intermediate_size": HIDDEN}
    return _made("Qwen2Moe", num_experts=EXPERTS, num_experts_per_tok=TOP, **sizes)


def _gpt_oss() -> nn.Module:
    sizes = {"num_local_experts": EXPERTS, "num_experts_per_tok": TOP, "intermediate_size": HIDDEN, "head_dim": 8}
    return _made("GptOss", **sizes)


def _deepseek() -> nn.Module:
    ranks = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
    routing = {"n_routed_experts": EXPERTS, "num_experts_per_tok": TOP, "n_group": 2, "topk_group": 1}
    sizes = {"moe_intermediate_size": HIDDEN, "first_k_dense_replace": 0, "num_key_value_heads": 4}
    return _made("DeepseekV3", **ranks, **routing, **sizes)


def _xlnet() -> nn.Module:
    model: nn.Module = transformers.XLNetLMHeadModel(
        transformers.XLNetConfig(vocab_size=96, d_model=WIDTH, n_layer=2, n_head=4, d_inner=64)
    )
    return model


def _gpt2() -> nn.Module:
    sizes = {"n_layer": 2, "n_embd": WIDTH, "n_head": 2, "n_positions": 16, "vocab_size": 96}
    model: nn.Module = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2))
    return model


def _whisper() -> nn.Module:
    sizes = {"d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 96, "num_mel_bins": 8}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    lengths = {"max_source_positions": 16, "max_target_positions": 16}
    model: nn.Module = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(**sizes, **heads, **tokens, **lengths, suppress_tokens=None)
    )
    return model


def _vit() -> nn.Module:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model: nn.Module = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=16, patch_size=4))
    return model


def _mamba() -> nn.Module:
    model: nn.Module = transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=96, hidden_size=WIDTH, num_hidden_layers=1, state_size=4)
    )
    return model


def _kinds(report: SwapReport, text: str) -> list[Kept]:
    return [kept for kept in report.kept or () if text in f"{kept.kind}: {kept.note}"]


MODELS = [_mixtral, _qwen2_moe, _gpt_oss, _deepseek, _xlnet, _gpt2, _whisper, _vit, _mamba]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__.strip("_"))
def test_the_listed_kinds_are_all_weights(make: Any) -> None:
    model = make()
    report = plan_swaps(model, "monarch")
    listed = report.total.params_before + sum(kept.params for kept in report.kept or ())
    assert listed == sum(p.numel() for p in model.parameters() if p.ndim >= 2)
    assert report.vector_params == sum(p.numel() for p in model.parameters() if p.ndim < 2)
    assert report.unreachable == {}
    assert not any("plain Python reference" in reason for reason in report.skipped.values())
    assert max(map(len, str(report).splitlines())) <= 80


def _no_experts(_layer: Any, name: str) -> bool:
    return ".experts." not in name


@pytest.mark.parametrize("make", [_mixtral, _qwen2_moe, _gpt_oss, _deepseek])
def test_fused_experts_are_listed_with_the_flops_of_active_ones(make: Any) -> None:
    report = plan_swaps(make(), "monarch", _no_experts)
    (experts,) = _kinds(report, "fused experts")
    matrices = 2 * 3 * WIDTH * HIDDEN  # of one expert in each of both layers
    biases = 2 * EXPERTS * (2 * HIDDEN + WIDTH) if make is _gpt_oss else 0
    assert experts.params == EXPERTS * matrices + biases
    assert experts.flops == 2 * TOP * matrices
    assert experts.note == f"fused experts; FLOPs of {TOP} of {EXPERTS} experts"
    (router,) = _kinds(report, "scores experts")
    assert (router.params, router.flops) == (2 * EXPERTS * WIDTH, 2 * 2 * EXPERTS * WIDTH)
    assert report.covered_params == report.total.params_before / report.model.params_before < 0.5
    assert report.model.flops_before == report.total.flops_before + experts.flops + router.flops + sum(
        kept.flops or 0 for kept in _kinds(report, "nn.Linear")
    )


def test_mixtral_says_what_share_stays() -> None:
    report = plan_swaps(_mixtral(), "monarch", _no_experts)
    share = 9_216 / report.model.params_before
    assert str(report).splitlines()[1].startswith(f"would replace {share:.1%} of the parameters and ")
    assert f"{73_728 / report.model.params_before:.1%}" == "85.0%"
    assert any("73,728  85.0%       36,864  MixtralExperts: fused experts" in line for line in str(report).splitlines())


def test_the_three_dimensional_projections_of_xlnet_are_named_with_flops_unknown() -> None:
    report = plan_swaps(_xlnet(), "monarch")
    (attention,) = _kinds(report, "XLNetRelativeAttention")
    assert attention.flops is None
    assert {name.rpartition(".")[2] for name in attention.names} >= {"q", "k", "v", "o", "r"}
    assert "the known FLOPs" in str(report)
    assert "FLOPs are not known for " in str(report)


def test_a_tied_head_counts_where_it_multiplies() -> None:
    report = plan_swaps(_gpt2(), "monarch")
    (head,) = _kinds(report, "nn.Linear")
    assert (head.params, head.flops, head.note) == (96 * WIDTH, 2 * 96 * WIDTH, "shared with an embedding")
    (positions,) = _kinds(report, "nn.Embedding")
    assert (positions.params, positions.flops, positions.note) == (16 * WIDTH, 0, "a lookup, not a product")


def test_convolutions_of_whisper_and_vit_are_listed() -> None:
    (speech,) = _kinds(plan_swaps(_whisper(), "monarch"), "nn.Conv1d")
    assert speech.params == 3 * 8 * WIDTH + 3 * WIDTH * WIDTH
    (patches,) = _kinds(plan_swaps(_vit(), "monarch"), "nn.Conv2d")
    assert (patches.params, patches.flops) == (3 * 4 * 4 * WIDTH, None)
