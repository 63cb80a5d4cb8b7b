"""Decoding token by token from a transformer, with a key-value cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from einsearch_cli.errors import PromptError
from einsearch_cli.generation.sampling import Sampling
from einsearch_cli.layers import merged
from einsearch_cli.models import KeyValueCache, Transformer, TransformerConfig

# Axes in this file: B sample, T position, V vocabulary.


class Decoding:
    """Continues one prompt in several ways at once.

    The prompt is read once; the samples then share its keys and values. Sample i uses its own random generator, seeded
    with `seed + i`, so it does not depend on the number of samples.

    The model is merged while tokens are drawn (`einsearch_cli.merged`): structured layers use merged matrices where
    these are faster for the number of rows, and their factors elsewhere, such as for a long prompt.

    Args:
        model: the transformer in evaluation mode, on the device where it runs.
        prompt: tokens to continue.
        max_tokens: most new tokens per sample; fewer where the context ends.
        sampling: how tokens are drawn.
        samples: number of continuations.
        seed: seed of the first sample.
        stop: a token that ends its sample.

    Raises:
        PromptError: as in `check_prompt`.

    >>> from einsearch_cli.models import TransformerConfig
    >>> config = TransformerConfig(vocabulary=11, width=32, layers=2, heads=2, context=8)
    >>> decoding = Decoding(Transformer(config).eval(), [1, 2, 3], max_tokens=4, samples=2)
    >>> steps = list(decoding)
    >>> len(steps), len(steps[0]), decoding.finished
    (4, 2, ['length', 'length'])
    """

    def __init__(
        self,
        model: Transformer,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling | None = None,
        samples: int = 1,
        seed: int = 0,
        stop: int | None = None,
    ) -> None:
        check_prompt(model.config, prompt)
        self._model, self._prompt = model, list(prompt)
        self._sampling = sampling or Sampling()
        self._generators = [torch.Generator().manual_seed(seed + number) for number in range(samples)]
        self.stop = stop
        # The last token is never read, so one token more than the context holds can be written.
        room = model.config.context - len(self._prompt) + 1
        self._steps = min(max_tokens, room)
        self._ending = "length" if max_tokens <= room else "context"
        self.finished: list[str | None] = [None] * samples
        """Why each sample ended: `stop`, `length` (max_tokens) or `context`; None while it continues."""

    def __iter__(self) -> Iterator[list[int | None]]:
        """The next token of every sample; None for those that have ended."""
        with merged(self._model):
            logits_BV, cache = self._read_prompt()
            for step in range(1, self._steps + 1):
                tokens_B = self._draw(logits_BV)
                yield self._record(tokens_B.tolist(), is_last=step == self._steps)
                if None not in self.finished:
                    return
                logits_BV = self._read(tokens_B, cache)

    @torch.inference_mode()
    def _read_prompt(self) -> tuple[Tensor, KeyValueCache]:
        weight = self._model.embedding.weight
        cache = KeyValueCache(
            self._model.config,
            batch=1,
            capacity=len(self._prompt) + self._steps - 1,
            dtype=weight.dtype,
            device=weight.device,
        )
        prompt_BT = torch.tensor([self._prompt], device=weight.device)
        logits_BV = self._model(prompt_BT, cache)[:, -1]
        samples = len(self._generators)
        return logits_BV.expand(samples, -1), cache.repeated(samples) if samples > 1 else cache

    @torch.inference_mode()
    def _read(self, tokens_B: Tensor, cache: KeyValueCache) -> Tensor:
        logits_BTV: Tensor = self._model(tokens_B[:, None], cache)
        return logits_BTV[:, -1]

    @torch.inference_mode()
    def _draw(self, logits_BV: Tensor) -> Tensor:
        uniforms_B = torch.cat([torch.rand(1, generator=generator) for generator in self._generators])
        return self._sampling.choose(logits_BV, uniforms_B.to(logits_BV.device))

    def _record(self, tokens: list[int], is_last: bool) -> list[int | None]:
        """Record the new token of every sample, and which of them end with it."""
        found: list[int | None] = []
        for number, token in enumerate(tokens):
            ended = self.finished[number] is not None
            found.append(None if ended else token)
            if not ended and token == self.stop:
                self.finished[number] = "stop"
            elif not ended and is_last:
                self.finished[number] = self._ending
        return found


def check_prompt(config: TransformerConfig, prompt: Sequence[int]) -> None:
    """Raise PromptError unless the transformer can continue these tokens.

    Raises:
        PromptError: no token, more tokens than the context, or one that is not in the vocabulary.

    >>> check_prompt(TransformerConfig(vocabulary=11, width=32, layers=1, heads=1, context=8), [1, 11])
    Traceback (most recent call last):
    ...
    einsearch_cli.errors.PromptError: token 11 at position 1 of the prompt: the model has a vocabulary of 11, \
tokens 0 to 10
    try: use the tokenizer that the model was trained with
    """
    if not prompt:
        raise PromptError(
            "the prompt is empty: the first token has to be given", remedy="give at least one character or token"
        )
    if len(prompt) > config.context:
        raise PromptError(
            f"a prompt of {len(prompt)} tokens for a context of {config.context}: attention looks at no more",
            remedy=f"give the last {config.context} tokens or fewer",
        )
    for position, token in enumerate(prompt):
        if not 0 <= token < config.vocabulary:
            raise PromptError(
                f"token {token} at position {position} of the prompt: the model has a vocabulary of "
                f"{config.vocabulary}, tokens 0 to {config.vocabulary - 1}",
                remedy="use the tokenizer that the model was trained with",
            )
