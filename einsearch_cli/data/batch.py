"""What a network is trained on in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Batch(NamedTuple):
    """Inputs and what should come out; the first axis of both is the batch."""

    inputs: Tensor
    targets: Tensor
