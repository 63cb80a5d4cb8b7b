"""`nn.MultiheadAttention` split into its projections, so that each can be replaced."""

# Axes in this file: N batch, L queries, S keys and values, H heads, D features of a head, E features of all heads.

from __future__ import annotations

import math
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from einsearch_cli.errors import LayerError
from einsearch_cli.layers.execution.reference import needs_reference_gradients, reference_gradients
from einsearch_cli.layers.tracing import is_plain, is_transformed

PARTS: Final = ("q_proj", "k_proj", "v_proj", "out_proj")


class SplitMultiheadAttention(nn.Module):
    """An `nn.MultiheadAttention` with four separate linear layers instead of packed weights.

    `forward` takes the same arguments and gives the same results; nested tensors are refused. It starts with copies of
    the dense weights, of which `swap_linear` then replaces the requested ones.

    Args:
        attention: the attention to split, without `add_bias_kv` and `add_zero_attn`.

    >>> dense = nn.MultiheadAttention(16, 2, batch_first=True)
    >>> split, x = SplitMultiheadAttention(dense), torch.randn(3, 5, 16)
    >>> torch.allclose(split(x, x, x)[0], dense(x, x, x)[0], atol=1e-5)
    True
    """

    # nn.TransformerEncoderLayer and nn.TransformerEncoder read these before they bypass forward(); the values make them
    # call it.
    _qkv_same_embed_dim: ClassVar[bool] = False
    in_proj_weight: ClassVar[None] = None
    in_proj_bias: ClassVar[None] = None

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim = attention.embed_dim
        self.kdim = attention.kdim
        self.vdim = attention.vdim
        self.num_heads = attention.num_heads
        self.dropout = attention.dropout
        self.batch_first = attention.batch_first
        self.q_proj, self.k_proj, self.v_proj = (_dense_part(attention, part) for part in range(3))
        self.out_proj: nn.Module = _plain_linear(attention.out_proj)
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute with the arguments and results of `nn.MultiheadAttention.forward`.

        Raises:
            LayerError: for nested tensors, a mask of another shape or dtype than
                `nn.MultiheadAttention` takes, and `is_causal` without `attn_mask`.
        """
        if query.is_nested or key.is_nested or value.is_nested:
            raise LayerError(
                "nested tensors: an attention with structured projections takes padded tensors only",
                remedy="pass padded tensors and key_padding_mask; in nn.TransformerEncoder, enable_nested_tensor=False",
            )
        if is_causal and attn_mask is None:
            raise LayerError(
                "is_causal=True without attn_mask: it only says that attn_mask is the causal mask",
                remedy="pass attn_mask too, nn.Transformer.generate_square_subsequent_mask(length)",
            )
        batched = query.dim() == 3
        query, key, value = (self._batch_first(x) for x in (query, key, value))
        if key_padding_mask is not None and not batched:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        q_NHLD = self._heads(self.q_proj(query))
        k_NHSD = self._heads(self.k_proj(key))
        v_NHSD = self._heads(self.v_proj(value))
        only_causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if only_causal else _merged_mask(attn_mask, key_padding_mask, q_NHLD, k_NHSD)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            weights = _attention_weights(q_NHLD, k_NHSD, mask, dropout)
            y_NHLD = weights @ v_NHSD
            weights = weights.mean(dim=1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        else:
            y_NHLD = _attention(q_NHLD, k_NHSD, v_NHSD, mask, dropout, only_causal)
        y: Tensor = self.out_proj(y_NHLD.transpose(1, 2).flatten(2))
        return (y.squeeze(0) if not batched else y if self.batch_first else y.transpose(0, 1)), weights

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"

    def _batch_first(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _heads(self, x_NLE: Tensor) -> Tensor:
        batch, length, width = x_NLE.shape
        return x_NLE.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)


def _attention_weights(q_NHLD: Tensor, k_NHSD: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    scores_NHLS = (q_NHLD * math.sqrt(1 / q_NHLD.shape[-1])) @ k_NHSD.transpose(2, 3)
    if mask is not None:
        scores_NHLS = scores_NHLS + mask
    return functional.dropout(scores_NHLS.softmax(dim=-1), dropout)


def _attention(
    q_NHLD: Tensor, k_NHSD: Tensor, v_NHSD: Tensor, mask: Tensor | None, dropout: float, is_causal: bool
) -> Tensor:
    """Attention by one of torch's kernels, if its derivatives allow that."""
    if is_transformed():
        return _plain_attention(q_NHLD, k_NHSD, v_NHSD, mask, dropout, is_causal)
    y_NHLD = functional.scaled_dot_product_attention(q_NHLD, k_NHSD, v_NHSD, mask, dropout, is_causal=is_causal)
    if not y_NHLD.requires_grad or dropout or not is_plain(q_NHLD):
        return y_NHLD
    result: Tensor = _DifferentiableAgain.apply(y_NHLD, q_NHLD, k_NHSD, v_NHSD, mask, is_causal)  # type: ignore[no-untyped-call]
    return result


def _plain_attention(
    q_NHLD: Tensor, k_NHSD: Tensor, v_NHSD: Tensor, mask: Tensor | None, dropout: float, is_causal: bool
) -> Tensor:
    """Attention in operations that torch itself can differentiate any number of times."""
    if is_causal:
        later = torch.ones(q_NHLD.shape[2], k_NHSD.shape[2], dtype=torch.bool, device=q_NHLD.device).triu(1)
        mask = _additive(later, q_NHLD.dtype)
    return _attention_weights(q_NHLD, k_NHSD, mask, dropout) @ v_NHSD


class _DifferentiableAgain(torch.autograd.Function):
    """Passes on the result of torch's kernels, whose gradients cannot be differentiated again, nor come in batches.

    In these cases, the gradient bypasses the kernel and goes straight to its inputs, by plain operations.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        ctx.is_causal = is_causal
        ctx.save_for_backward(q, k, v, mask)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), is_causal = grads, ctx.is_causal
        if not needs_reference_gradients(grad):
            return grad, None, None, None, None, None
        wanted = ctx.needs_input_grad[1:5]
        found = reference_gradients(
            lambda q, k, v, mask: _plain_attention(q, k, v, mask, 0.0, is_causal), ctx.saved_tensors, grad, wanted
        )
        return None, *found, None


def _merged_mask(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, q_NHLD: Tensor, k_NHSD: Tensor
) -> Tensor | None:
    """Both masks as one that is added to the scores; None if there is neither."""
    batch, heads, length, _ = q_NHLD.shape
    keys = k_NHSD.shape[2]
    merged = None
    if attn_mask is not None:
        _check_mask("attn_mask", attn_mask, [(length, keys), (batch * heads, length, keys)])
        merged = _additive(attn_mask, q_NHLD.dtype)
        merged = merged.view(batch, heads, length, keys) if merged.dim() == 3 else merged
    if key_padding_mask is not None:
        _check_mask("key_padding_mask", key_padding_mask, [(batch, keys)])
        padding = _additive(key_padding_mask, q_NHLD.dtype).view(batch, 1, 1, keys)
        merged = padding if merged is None else merged + padding
    return merged


def _check_mask(name: str, mask: Tensor, shapes: list[tuple[int, ...]]) -> None:
    if not any(mask.shape == shape for shape in shapes) or not (mask.dtype is torch.bool or mask.is_floating_point()):
        raise LayerError(
            f"{name} of shape {tuple(mask.shape)} and dtype {mask.dtype}: it must be boolean or floating, of shape "
            + " or ".join(map(str, shapes)),
            remedy="True, or -inf, hides a position",
        )


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -math.inf)


def _dense_part(attention: nn.MultiheadAttention, part: int) -> nn.Module:
    """The query (0), key (1) or value (2) projection as a linear layer with copies of its weights."""
    packed = attention.in_proj_weight
    weight = packed if packed is not None else getattr(attention, f"{PARTS[part]}_weight")
    rows = weight.chunk(3)[part] if packed is not None else weight
    bias = attention.in_proj_bias
    linear = nn.Linear(rows.shape[1], rows.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(rows.detach().clone(), requires_grad=weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().chunk(3)[part].clone(), requires_grad=bias.requires_grad)
    return linear


def _plain_linear(old: nn.Linear) -> nn.Linear:
    """A plain linear layer that shares the parameters of a subclass."""
    linear = nn.Linear(old.in_features, old.out_features, bias=old.bias is not None, device="meta")
    linear.weight, linear.bias = old.weight, old.bias
    return linear
