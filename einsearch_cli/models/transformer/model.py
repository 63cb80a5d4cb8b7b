"""`Transformer`: the decoder-only network of the text task, of training runs and of generation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from einsearch_cli.errors import LayerError
from einsearch_cli.models.base import (
    LinearRule,
    StructuredNetwork,
    dense_linear,
    linear_flops,
    structured_linear,
    zero_head,
)
from einsearch_cli.models.counts import FlopCount
from einsearch_cli.models.transformer.blocks import Attention, Block, FeedForward, make_norm, rotation
from einsearch_cli.models.transformer.config import TransformerConfig
from einsearch_cli.models.transformer.key_value_cache import KeyValueCache
from einsearch_cli.moe import FeedForwardMoE
from einsearch_cli.structures import MixtureOfExperts, parse_structure

# Axes in this file: B batch, T position, W width, V vocabulary.


class Transformer(StructuredNetwork):
    """Token embedding, blocks of causal attention and feed-forward network, norm, dense head.

    Query, key, value and output are separate linear layers. Layers without a structure are `nn.Linear` with the start
    of a dense structure: standard deviation sqrt(min(fan_in, fan_out)) / fan_in (spectral muP, Qiu et al. 2024, arXiv
    2406.06248). The output layer of each residual branch and the head start at zero, so at first the network predicts
    all tokens alike. A tied head is the embedding, which has unit deviation, and its logits are divided by sqrt(width)
    (Chowdhery et al. 2022, arXiv 2204.02311, section 2).

    Built under `torch.device("meta")` it allocates nothing.

    Args:
        config: shape and structure.
        make_linear: rule for the structured layers; by default that of `config.structure`.

    >>> config = TransformerConfig(vocabulary=11, width=32, layers=2, heads=2, context=16, structure="monarch")
    >>> model = Transformer(config)
    >>> tuple(model(torch.zeros(3, 16, dtype=torch.long)).shape)
    (3, 16, 11)
    >>> sorted(model.structured_layers())
    ['blocks.0.ffn.down', 'blocks.0.ffn.up', 'blocks.1.ffn.down', 'blocks.1.ffn.up']
    """

    def __init__(self, config: TransformerConfig, make_linear: LinearRule | None = None) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.recomputes_blocks = False
        """Whether activations inside blocks are recomputed in the backward pass instead of kept."""
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        nn.init.normal_(self.embedding.weight, std=1.0)
        self.blocks = nn.ModuleList(_make_block(config, number, make_linear) for number in range(config.layers))
        self.norm = make_norm(config)
        self.head = None if config.tied else zero_head(config.width, config.vocabulary, bias=False)

    def forward(self, tokens_BT: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Logits, (B, T, V), for tokens, (B, T); with a cache, the tokens follow those that it holds.

        Raises:
            LayerError: more tokens than the context or the cache holds.
        """
        start = 0 if cache is None else cache.tokens
        batch, new = tokens_BT.shape
        if start + new > self.config.context:
            raise LayerError(
                f"{start + new} tokens for a context of {self.config.context}: attention looks at no more",
                remedy="give fewer tokens, or a model of a longer context",
            )
        if cache is not None:
            cache.check_room(batch, new)
        x_BTW = self.embedding(tokens_BT)
        turn = rotation(start, new, self.config.head_size, self.config.rotary_base, like=x_BTW)
        for number, block in enumerate(self.blocks):
            if self.recomputes_blocks and torch.is_grad_enabled():
                x_BTW = checkpoint(block, x_BTW, turn, use_reentrant=False)
            else:
                x_BTW = block(x_BTW, turn, cache, number)
        if cache is not None:
            cache.advance(new)
        return self._logits(self.norm(x_BTW))

    def _logits(self, x_BTW: Tensor) -> Tensor:
        if self.head is None:
            return F.linear(x_BTW * self.width**-0.5, self.embedding.weight)
        return torch.as_tensor(self.head(x_BTW))

    def flops_per_token(self) -> FlopCount:
        """Forward FLOPs per token at the full context; scores and values cost 2 × 2 × context × heads a block."""
        linears = sum(linear_flops(layer) for block in self.blocks for _, layer in linear_layers(block))
        return FlopCount(
            linears=linears,
            attention=self.config.layers * 4 * self.config.context * self.config.attention_width,
            head=2 * self.config.width * self.config.vocabulary,
        )

    def fan_in_scales(self, layer: str) -> bool:
        """True for every linear layer: only the embedding has a fixed fan-in."""
        return layer != "embedding"


def meta_transformer(config: TransformerConfig) -> Transformer:
    """The network on the meta device: shapes without memory.

    >>> from einsearch_cli.models.transformer.presets import preset
    >>> meta_transformer(preset("xl")).parameter_count()
    1274138624
    """
    with torch.device("meta"):
        return Transformer(config)


def _make_block(config: TransformerConfig, number: int, make_linear: LinearRule | None) -> Block:
    """The block of this number, with its layers made by the rules of the config."""
    structured = make_linear or _rule_of(config)
    attention = structured if config.structured in ("attn", "all") else dense_linear
    is_ffn_dense = config.structured == "attn" or (config.first_ffn_dense and number == 0)
    ffn: LinearRule = dense_linear if is_ffn_dense else structured

    def make_ffn() -> nn.Module:
        layer = config.layer_spec
        if is_ffn_dense or not (isinstance(layer, MixtureOfExperts) and layer.feed_forward):
            return FeedForward(config, ffn)
        experts = FeedForwardMoE(config.width, config.hidden, layer)
        experts.zero_last_factor_()
        return experts

    return Block(config, attention, make_ffn)


def _rule_of(config: TransformerConfig) -> LinearRule:
    layer = config.layer_spec
    return dense_linear if layer == parse_structure("dense") else structured_linear(layer)


def linear_layers(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear layers and networks of experts of a block, by name, without the layers inside them."""
    for part, module in block.named_children():
        if isinstance(module, FeedForwardMoE):
            yield part, module
        elif isinstance(module, (Attention, FeedForward)):
            for name, layer in module.named_children():
                if not isinstance(layer, (nn.RMSNorm, nn.Identity)):
                    yield f"{part}.{name}", layer
