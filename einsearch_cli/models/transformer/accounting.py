"""Parameters and FLOPs of a transformer, part by part, without allocating it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import torch

from einsearch_cli.models.base import linear_flops
from einsearch_cli.models.transformer.config import TransformerConfig
from einsearch_cli.models.transformer.model import Transformer, linear_layers


class Part(StrEnum):
    """What parameters and FLOPs of a transformer are spent on."""

    embedding = "embedding"
    """The token embedding; a tied head is counted here as parameters, and under `head` as FLOPs."""
    attention = "attention"
    """The four projections."""
    scores = "attention scores"
    """Query-key products and weighted sums of values over the full window; no parameters."""
    ffn = "ffn"
    """Feed-forward networks."""
    norms = "norms"
    """Norms of the stream, of queries and of keys; their FLOPs are not counted."""
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


def meta_transformer(config: TransformerConfig) -> Transformer:
    """The network on the meta device: shapes without memory.

    >>> from einsearch_cli.models.transformer.presets import preset
    >>> meta_transformer(preset("xl")).parameter_count()
    1274138624
    """
    with torch.device("meta"):
        return Transformer(config)


def model_costs(config: TransformerConfig) -> ModelCosts:
    """What each part costs; the parts sum to `parameter_count()` and to `flops_per_token().total` of the network.

    >>> from einsearch_cli.models.transformer.presets import preset
    >>> costs = model_costs(preset("s", bias=False))
    >>> costs.of(Part.ffn)
    PartCost(part='ffn', params=56623104, flops=113246208)
    >>> costs.total.params
    109549056
    """
    model = meta_transformer(config)
    params = dict.fromkeys(Part, 0)
    for name, parameter in model.named_parameters():
        params[_part_of(name)] += parameter.numel()
    count = model.flops_per_token()
    flops = dict.fromkeys(Part, 0) | {Part.scores: count.attention, Part.head: count.head}
    for block in model.blocks:
        for name, layer in linear_layers(block):
            flops[_part_of(name)] += linear_flops(layer)
    costs = ModelCosts(tuple(PartCost(part.value, params[part], flops[part]) for part in Part))
    _check_sums(costs, model)
    return costs


def _part_of(name: str) -> Part:
    """The part that a parameter, or a layer of a block, belongs to, by its name."""
    words = name.split(".")
    if any(word == "norm" or word.endswith("_norm") for word in words):
        return Part.norms
    return next(part for part in (Part.embedding, Part.head, Part.attention, Part.ffn) if part in words)


def _check_sums(costs: ModelCosts, model: Transformer) -> None:
    expected = model.parameter_count(), model.flops_per_token().total
    if (costs.total.params, costs.total.flops) != expected:
        raise AssertionError(f"parts sum to {costs.total}, the network has {expected}")


def dense_twin(config: TransformerConfig) -> TransformerConfig:
    """The same transformer with dense layers.

    >>> from einsearch_cli.models.transformer.presets import preset
    >>> dense_twin(preset("wide-m")).structure
    'dense'
    """
    return config.model_copy(update={"structure": "dense"})
