"""Tiny networks of transformers with random weights, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DECODER: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ENCODER = {key: value for key, value in DECODER.items() if key != "num_key_value_heads"}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
CAUSAL, BODY, SEQ2SEQ = "AutoModelForCausalLM", "AutoModel", "AutoModelForSeq2SeqLM"
EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
HEAD_OF_8 = {"head_dim": 8}


@dataclass(frozen=True)
class Architecture:
    """How to build a network, and its inputs."""

    config: str
    """Name of its config class."""
    auto: str
    """The `Auto…` class that builds it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: str = "tokens"
    """The kind of inputs: tokens, pixels, sound or pairs (of tokens)."""


ARCHITECTURES: dict[str, Architecture] = {
    **{
        name: Architecture(f"{name}Config", CAUSAL, DECODER | more)
        for name, more in {
            "Llama": {},
            "Mistral": {},
            "Qwen2": {},
            "Qwen3": HEAD_OF_8,
            "Olmo2": {},
            "StableLm": {},
            "Phi": {},
            "Phi3": {},
            "Gemma": HEAD_OF_8,
            "Gemma2": HEAD_OF_8,
            "Cohere": {},
            "Granite": {},
            "Starcoder2": {},
            "Glm": HEAD_OF_8,
            "Nemotron": {},
            "Mixtral": {"num_local_experts": 4},
            "Olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
            "GptOss": {"num_local_experts": 4, **HEAD_OF_8},
            "Qwen2Moe": {"num_experts": 4, "shared_expert_intermediate_size": 32, **EXPERTS},
            "Qwen3Moe": {"num_experts": 4, **EXPERTS, **HEAD_OF_8},
            "DeepseekV3": {
                "num_key_value_heads": 4,
                "n_routed_experts": 4,
                "n_group": 2,
                "topk_group": 1,
                "q_lora_rank": 16,
                "kv_lora_rank": 16,
                "qk_rope_head_dim": 8,
                "qk_nope_head_dim": 8,
                "v_head_dim": 8,
                "first_k_dense_replace": 0,
                **EXPERTS,
            },
        }.items()
    },
    "GPT2": Architecture("GPT2Config", CAUSAL, {"n_layer": 1, "n_embd": 32, "n_head": 2, "vocab_size": 96}),
    "GPTNeoX": Architecture("GPTNeoXConfig", CAUSAL, ENCODER),
    "GPTJ": Architecture(
        "GPTJConfig", CAUSAL, {"n_layer": 1, "n_embd": 32, "n_head": 2, "vocab_size": 96, "rotary_dim": 8}
    ),
    "OPT": Architecture(
        "OPTConfig", CAUSAL, ENCODER | {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64}
    ),
    "Bloom": Architecture("BloomConfig", CAUSAL, {"vocab_size": 96, "hidden_size": 32, "n_layer": 1, "n_head": 4}),
    "Falcon": Architecture(
        "FalconConfig", CAUSAL, {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    ),
    "XLNet": Architecture(
        "XLNetConfig", CAUSAL, {"vocab_size": 96, "d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 64}
    ),
    "Mamba": Architecture(
        "MambaConfig", CAUSAL, {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}
    ),
    **{
        name: Architecture(f"{name}Config", auto, ENCODER | more)
        for name, auto, more in (
            ("Bert", "AutoModelForMaskedLM", {}),
            ("Roberta", "AutoModelForMaskedLM", {}),
            ("Electra", "AutoModelForMaskedLM", {"embedding_size": 32}),
            ("Albert", "AutoModelForMaskedLM", {"embedding_size": 16}),
            ("DebertaV2", "AutoModelForMaskedLM", {}),
            ("ModernBert", "AutoModelForMaskedLM", {"cls_token_id": 1, "sep_token_id": 2}),
            ("MPNet", "AutoModelForMaskedLM", {}),
        )
    },
    "DistilBert": Architecture(
        "DistilBertConfig",
        "AutoModelForMaskedLM",
        {"vocab_size": 96, "dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 4},
    ),
    "T5": Architecture(
        "T5Config",
        SEQ2SEQ,
        {
            "vocab_size": 96,
            "d_model": 32,
            "d_ff": 64,
            "d_kv": 8,
            "num_layers": 1,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
        "pairs",
    ),
    "Bart": Architecture(
        "BartConfig",
        SEQ2SEQ,
        {
            "vocab_size": 96,
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 64,
        },
        "pairs",
    ),
    "ViT": Architecture("ViTConfig", "AutoModelForImageClassification", VISION, "pixels"),
    "Dinov2": Architecture(
        "Dinov2Config", BODY, {key: value for key, value in VISION.items() if key != "intermediate_size"}, "pixels"
    ),
    "Swin": Architecture(
        "SwinConfig",
        BODY,
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        "pixels",
    ),
    "SiglipVision": Architecture("SiglipVisionConfig", BODY, VISION, "pixels"),
    "CLIPVision": Architecture("CLIPVisionConfig", BODY, VISION, "pixels"),
    "MobileNetV2": Architecture("MobileNetV2Config", BODY, {"depth_multiplier": 0.25, "image_size": 32}, "pixels"),
    "ConvNext": Architecture(
        "ConvNextConfig",
        BODY,
        {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "image_size": 32},
        "pixels",
    ),
}
