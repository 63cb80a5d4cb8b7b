"""Files of earlier versions find the classes that they name."""

from __future__ import annotations

import importlib
import pickle

import pytest

OLD = {
    "einsearch_cli.layers.moe.layer.StructuredMoE": "einsearch_cli.moe.layer",
    "einsearch_cli.layers.moe.feed_forward.FeedForwardMoE": "einsearch_cli.moe.feed_forward",
    "einsearch_cli.layers.moe.experts.Experts": "einsearch_cli.moe.experts",
    "einsearch_cli.layers.moe.routing.Router": "einsearch_cli.moe.routing",
    "einsearch_cli.layers.moe.fused.FusedExperts": "einsearch_cli.swap.fused_experts",
    "einsearch_cli.layers.guided.layer.SelfGuidedLinear": "einsearch_cli.guided.layer",
    "einsearch_cli.layers.swap.attention.SplitMultiheadAttention": "einsearch_cli.swap.attention",
    "einsearch_cli.layers.pointwise.PointwiseConv": "einsearch_cli.swap.pointwise",
    "einsearch_cli.structures.sizes.SizedStructure": "einsearch_cli.sizing.sized",
}


@pytest.mark.parametrize("old", OLD)
def test_a_pickle_finds_the_class_of_today(old: str) -> None:
    module, _, name = old.rpartition(".")
    found = pickle.loads(f"c{module}\n{name}\n.".encode())  # noqa: S301
    assert found is getattr(importlib.import_module(OLD[old]), name)
    assert found.__module__ == OLD[old]
    assert importlib.import_module(OLD[old]).__spec__.name == OLD[old]  # type: ignore[union-attr]


def test_a_name_that_never_was_is_not_there() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'einsearch_cli\.moe\.nothing'"):
        importlib.import_module("einsearch_cli.layers.moe.nothing")
