"""`Batch`: the data of one training step."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Batch(NamedTuple):
    """Inputs and their targets; the first axis of both is the batch."""

    inputs: Tensor
    targets: Tensor
