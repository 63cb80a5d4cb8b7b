"""Records: written data are read back to an equal object."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from einsearch_cli.structures import LayerSpec, parse_layer
from einsearch_cli.structures.record import Record


@dataclass(frozen=True, slots=True)
class Inner(Record):
    name: str
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outer(Record):
    layer: LayerSpec
    twin: LayerSpec | None
    pair: tuple[float, Inner]
    inner: tuple[Inner, ...] | None = None
    names: dict[str, str] = field(default_factory=dict)


def test_nested_records_layers_and_nothing_come_back_equal() -> None:
    inner = Inner("a", (1, 2))
    for record in (
        Outer(parse_layer("btt:r=2"), parse_layer("btt-moe:experts=4,top=2"), (0.5, inner), (inner, inner), {"a": "b"}),
        Outer(parse_layer("ffn-moe:experts=4,top=2"), None, (0.5, inner)),
    ):
        assert Outer.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_keys_of_other_versions_are_left_out_or_have_their_default() -> None:
    document = Outer(parse_layer("dense"), None, (0.5, Inner("a", ()))).to_json()
    del document["inner"], document["names"]
    assert Outer.from_json({**document, "later": 1}).to_json() == {**document, "inner": None, "names": {}}
