"""The parts of a transformer block: rotary positions, attention, feed-forward network."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from einsearch_cli.models.base import LinearRule, zero_output_
from einsearch_cli.models.transformer.config import TransformerConfig
from einsearch_cli.models.transformer.key_value_cache import KeyValueCache

# Axes in this file: B batch, T position, S position of a key, W width, H heads, K key-value heads, D head size.

_EPSILON = 1e-5
"""Added to the mean square or variance before the square root, in RMSNorm and LayerNorm."""


class Rotation(NamedTuple):
    """Cosine and sine of the angles of some positions, each (T, D): Su et al. 2021 (arXiv 2104.09864), section 3.4.2."""

    cos_TD: Tensor
    sin_TD: Tensor

    def turn(self, x_BHTD: Tensor) -> Tensor:
        """Rotate the pairs (x_i, x_{i + D/2}) of every position."""
        low, high = x_BHTD.chunk(2, dim=-1)
        return x_BHTD * self.cos_TD + torch.cat((-high, low), dim=-1) * self.sin_TD


def rotation(start: int, length: int, head_size: int, base: float, like: Tensor) -> Rotation:
    """The rotation of positions start … start + length - 1, in dtype and on the device of `like`.

    Every pass computes it, which takes less than 1% of the pass. So a model has no state that could be lost when it is
    moved, sharded or loaded.

    >>> turned = rotation(0, 3, 4, 10_000.0, torch.empty(0)).turn(torch.ones(1, 1, 3, 4))
    >>> turned[0, 0, 0].tolist(), turned.square().sum(-1).round().tolist()
    ([1.0, 1.0, 1.0, 1.0], [[[4.0, 4.0, 4.0]]])
    """
    device = like.device
    places = torch.arange(start, start + length, dtype=torch.float64, device=device)
    frequencies = base ** (-torch.arange(0, head_size, 2, dtype=torch.float64, device=device) / head_size)
    angles = torch.outer(places, frequencies).repeat(1, 2)
    return Rotation(angles.cos().to(like.dtype), angles.sin().to(like.dtype))


class Attention(nn.Module):
    """Causal self-attention with rotary positions; several query heads may share a key-value head.

    Grouped queries: Ainslie et al. 2023 (arXiv 2305.13245). Norm of queries and keys: Henry et al.
    2020 (arXiv 2010.04245), as RMSNorm with a gain.
    """

    def __init__(self, config: TransformerConfig, make_linear: LinearRule) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.is_grouped = config.kv_heads != config.heads
        self.query = make_linear(config.width, config.attention_width, config.bias)
        self.key = make_linear(config.width, config.kv_width, config.bias)
        self.value = make_linear(config.width, config.kv_width, config.bias)
        self.output = make_linear(config.attention_width, config.width, config.bias)
        zero_output_(self.output)
        self.query_norm = nn.RMSNorm(config.head_size, eps=_EPSILON) if config.qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(config.head_size, eps=_EPSILON) if config.qk_norm else nn.Identity()

    def forward(self, x_BTW: Tensor, rotation: Rotation, cache: KeyValueCache | None = None, block: int = 0) -> Tensor:
        """Map (B, T, W) to (B, T, W); with a cache, `block` is the place of this block in it."""
        query_BHTD = rotation.turn(self.query_norm(self._heads(self.query(x_BTW))))
        key_BKSD = rotation.turn(self.key_norm(self._heads(self.key(x_BTW))))
        value_BKSD = self._heads(self.value(x_BTW))
        if cache is not None:
            key_BKSD, value_BKSD = cache.extend(block, key_BKSD, value_BKSD)
        mixed_BHTD = self._attend(query_BHTD, key_BKSD, value_BKSD)
        return torch.as_tensor(self.output(mixed_BHTD.transpose(1, 2).flatten(-2)))

    def _attend(self, query_BHTD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor) -> Tensor:
        new, seen = query_BHTD.shape[-2], key_BKSD.shape[-2]
        if new == seen:
            return F.scaled_dot_product_attention(
                query_BHTD, key_BKSD, value_BKSD, is_causal=True, enable_gqa=self.is_grouped
            )
        if new == 1:  # Heads of a group read the same keys, so they are rows of one product.
            query_BKGD = query_BHTD.reshape(*key_BKSD.shape[:2], -1, self.head_size)
            return F.scaled_dot_product_attention(query_BKGD, key_BKSD, value_BKSD).reshape(query_BHTD.shape)
        mask_TS = torch.ones(new, seen, dtype=torch.bool, device=query_BHTD.device).tril(seen - new)
        return F.scaled_dot_product_attention(
            query_BHTD, key_BKSD, value_BKSD, attn_mask=mask_TS, enable_gqa=self.is_grouped
        )

    def _heads(self, x_BTW: Tensor) -> Tensor:
        return x_BTW.reshape(*x_BTW.shape[:-1], -1, self.head_size).transpose(1, 2)


class FeedForward(nn.Module):
    """down(gelu(up(x))), or SwiGLU, down(silu(gate(x)) · up(x)): Shazeer 2020 (arXiv 2002.05202)."""

    def __init__(self, config: TransformerConfig, make_linear: LinearRule) -> None:
        super().__init__()
        self.gate = make_linear(config.width, config.hidden, config.bias) if config.activation == "swiglu" else None
        self.up = make_linear(config.width, config.hidden, config.bias)
        self.down = make_linear(config.hidden, config.width, config.bias)
        zero_output_(self.down)

    def forward(self, x_BTW: Tensor) -> Tensor:
        """Map (B, T, W) to (B, T, W)."""
        hidden_BTH = self.up(x_BTW)
        hidden_BTH = F.gelu(hidden_BTH) if self.gate is None else F.silu(self.gate(x_BTW)) * hidden_BTH
        return torch.as_tensor(self.down(hidden_BTH))


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a norm and added to the stream."""

    def __init__(self, config: TransformerConfig, attention: LinearRule, make_ffn: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, attention)
        self.ffn_norm = make_norm(config)
        self.ffn = make_ffn()

    def forward(self, x_BTW: Tensor, rotation: Rotation, cache: KeyValueCache | None = None, block: int = 0) -> Tensor:
        """Map (B, T, W) to (B, T, W)."""
        x_BTW = x_BTW + self.attention(self.attention_norm(x_BTW), rotation, cache, block)
        return torch.as_tensor(x_BTW + self.ffn(self.ffn_norm(x_BTW)))


def make_norm(config: TransformerConfig) -> nn.Module:
    """LayerNorm with gain and bias, or RMSNorm with a gain (Zhang and Sennrich 2019, arXiv 1910.07467)."""
    return nn.RMSNorm(config.width, eps=_EPSILON) if config.norm == "rms" else nn.LayerNorm(config.width)
