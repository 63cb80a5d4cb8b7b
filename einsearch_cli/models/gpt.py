"""Small pre-norm decoder-only transformer: the network of the text task."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from einsearch_cli.errors import SizeError
from einsearch_cli.models.base import (
    FeedForwardRule,
    FlopCount,
    LinearRule,
    ProxyModel,
    linear_flops,
    zero_head,
    zero_output_,
)

# Axes in this file: B batch, T position, W width, H heads, D head size, V vocabulary.

HEAD_SIZE: Final = 64
"""Numbers per attention head; a narrower network has one head as wide as itself."""

ROTARY_BASE: Final = 10_000.0


class GPT(ProxyModel):
    """Token embedding, `layers` blocks of causal attention and GELU MLP, norm, dense head.

    Query, key, value and output are separate linear layers, so every structured matrix is W x W, W x 4W or
    4W x W. Positions enter by rotary embedding. Linear layers have no bias. The output layer of each
    residual branch and the head start at zero, so the network starts by predicting all tokens alike.

    Args:
        vocabulary: distinct tokens.
        width: size of the residual stream; a multiple of 64, or an even number below 64.
        layers: number of blocks.
        context: tokens the attention looks at; longer inputs are refused by `forward`.
        make_linear: rule for every linear layer but the head.
        make_feed_forward: rule for the whole MLP of a block, if that is not made of linear layers.

    Raises:
        SizeError: a width that does not divide into heads, or a size below 1.

    >>> model = GPT(vocabulary=11, width=32, layers=2, context=16, make_linear=nn.Linear)
    >>> tuple(model(torch.zeros(3, 16, dtype=torch.long)).shape)
    (3, 16, 11)
    >>> model.flops_per_token()
    FlopCount(linears=49152, attention=4096, head=704)
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        layers: int,
        context: int,
        make_linear: LinearRule,
        make_feed_forward: FeedForwardRule | None = None,
    ) -> None:
        super().__init__()
        if min(vocabulary, width, layers, context) < 1:
            raise SizeError(
                f"a GPT with vocabulary {vocabulary}, width {width}, {layers} layers and context {context}: "
                "every size has to be at least 1",
                remedy="give positive sizes",
            )
        head_size = min(HEAD_SIZE, width)
        if width % head_size or head_size % 2:
            raise SizeError(
                f"a GPT of width {width}: the width has to be an even number up to {HEAD_SIZE} "
                f"or a multiple of {HEAD_SIZE}",
                remedy=f"use {_nearest_width(width)}",
            )
        self.width = width
        self.context = context
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=1.0)
        self.blocks = nn.ModuleList(_Block(width, head_size, make_linear, make_feed_forward) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = zero_head(width, vocabulary, bias=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits, (B, T, V), for tokens, (B, T)."""
        if tokens_BT.shape[-1] > self.context:
            raise ValueError(f"{tokens_BT.shape[-1]} tokens for a context of {self.context}")
        x_BTW = self.embedding(tokens_BT)
        for block in self.blocks:
            x_BTW = block(x_BTW)
        return torch.as_tensor(self.head(self.norm(x_BTW)))

    def flops_per_token(self) -> FlopCount:
        """Forward FLOPs per token at the full context; scores and values cost 2 x 2 x context x width a block."""
        linears = sum(linear_flops(layer) for block in self.blocks for layer in block.children() if _is_linear(layer))
        return FlopCount(
            linears=linears,
            attention=len(self.blocks) * 4 * self.context * self.width,
            head=linear_flops(self.head),
        )

    def fan_in_scales(self, layer: str) -> bool:
        """True for every linear layer: only the embedding has a fixed fan-in."""
        return layer != "embedding"


class _Block(nn.Module):
    """Causal self-attention and a 4x GELU MLP, each behind a norm and added to the stream."""

    def __init__(
        self, width: int, head_size: int, make_linear: LinearRule, make_feed_forward: FeedForwardRule | None
    ) -> None:
        super().__init__()
        self.head_size = head_size
        self.attention_norm = nn.LayerNorm(width)
        self.query = make_linear(width, width, False)
        self.key = make_linear(width, width, False)
        self.value = make_linear(width, width, False)
        self.output = make_linear(width, width, False)
        self.mlp_norm = nn.LayerNorm(width)
        zero_output_(self.output)
        self.experts: nn.Module | None = None
        if make_feed_forward is not None:
            self.experts = make_feed_forward(width, 4 * width)
            zero_output_(self.experts)
            return
        self.up = make_linear(width, 4 * width, False)
        self.down = make_linear(4 * width, width, False)
        zero_output_(self.down)

    def forward(self, x_BTW: Tensor) -> Tensor:
        x_BTW = x_BTW + self._attend(self.attention_norm(x_BTW))
        return x_BTW + self._mlp(self.mlp_norm(x_BTW))

    def _mlp(self, x_BTW: Tensor) -> Tensor:
        if self.experts is not None:
            return torch.as_tensor(self.experts(x_BTW))
        return torch.as_tensor(self.down(F.gelu(self.up(x_BTW))))

    def _attend(self, x_BTW: Tensor) -> Tensor:
        cos_TD, sin_TD = _rotary_table(x_BTW.shape[-2], self.head_size, x_BTW.device, x_BTW.dtype)
        query_BHTD = _rotate(self._heads(self.query(x_BTW)), cos_TD, sin_TD)
        key_BHTD = _rotate(self._heads(self.key(x_BTW)), cos_TD, sin_TD)
        mixed_BHTD = F.scaled_dot_product_attention(
            query_BHTD, key_BHTD, self._heads(self.value(x_BTW)), is_causal=True
        )
        return torch.as_tensor(self.output(mixed_BHTD.transpose(1, 2).flatten(-2)))

    def _heads(self, x_BTW: Tensor) -> Tensor:
        return x_BTW.reshape(*x_BTW.shape[:-1], -1, self.head_size).transpose(1, 2)


def _nearest_width(width: int) -> int:
    return width + 1 if width <= HEAD_SIZE else round(width / HEAD_SIZE) * HEAD_SIZE


def _is_linear(layer: nn.Module) -> bool:
    return not isinstance(layer, nn.LayerNorm)


@lru_cache(maxsize=16)
def _rotary_table(length: int, head_size: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles, each (T, D): Su et al. 2021, section 3.4.2."""
    with torch.inference_mode(mode=False):  # the table outlives the call, and may next be used in training
        places = torch.arange(length, dtype=torch.float64)
        frequencies = ROTARY_BASE ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
        angles = torch.outer(places, frequencies).repeat(1, 2).to(device)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(x_BHTD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    low, high = x_BHTD.chunk(2, dim=-1)
    return x_BHTD * cos_TD + torch.cat((-high, low), dim=-1) * sin_TD
