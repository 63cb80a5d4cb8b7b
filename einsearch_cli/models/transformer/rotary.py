"""Rotary position embedding: Su et al. 2021 (arXiv 2104.09864), section 3.4.2."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Axes in this file: B batch, H heads, T position, D head size.


class Rotation(NamedTuple):
    """Cosine and sine of the angles of some positions, each (T, D)."""

    cos_TD: Tensor
    sin_TD: Tensor

    def turn(self, x_BHTD: Tensor) -> Tensor:
        """Rotate the pairs (x_i, x_{i + D/2}) of every position."""
        low, high = x_BHTD.chunk(2, dim=-1)
        return x_BHTD * self.cos_TD + torch.cat((-high, low), dim=-1) * self.sin_TD


def rotation(start: int, length: int, head_size: int, base: float, like: Tensor) -> Rotation:
    """The rotation of positions start … start + length - 1, in dtype and on the device of `like`.

    Computed anew in every pass, which costs less than 1% of it, so that a model has no
    state that could be lost when it is moved, sharded or loaded.

    >>> turned = rotation(0, 3, 4, 10_000.0, torch.empty(0)).turn(torch.ones(1, 1, 3, 4))
    >>> turned[0, 0, 0].tolist(), turned.square().sum(-1).round().tolist()
    ([1.0, 1.0, 1.0, 1.0], [[[4.0, 4.0, 4.0]]])
    """
    device = like.device
    places = torch.arange(start, start + length, dtype=torch.float64, device=device)
    frequencies = base ** (-torch.arange(0, head_size, 2, dtype=torch.float64, device=device) / head_size)
    angles = torch.outer(places, frequencies).repeat(1, 2)
    return Rotation(angles.cos().to(like.dtype), angles.sin().to(like.dtype))
