"""Reading a text in pieces gives the same as reading it at once."""

import pytest
import torch

from einsearch_cli.errors import LayerError
from einsearch_cli.models import KeyValueCache, Transformer
from tests.models.transformers import KINDS, awake, config_of

TOKENS = torch.tensor(
    [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8], [0, 12, 0, 12, 0, 0, 0, 1, 2, 3]]
)


def in_pieces(model: Transformer, lengths: list[int], capacity: int | None = None) -> torch.Tensor:
    cache = KeyValueCache(model.config, batch=len(TOKENS), capacity=capacity, dtype=torch.float64)
    pieces = TOKENS.split(lengths, dim=1)
    logits = torch.cat([model(piece, cache) for piece in pieces], dim=1)
    assert cache.tokens == TOKENS.shape[1]
    return logits


@pytest.mark.parametrize("lengths", [[1] * 10, [6, 1, 1, 1, 1], [3, 4, 1, 2], [10]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_pieces_equal_the_whole(kind: str, lengths: list[int]) -> None:
    model = awake(config_of(kind))
    torch.testing.assert_close(in_pieces(model, lengths, capacity=10), model(TOKENS), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("route", ["(xA)B", "x(AB)"])
@torch.no_grad()
def test_pieces_equal_the_whole_on_every_route(route: str) -> None:
    """Layers are merged for single tokens and use factors for many, and the other way round."""
    model = awake(config_of("btt in attention, grouped"))
    expected = model(TOKENS)
    for layer in model.structured_layers().values():
        layer.route = route
    torch.testing.assert_close(in_pieces(model, [4, 1, 1, 1, 1, 1, 1]), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_a_repeated_cache_goes_on_in_every_row() -> None:
    model = awake(config_of("grouped"))
    cache = KeyValueCache(model.config, batch=1, dtype=torch.float64)
    model(TOKENS[:1, :4], cache)
    several = cache.repeated(3)
    found = model(TOKENS[:, 4:5], several)
    for row in range(3):
        whole = torch.cat([TOKENS[0, :4], TOKENS[row, 4:5]])[None]
        torch.testing.assert_close(found[row, 0], model(whole)[0, -1], rtol=1e-10, atol=1e-10)
    assert (cache.tokens, several.tokens, several.batch) == (4, 5, 3)


def test_memory_is_that_of_the_key_value_heads() -> None:
    caches = {heads: KeyValueCache(config_of("plain", kv_heads=heads), batch=2) for heads in (1, 2, 4)}
    assert {heads: cache.bytes for heads, cache in caches.items()} == {
        heads: 2 * 2 * 2 * heads * 12 * 8 * 4
        for heads in (1, 2, 4)  # k and v, blocks, rows, heads, tokens, size, bytes
    }


@torch.no_grad()
def test_what_does_not_fit() -> None:
    model = Transformer(config_of("plain"))
    cache = KeyValueCache(model.config, batch=3, capacity=9)
    with pytest.raises(LayerError, match="2 rows for a cache of 3"):
        model(TOKENS[:2, :4], cache)
    model(TOKENS[:, :8], cache)
    with pytest.raises(LayerError, match="2 tokens after 8 in a cache of 9: they do not fit"):
        model(TOKENS[:, 8:], cache)
    assert cache.tokens == 8
    full = KeyValueCache(model.config, batch=3, capacity=20)
    model(TOKENS, full)
    with pytest.raises(LayerError, match="13 tokens for a context of 12"):
        model(TOKENS[:, :3], full)
