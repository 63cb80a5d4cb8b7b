"""Small transformers of every kind, with weights that make every part count."""

import torch
from torch import nn

from einsearch_cli.models import Transformer, TransformerConfig

BASE = {"vocabulary": 13, "width": 32, "layers": 2, "heads": 4, "context": 12}

KINDS = {
    "plain": {},
    "rms and swiglu": {"norm": "rms", "activation": "swiglu"},
    "grouped": {"kv_heads": 2},
    "one key-value head, narrow attention": {"kv_heads": 1, "heads": 3, "head_size": 6},
    "wide attention": {"head_size": 10, "bias": True},
    "tied, qk norm, other base": {"tied": True, "qk_norm": True, "rotary_base": 50.0},
    "low-rank everywhere": {"structure": "low-rank:r=4", "structured": "all", "bias": True},
    "block-shuffle": {"structure": "block-shuffle:blocks=2", "activation": "swiglu"},
    "block-dense, first dense": {"structure": "block-dense:blocks=2,r=8", "first_ffn_dense": True},
    "btt in attention, grouped": {"structure": "btt:r=2", "structured": "attn", "kv_heads": 2, "norm": "rms"},
    "monarch": {"structure": "monarch", "structured": "all"},
    "experts": {"structure": "btt-moe:r=1,experts=4,top=2", "structured": "all"},
    "networks of experts": {"structure": "ffn-moe:experts=4,top=2"},
}


def config_of(kind: str, **changes: object) -> TransformerConfig:
    return TransformerConfig.model_validate({**BASE, **KINDS[kind], **changes})


def awake(config: TransformerConfig, seed: int = 0) -> Transformer:
    """A float64 network with random numbers where a fresh one has zeros and ones."""
    torch.manual_seed(seed)
    model = Transformer(config).double().eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 0:
                continue
            nn.init.normal_(value, mean=1.0 if value.ndim == 1 else 0.0, std=0.3)
    return model
