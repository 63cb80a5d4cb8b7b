"""Plans as they are on another processor."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from einsearch_cli.layers.plans import chunking

INSTRUCTIONS = tuple(chunking._LENGTHS)
"""Instruction sets of the processors that chunks are cut for."""


@contextmanager
def multiplying_by(instructions: str) -> Iterator[None]:
    """Chunks as on a processor whose products run on these instructions."""
    with patch.object(chunking, "_lengths", chunking._LENGTHS[instructions]):
        _forget()
        yield
    _forget()


def _forget() -> None:
    for cached in (chunking.chunks, chunking.kept_steps):
        cached.cache_clear()
