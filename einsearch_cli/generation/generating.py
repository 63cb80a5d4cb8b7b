"""A whole generation: continuations with their text, during and after decoding."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from einsearch_cli.generation.codec import PromptCodec
from einsearch_cli.generation.decoding import Decoding


@dataclass(slots=True)
class Continuation:
    """One sample."""

    tokens: list[int] = field(default_factory=list)
    """New tokens; a stop token is left out."""
    text: str = ""
    ended_by: str = ""
    """Why the sample ended: `stop`, `length` or `context`."""


@dataclass(frozen=True, slots=True)
class Generation:
    """All samples and their timing."""

    samples: tuple[Continuation, ...]
    first_token_s: float
    """Seconds until the prompt was read and the first token of every sample drawn."""
    decoding_s: float
    """Seconds from there to the end."""
    steps: int
    """Tokens of the longest sample."""

    @property
    def tokens_per_s(self) -> float | None:
        """Steps after the first per second, times samples; None if there was only one step."""
        if self.steps < 2:
            return None
        return (self.steps - 1) * len(self.samples) / self.decoding_s

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "tokens_per_s": self.tokens_per_s}


def generate(
    decoding: Decoding, codec: PromptCodec, on_text: Callable[[int, str], None] = lambda *_: None
) -> Generation:
    """Decode to the end.

    Args:
        decoding: a decoding that has not started.
        codec: how tokens are written.
        on_text: called with the number of a sample and its new text, as soon as that is certain.

    >>> import torch
    >>> from einsearch_cli.generation import IdCodec, Sampling
    >>> from einsearch_cli.models import Transformer, TransformerConfig
    >>> config = TransformerConfig(vocabulary=11, width=32, layers=1, heads=2, context=8)
    >>> decoding = Decoding(Transformer(config).eval(), [1], max_tokens=3, sampling=Sampling(temperature=0))
    >>> generate(decoding, IdCodec()).samples  # a fresh network finds all tokens equally likely
    (Continuation(tokens=[0, 0, 0], text='0 0 0', ended_by='length'),)
    """
    started_s = time.perf_counter()
    samples = [Continuation() for _ in decoding.finished]
    first_s = 0.0
    steps = 0
    for step in decoding:
        steps += 1
        first_s = first_s or time.perf_counter() - started_s
        for number, (sample, token) in enumerate(zip(samples, step, strict=True)):
            if token is None:
                continue
            if token != decoding.stop:
                sample.tokens.append(token)
            text = codec.write(sample.tokens, is_last=decoding.finished[number] is not None)
            new, sample.text = text[len(sample.text) :], text
            if new:
                on_text(number, new)
    for sample, ending in zip(samples, decoding.finished, strict=True):
        sample.ended_by = str(ending)
    return Generation(tuple(samples), first_s, time.perf_counter() - started_s - first_s, steps)
