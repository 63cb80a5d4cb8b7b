"""Scalars mean what YAML 1.2 says, and are quoted as they were typed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from einsearch_cli.errors import SpecError
from einsearch_cli.structures import parse_structure, read_structure_file
from einsearch_cli.structures.safe_yaml import load_yaml
from einsearch_cli.structures.scalars import whole_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("064", 64),
        ("010", 10),
        ("0o10", 8),
        ("0x10", 16),
        ("-0", 0),
        ("+3", 3),
        ("12:30", "12:30"),
        ("1:30:00", "1:30:00"),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("1,000", "1,000"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("true", True),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("None", "None"),
        ("1e3", 1000.0),
        ("5E-4", 5e-4),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e400", math.inf),
        ("-.inf", -math.inf),
        ("inf", "inf"),
        ("nan", "nan"),
        ("2024-01-01", "2024-01-01"),
        ("٣", "٣"),
        ("=", "="),
        ("'64'", "64"),
        ('"true"', "true"),
        ("!!str 64", "64"),
        ("!!float 64", 64.0),
        ("9" * 1001, "9" * 1001),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = load_yaml(f"a: {text}", "x.yaml").data["a"]
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(load_yaml("a: .nan", "x.yaml").data["a"])


@pytest.mark.parametrize("text", ["1e-9", "010", "null", "0.50", "no", "1E3"])
def test_the_text_of_a_scalar_is_kept(text: str) -> None:
    document = load_yaml(f"a: [{{b: {text}}}]", "x.yaml")
    assert document.text(("a", 0, "b")) == text
    assert document.text(("a", 0)) is None
    assert document.text(("a", 7, "b")) is None


def test_keys_are_text() -> None:
    assert load_yaml("{1: a, no: b, 1.5: c, null: d}", "x.yaml").data == {"1": "a", "no": "b", "1.5": "c", "null": "d"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: !!bool maybe", "x.yaml:1: 'maybe' is not of the type bool"),
        ("a: !!int 12:30", "'12:30' is not of the type int"),
        ("a: !!int true", "'true' is not of the type int"),
        ("a: !!timestamp x", "x.yaml:1: the tag '!!timestamp'"),
        ("a: !!binary x", "the tag '!!binary'"),
        ("a: !!set {b}", "the tag '!!set'"),
        ("a: !mine x", "the tag '!mine'"),
        ("!!python/name:os.system a: x", "the tag '!!python/name:os.system'"),
        ("a: 1\n'a': 2", "x.yaml:2: key 'a' occurs twice"),
    ],
)
def test_tags_and_keys_that_are_refused(text: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_yaml(text, "x.yaml")
    assert problem in caught.value.problem


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("64", 64),
        ("1e3", 1000),
        ("1E+4", 10_000),
        ("2.5e3", 2500),
        ("1e23", 10**23),
        ("-3", -3),
        ("3.0", 3),
        ("1.5", None),
        ("1e-1", None),
        ("1e99999999999", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("0x10", None),
        ("1_000", None),
        ("٣", None),
    ],
)
def test_whole_numbers(text: str, number: int | None) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.yaml", "{XA: 1e-9, XB: rest, YA: 1}", "'1e-9'"),
        ("a.yaml", "{XA: true, YA: 1}", "'true'"),
        ("a.json", '{"indices": {"XA": 1e-9, "XB": "rest", "YA": 1}}', "'1e-9'"),
        ("a.json", '{"indices": {"XA": true, "YA": 1}}', "index XA is true: it must be an exponent"),
        ("a.json", '{"indices": {"XA": NaN, "YA": 1}}', "'NaN'"),
        ("a.json", '{"indices": {"XA": 1, "XA": 1, "YA": 1}}', "key 'XA' occurs twice"),
        ("a.yaml", "{structure: btt, experts: true, top: 1}", "experts is 'true': it must be a whole number"),
        ("a.yaml", "{structure: btt, experts: 4, top: 1:30}", "top is '1:30': it must be a whole number"),
    ],
)
def test_files_of_structures_quote_what_was_typed(tmp_path: Path, name: str, text: str, problem: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        read_structure_file(path)
    assert problem in caught.value.problem


def test_sizes_with_leading_zeros_and_exponents_as_typed(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("- {XA: rest, AB: {size: 010}, YB: rest}\n- {structure: btt, experts: 1e1, top: 02}\n")
    low_rank, mixture = read_structure_file(path)
    assert low_rank.structure == parse_structure("low-rank:r=10")
    assert mixture.mixture is not None
    assert (mixture.mixture.experts, mixture.mixture.top) == (10, 2)
