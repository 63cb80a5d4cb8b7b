"""Parameters and FLOPs of a transformer, part by part, from its config alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple

from einsearch_cli.models.counts import (
    FlopCount,
    LinearCount,
    NetworkCount,
    dense_count,
    expert_network_count,
    rule_layer,
    structured_count,
)
from einsearch_cli.models.transformer.config import TransformerConfig
from einsearch_cli.structures import LayerSpec, MixtureOfExperts, parse_structure


class Part(StrEnum):
    """A part of a transformer in the table of its parameters and FLOPs."""

    embedding = "embedding"
    """The token embedding; the parameters of a tied head are counted here, its FLOPs under `head`."""
    attention = "attention"
    """The four attention projections."""
    scores = "attention scores"
    """Query-key products and weighted sums of values over the full window; no parameters."""
    ffn = "ffn"
    """Feed-forward networks."""
    norms = "norms"
    """Norms of the residual stream, of queries and of keys; their FLOPs are not counted."""
    head = "head"
    """The output layer."""


@dataclass(frozen=True, slots=True)
class PartCost:
    """Trainable numbers, and forward FLOPs per token (2 × multiply-adds of matrix products) at the full context."""

    part: str
    params: int
    flops: int


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """One `PartCost` for every `Part`."""

    parts: tuple[PartCost, ...]

    @property
    def total(self) -> PartCost:
        """The sum of all parts."""
        return PartCost("total", sum(cost.params for cost in self.parts), sum(cost.flops for cost in self.parts))

    def of(self, part: Part) -> PartCost:
        """The cost of one part."""
        return next(cost for cost in self.parts if cost.part == part)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"parts": [asdict(cost) for cost in self.parts], "total": asdict(self.total)}


class Matrix(NamedTuple):
    """A linear layer of a transformer, or a feed-forward network of experts as one entry."""

    part: Part
    d_in: int
    d_out: int
    layer: LayerSpec | None
    """Structure or experts of the linear map; None for an ordinary dense layer."""

    def costs(self, *, bias: bool) -> LinearCount:
        """Parameters and FLOPs of the linear map."""
        return _count(self, bias)


@cache
def _count(matrix: Matrix, bias: bool) -> LinearCount:
    layer = matrix.layer
    if layer is None:
        return dense_count(matrix.d_in, matrix.d_out, bias=bias)
    if matrix.part is Part.ffn and isinstance(layer, MixtureOfExperts) and layer.feed_forward:
        return expert_network_count(layer, matrix.d_in, matrix.d_out)
    return structured_count(rule_layer(layer), matrix.d_in, matrix.d_out, bias=bias)


def matrices(config: TransformerConfig, *, dense_as_structure: bool = False) -> Iterator[tuple[int, Matrix]]:
    """The matrices of all blocks, each with the number of its block.

    Args:
        config: the transformer's config.
        dense_as_structure: whether layers of the structure `dense` are structured ones too, as in the proxy network.
    """
    layer = config.layer_spec
    carried = None if layer == parse_structure("dense") and not dense_as_structure else layer
    in_attention = carried if config.structured in ("attn", "all") else None
    width, inner, keys = config.width, config.attention_width, config.kv_width
    attention = [
        Matrix(Part.attention, width, inner, in_attention),
        *[Matrix(Part.attention, width, keys, in_attention)] * 2,
        Matrix(Part.attention, inner, width, in_attention),
    ]
    for block in range(config.layers):
        is_ffn_dense = config.structured == "attn" or (config.first_ffn_dense and block == 0)
        for matrix in (*attention, *_feed_forward(config, None if is_ffn_dense else carried)):
            yield block, matrix


def _feed_forward(config: TransformerConfig, layer: LayerSpec | None) -> list[Matrix]:
    up = Matrix(Part.ffn, config.width, config.hidden, layer)
    if isinstance(layer, MixtureOfExperts) and layer.feed_forward:
        return [up]
    down = Matrix(Part.ffn, config.hidden, config.width, layer)
    return [*[up] * (2 if config.activation == "swiglu" else 1), down]


def model_costs(config: TransformerConfig, *, dense_as_structure: bool = False) -> ModelCosts:
    """The costs of every part; they sum to `parameter_count()` and to `flops_per_token().total` of the network.

    Raises:
        SizeError: a structure that does not fit the widths.

    >>> from einsearch_cli.models.transformer.presets import preset
    >>> costs = model_costs(preset("s", bias=False))
    >>> costs.of(Part.ffn)
    PartCost(part='ffn', params=56623104, flops=113246208)
    >>> costs.total.params
    109549056
    """
    params, flops = dict.fromkeys(Part, 0), dict.fromkeys(Part, 0)
    for _, matrix in matrices(config, dense_as_structure=dense_as_structure):
        found = matrix.costs(bias=config.bias)
        params[matrix.part] += found.params
        flops[matrix.part] += found.flops
    head = dense_count(config.width, config.vocabulary, bias=False)
    params |= {Part.embedding: head.params, Part.head: 0 if config.tied else head.params, Part.norms: _norms(config)}
    flops |= {Part.head: head.flops, Part.scores: config.layers * 4 * config.context * config.attention_width}
    return ModelCosts(tuple(PartCost(part.value, params[part], flops[part]) for part in Part))


def _norms(config: TransformerConfig) -> int:
    """Trainable numbers of the norms: two per block, one before the head, and those of queries and keys."""
    of_stream = config.width * (1 if config.norm == "rms" else 2)
    of_heads = 2 * config.head_size if config.qk_norm else 0
    return (2 * config.layers + 1) * of_stream + config.layers * of_heads


def transformer_count(config: TransformerConfig, *, dense_as_structure: bool = False) -> NetworkCount:
    """Parameters and FLOPs of a whole transformer.

    >>> from einsearch_cli.models.transformer.presets import preset
    >>> transformer_count(preset("xl")).params
    1274138624
    """
    costs = model_costs(config, dense_as_structure=dense_as_structure)
    linears = costs.of(Part.attention).flops + costs.of(Part.ffn).flops
    flops = FlopCount(linears=linears, attention=costs.of(Part.scores).flops, head=costs.of(Part.head).flops)
    return NetworkCount(costs.total.params, flops, flops.of_training())


def dense_twin(config: TransformerConfig) -> TransformerConfig:
    """The config with dense layers in place of the structured ones.

    >>> from einsearch_cli.models.transformer.presets import preset
    >>> dense_twin(preset("wide-m")).structure
    'dense'
    """
    return config.model_copy(update={"structure": "dense"})
