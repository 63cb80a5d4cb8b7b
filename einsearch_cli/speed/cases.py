"""The cases of a benchmark: structures × widths × tokens × modes, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from einsearch_cli.errors import SizeError, SpecError
from einsearch_cli.machine import memory_bytes
from einsearch_cli.sizing import SizedStructure
from einsearch_cli.structures import Structure

if TYPE_CHECKING:  # requests are checked before torch is loaded
    import torch

DECODE_TOKENS: Final = 64
"""The largest number of tokens of a call that counts as decoding."""
MARKET: Final = (
    "dense",
    "low-rank",
    "low-rank:r=d/4",
    "kronecker",
    "tt:r=4",
    "monarch",
    "btt:r=4",
    "block-shuffle:blocks=4",
    "block-dense:blocks=4,r=d/4",
    "(0.5|0.25|0.25|0.25|0.5|0.25|0)",
    "btt:n=3",
)
"""One of each commonly used family, cheap and expensive ones, and two structures that no library has."""
WIDTHS: Final = (256, 512, 1024, 2048, 4096)
TRAINING_TO_FORWARD: Final = 3
"""The cost of a training step in forward passes: one forward, two in the backward pass."""
_LIVE_COPIES: Final = 8
"""The number of copies of the dense layer's activations and matrices that are alive at once in a case."""


class Mode(StrEnum):
    """The use of a layer that is measured."""

    forward = "forward"
    """Inference on more than `DECODE_TOKENS` tokens, with layers that keep nothing between calls."""
    training = "training"
    """Forward and backward pass, with gradients of the input and of all parameters."""
    decode = "decode"
    """Inference on at most `DECODE_TOKENS` tokens, with merged layers, as in generation (`layers.merge`)."""

    @property
    def passes(self) -> int:
        """The cost in forward passes."""
        return TRAINING_TO_FORWARD if self is Mode.training else 1

    @property
    def merges(self) -> bool:
        """Whether the layers are merged."""
        return self is Mode.decode


DEFAULT_TOKENS: Final = {Mode.decode: (1, 4, 16, 64), Mode.forward: (256, 4096), Mode.training: (256, 4096)}
"""Tokens of a call where none are given."""


@dataclass(frozen=True, slots=True)
class Case:
    """One setting in which all layers compete."""

    mode: Mode
    width: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Entrant:
    """A structure with the name it was given."""

    name: str
    structure: Structure

    def at(self, width: int) -> SizedStructure:
        """The structure of a layer width → width."""
        return self.structure.at(width, width)


def cases_of(modes: Sequence[Mode], widths: Sequence[int], tokens: Sequence[int] | None) -> tuple[Case, ...]:
    """Every case, cheap ones first; without `tokens`, each mode has its usual numbers of tokens.

    Raises:
        SpecError: if a width or number of tokens is not positive, or nothing is left to measure.

    >>> [(case.mode.value, case.tokens) for case in cases_of([Mode.decode, Mode.forward], [256], [16, 512])]
    [('decode', 16), ('forward', 512)]
    """
    for option, values in (("--widths", widths), ("--tokens", tokens or (1,))):
        if not values or min(values) < 1:
            raise SpecError(
                f"{option} {','.join(map(str, values))}: every number must be at least 1", remedy=f"{option} 1024"
            )
    cases = {
        Case(mode, width, count)
        for mode in modes
        for width in widths
        for count in (DEFAULT_TOKENS[mode] if tokens is None else tokens)
        if mode is Mode.training or (mode is Mode.decode) == (count <= DECODE_TOKENS)
    }
    if not cases:
        raise SpecError(
            f"no case is left: decode means up to {DECODE_TOKENS} tokens, forward more, "
            f"and --tokens is {','.join(map(str, tokens or ()))} for --modes {','.join(modes)}",
            remedy="--modes decode,forward measures inference at any number of tokens",
        )
    return tuple(sorted(cases, key=lambda case: (case.mode.passes * case.tokens * case.width**2, case.mode)))


def check_sizes(entrants: Sequence[Entrant], cases: Sequence[Case]) -> None:
    """Raise SizeError if a structure has no sizes for a width."""
    for entrant in entrants:
        for width in {case.width for case in cases}:
            entrant.at(width)


def check_memory(cases: Sequence[Case], device: torch.device, dtype: torch.dtype) -> None:
    """Raise SizeError if a case needs more memory than the device has."""
    available = memory_bytes(device)
    for case in cases:
        needed = _LIVE_COPIES * dtype.itemsize * case.width * (case.tokens + case.width)
        if available is not None and needed > available:
            raise SizeError(
                f"{case.mode} at width {case.width} with {case.tokens:,} tokens takes about {needed:,} bytes: "
                f"device {device} has {available:,}",
                remedy="give fewer --tokens or narrower --widths",
            )
