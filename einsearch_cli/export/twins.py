"""Architectures of Hugging Face that compute the same as a transformer of `einsearch train`; chosen without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from einsearch_cli.errors import LayerError
from einsearch_cli.models.transformer.config import TransformerConfig
from einsearch_cli.structures import MixtureOfExperts

EPSILON: Final = 1e-5
"""The number added to the variance in all norms."""


@dataclass(frozen=True, kw_only=True)
class Twin:
    """An architecture: how its config is filled in, and how its modules are named."""

    model_type: str
    """Name by which transformers knows the architecture."""
    label: str
    """Name of the architecture in messages."""
    epsilon: str
    """Key of the norms' epsilon in the config."""
    body: str = "model"
    """The module that holds everything but the head."""
    embedding: str = "embed_tokens"
    norm: str = "norm"
    modules: Mapping[str, str]
    """Names of a block's modules: ours, and those of the architecture."""
    packed: str | None = None
    """The architecture's packed matrix, if any, with the rows of query, key and value, head by head."""
    ffn_biased: bool = False
    """Whether its feed-forward networks always have biases, which are zero if the run has none."""
    keys: Mapping[str, Any] = field(default_factory=dict)
    """Other entries of its config."""
    bias_keys: tuple[str, ...] = ()
    """The keys that switch the biases of linear layers."""


_ATTENTION: Final = {
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
}
_LLAMA_MODULES: Final = {
    **_ATTENTION,
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "ffn.gate": "mlp.gate_proj",
    "ffn.up": "mlp.up_proj",
    "ffn.down": "mlp.down_proj",
}
_BOTH: Final = ("attention_bias", "mlp_bias")

LLAMA: Final = Twin(
    model_type="llama", label="Llama", epsilon="rms_norm_eps", modules=_LLAMA_MODULES, bias_keys=_BOTH
)  # fmt: skip
QWEN3: Final = Twin(model_type="qwen3", label="Qwen3", epsilon="rms_norm_eps", modules=_LLAMA_MODULES)
ARCEE: Final = Twin(
    model_type="arcee", label="Arcee", epsilon="rms_norm_eps", modules=_LLAMA_MODULES, bias_keys=_BOTH
)  # fmt: skip
STABLELM: Final = Twin(model_type="stablelm", label="StableLM", epsilon="layer_norm_eps", modules=_LLAMA_MODULES)
STARCODER2: Final = Twin(
    model_type="starcoder2",
    label="StarCoder2",
    epsilon="norm_epsilon",
    modules={**_ATTENTION, "ffn.up": "mlp.c_fc", "ffn.down": "mlp.c_proj"},
    bias_keys=("use_bias",),
)
GPT_NEOX: Final = Twin(
    model_type="gpt_neox",
    label="GPT-NeoX",
    epsilon="layer_norm_eps",
    body="gpt_neox",
    embedding="embed_in",
    norm="final_layer_norm",
    modules={
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attention.output": "attention.dense",
        "ffn.up": "mlp.dense_h_to_4h",
        "ffn.down": "mlp.dense_4h_to_h",
    },
    packed="attention.query_key_value",
    ffn_biased=True,
    keys={"use_parallel_residual": False},
    bias_keys=("attention_bias",),
)


def twin_of(config: TransformerConfig, *, structured: bool = False) -> Twin:
    """The architecture that computes the same function of the tokens, up to rounding.

    Args:
        config: the transformer's config.
        structured: whether structured layers stay structured; attention then needs separate matrices.

    Raises:
        LayerError: if there is none; the message names the setting that prevents it.

    >>> from einsearch_cli.models.transformer.presets import preset
    >>> twin_of(preset("s")).label, twin_of(preset("wide-m")).label
    ('GPT-NeoX', 'StarCoder2')
    >>> twin_of(preset("s", norm="rms", activation="swiglu", qk_norm=True, bias=False)).label
    'Qwen3'
    """
    _refuse_experts(config, structured)
    has_rms, is_gated = config.norm == "rms", config.activation == "swiglu"
    if has_rms and is_gated:
        if not config.qk_norm:
            return _whole_heads(LLAMA, config)
        return QWEN3 if not config.bias else _none(config, "Qwen3 has norms of queries and keys, and no biases", "bias")
    if config.qk_norm:
        there = "norms of queries and keys exist only with RMSNorm and SwiGLU, as in Qwen3"
        return _none(config, there, "qk_norm")
    if has_rms:
        return _whole_heads(ARCEE, config)
    if is_gated:
        if config.bias:
            return _none(config, "StableLM, which has LayerNorm and SwiGLU, has no biases", "bias")
        if config.attention_width != config.width:
            there = "StableLM, which has LayerNorm and SwiGLU, has attention as wide as the stream"
            return _none(config, there, "head_size")
        return STABLELM
    own_matrices = structured and config.structured != "ffn" and config.structure != "dense"
    is_plain = config.kv_heads == config.heads and config.attention_width == config.width and not own_matrices
    return GPT_NEOX if is_plain else STARCODER2


def twin_config(config: TransformerConfig, twin: Twin) -> dict[str, Any]:
    """The values of the architecture's config, without special tokens."""
    rope = {"rope_type": "default", "rope_theta": config.rotary_base, "partial_rotary_factor": 1.0}
    return {
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu" if config.activation == "swiglu" else "gelu",
        "max_position_embeddings": config.context,
        "tie_word_embeddings": config.tied,
        "rope_parameters": rope,
        twin.epsilon: EPSILON,
        **twin.keys,
        **dict.fromkeys(twin.bias_keys, config.bias),
    }


def _refuse_experts(config: TransformerConfig, structured: bool) -> None:
    if not isinstance(config.layer_spec, MixtureOfExperts):
        return
    if config.has_expert_networks:
        raise LayerError(
            f"structure {config.structure}: no architecture of Hugging Face has experts of two matrices and GELU, "
            "with gates that are renormalised over the chosen ones",
            remedy="use --to safetensors",
        )
    if not structured:
        raise LayerError(
            f"structure {config.structure}: which experts run depends on the token, so a layer is not a single matrix",
            remedy="keep the structures with --structured, or use --to safetensors",
        )


def _whole_heads(twin: Twin, config: TransformerConfig) -> Twin:
    if config.width % config.heads:
        return _none(config, f"{twin.label} needs heads that divide the width", "heads")
    return twin


def _none(config: TransformerConfig, there: str, key: str) -> Twin:
    settings = ("norm", "activation", "bias", "qk_norm", "kv_heads", "heads", "head_size")
    shown = ", ".join(f"{name}={str(getattr(config, name)).lower()}" for name in settings)
    raise LayerError(
        f"no architecture of Hugging Face computes what this run does ({shown}): {there}",
        remedy="use --to dense, --to torch-export or --to onnx",
        keys=(key,),
    )
