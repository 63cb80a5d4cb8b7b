"""Layers of experts in text, YAML and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from einsearch_cli.errors import SpecError, StructureError
from einsearch_cli.structures import (
    MixtureOfExperts,
    layer_family,
    layer_of_json,
    parse_layer,
    parse_structure,
    read_structure_file,
    short_text,
    structure_of_entry,
)

MEANINGS = {
    "btt-moe:experts=16,top=2": ("btt", 16, 2),
    "btt-moe:r=2,experts=4,top=1": ("btt:r=2", 4, 1),
    "low-rank-moe:r=32,experts=8,top=2": ("low-rank:r=32", 8, 2),
    "low-rank-moe: experts=8 , r=32, top=2": ("low-rank:r=32", 8, 2),
    "dense-moe:experts=8,top=8": ("dense", 8, 8),
    "block-dense-moe:blocks=4,r=512,experts=2,top=1": ("block-dense:blocks=4,r=512", 2, 1),
    "XA^1/2 XAB^1/2 YA^1/2 YB^1/2 moe:experts=8,top=2": ("XA^1/2 XAB^1/2 YA^1/2 YB^1/2", 8, 2),
    "(0.5|0|0.5|0|0.5|0.5|0) moe:experts=8,top=2": ("monarch", 8, 2),
    "bgn,gnr,gro->bo; g=4, n=rest, r=64, o=rest moe:experts=2,top=1": (
        "bgn,gnr,gro->bo; g=4, n=rest, r=64, o=rest",
        2,
        1,
    ),
}


@pytest.mark.parametrize("text", MEANINGS)
def test_text_is_read_and_written(text: str) -> None:
    structure, experts, top = MEANINGS[text]
    layer = parse_layer(text)
    assert layer == MixtureOfExperts(parse_structure(structure), experts, top)
    for again in (str(layer), short_text(layer)):
        assert again is not None
        assert parse_layer(again) == layer
    assert layer_of_json(json.loads(json.dumps(layer.to_json()))) == layer


def test_experts_that_are_whole_networks() -> None:
    layer = parse_layer("ffn-moe:experts=8,top=2")
    assert layer == MixtureOfExperts(parse_structure("dense"), 8, 2, feed_forward=True)
    assert parse_layer(str(layer)) == layer == layer_of_json(layer.to_json())
    assert layer != parse_layer("dense-moe:experts=8,top=2")


def test_monarch_experts_are_a_btt() -> None:
    """The bond index of a BTT, read as the number of the expert, leaves Monarch matrices."""
    layer = parse_layer("monarch-moe:blocks=4,experts=8,top=2")
    assert (short_text(layer), layer_family(layer)) == ("btt-moe:blocks=4,experts=8,top=2", "btt-moe")
    assert layer_family(parse_layer("btt:r=2")) == "btt"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("btt-moe", "gives experts 0 times"),
        ("btt-moe:experts=4", "gives top 0 times"),
        ("btt-moe:experts=4,top=1,top=2", "gives top 2 times"),
        ("btt-moe:experts=4,top=5", "top=5 with experts=4"),
        ("btt-moe:experts=10000000000,top=1", "it must be a whole number of at most 9 digits"),
        ("btt-moe:experts=1/2,top=1", "experts=1/2 in 'btt-moe:experts=1/2,top=1': it must be a whole number"),
        ("btt-moe:experts=99999,top=1", "experts=99999: a layer has 1 to 4096 experts"),
        ("btt-moe:experts=4,top=2,z=1", "'z=1' in 'btt:z=1' is not a parameter of btt"),
        ("nothing-moe:experts=4,top=2", "no structure or family is named 'nothing'"),
        ("ffn-moe:experts=4,top=2,r=1", "'r=1' in 'ffn-moe:experts=4,top=2,r=1' is not a parameter"),
        ("monarch moe:experts=4,top=2,blocks=4", "'blocks=4' in"),
        ("btt-moe:experts=4,top=2 moe:experts=4,top=2", "has experts within experts"),
    ],
)
def test_text_that_is_wrong(text: str, message: str) -> None:
    with pytest.raises(StructureError) as caught:
        parse_layer(text)
    assert message in caught.value.problem
    assert caught.value.remedy


def test_a_structure_is_asked_for() -> None:
    with pytest.raises(StructureError, match="is a layer of experts: here a structure is needed"):
        parse_structure("btt-moe:experts=4,top=2")


@pytest.mark.parametrize(
    "entry",
    [
        {"structure": "btt", "experts": 4, "top": 2},
        {"indices": {"XA": "1/2", "XAB": "1/2", "YB": "1/2", "YAB": "1/2"}, "experts": 4, "top": 2, "name": "mine"},
        "btt-moe:experts=4,top=2",
    ],
)
def test_yaml(entry: Any) -> None:
    found = structure_of_entry(entry, "x.yaml:1")
    assert found.layer == parse_layer("btt-moe:experts=4,top=2")
    assert found.structure == parse_structure("monarch")


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "layers.yaml"
    path.write_text(
        "structures:\n- {structure: low-rank:r=8, experts: 4, top: 2}\n- btt-moe:experts=2,top=1\n- dense\n"
    )
    layers = [named.layer for named in read_structure_file(path)]
    assert layers == [parse_layer(t) for t in ("low-rank-moe:r=8,experts=4,top=2", "btt-moe:experts=2,top=1", "dense")]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"structure": "btt", "experts": 4}, "by both keys 'experts' and 'top'"),
        ({"structure": "btt-moe:experts=4,top=2", "experts": 4, "top": 2}, "by a structure without experts"),
        ({"structure": "btt", "experts": "many", "top": 2}, "experts is 'many': it must be a whole number"),
        ({"structure": "btt", "experts": 2, "top": 3}, "x.yaml:1: top=3 with experts=2"),
    ],
)
def test_yaml_that_is_wrong(entry: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        structure_of_entry(entry, "x.yaml:1")
    assert message in caught.value.problem
