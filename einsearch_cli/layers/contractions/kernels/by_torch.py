"""The same as `by_triton`, in operations of torch, none of which is waited for."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from einsearch_cli.layers.contractions.rms_scale import norm_dtype
from einsearch_cli.layers.torch_private import norms as norms_of


def add_bias_(y: Tensor, bias: Tensor) -> None:
    """y (tokens, features) += bias."""
    y.add_(bias)


def scaled_last(gain: Tensor, factors: tuple[Tensor, ...], norms_at_cap: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The last factor times gain / Π max(1, norm / norm at cap), and what `add_scale_` needs of it."""
    dtype = norm_dtype(gain.dtype)
    norms = norms_of(factors, dtype)
    at_cap = _kept_tensor(norms_at_cap, dtype, norms.device)
    caps = (at_cap / torch.maximum(norms, at_cap)).prod()
    scale_and_norms = torch.cat((norms, caps.view(1), gain.to(dtype) * caps))
    # Into memory of the factor's dtype: the scale is not rounded to that before.
    return torch.mul(factors[-1], scale_and_norms[-1:], out=torch.empty_like(factors[-1])), scale_and_norms


def add_scale_(
    grads: tuple[Tensor, ...],
    gain: Tensor,
    factors: tuple[Tensor, ...],
    norms_at_cap: tuple[float, ...],
    scale_and_norms: Tensor,
) -> Tensor:
    """Of gradients of a product, with the scaled factor last, make those of the unscaled factors; gives the gain's."""
    norms, caps, scale = scale_and_norms[:-2], scale_and_norms[-2], scale_and_norms[-1:]
    at_cap = _kept_tensor(norms_at_cap, scale_and_norms.dtype, scale_and_norms.device)
    per_scale = (grads[-1] * factors[-1]).sum(dtype=scale_and_norms.dtype)
    # Not a comparison with >: a norm that is NaN must spread.
    slopes = (per_scale * scale / -norms.square()).masked_fill(norms <= at_cap, 0.0).unbind()
    torch.mul(grads[-1], scale, out=grads[-1])
    for grad, factor, slope in zip(grads, factors, slopes, strict=True):
        grad.addcmul_(factor, slope.to(factor.dtype))
    return (per_scale * caps).to(gain.dtype).view(gain.shape)


@lru_cache(maxsize=1024)
def _kept_tensor(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers of Python take long to a GPU."""
    return torch.tensor(numbers, dtype=dtype, device=device)
