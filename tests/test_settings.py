"""Settings of every kind refuse wrong values in our own words."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest

from einsearch_cli.data.tokens import DataSettings
from einsearch_cli.data.tokens.binary import TokenMeta
from einsearch_cli.data.tokens.settings import DatasetSettings
from einsearch_cli.errors import EinsearchError, SizeError
from einsearch_cli.models.transformer import TransformerConfig
from einsearch_cli.search.spec import HalvingSpec, SpaceSpec, StudySpec
from einsearch_cli.settings import Settings, in_document, read_settings
from einsearch_cli.structures.safe_yaml import load_yaml
from einsearch_cli.tasks import find_task, task_names
from einsearch_cli.training import OptimizerSettings
from einsearch_cli.training.full import TrainSpec, train_spec as train

KINDS: list[type[Settings]] = [
    *(find_task(name).settings_type for name in task_names()),
    *(DataSettings, DatasetSettings, TokenMeta, TransformerConfig, OptimizerSettings),
    *(StudySpec, SpaceSpec, HalvingSpec, TrainSpec, train.OptimizerSpec, train.ScheduleSpec, train.GuidanceSpec),
    *(train.ValidationSpec, train.CheckpointSpec, train.MetricsSpec),
]
HOSTILE: list[Any] = [None, True, 0, -1, 1.5, 1e400, math.nan, 10**400, "", "x", "1", "no", "a\0b", [], [True], [[1]]]
HOSTILE += [{}, {"a": 1}, {"": {}}, [None], ["x", "x"]]
OF_PYDANTIC = (
    "input should",
    "value error",
    "unable to parse",
    "pattern",
    "validation error",
    "extra inputs",
    "instance of",
)
NEEDED: dict[type[Settings], dict[str, Any]] = {
    TransformerConfig: {"vocabulary": 64, "width": 64, "layers": 1, "heads": 4},
    TrainSpec: {"steps": 3},
    TokenMeta: {"vocabulary": 64},
    SpaceSpec: {"grid": 2},
    DatasetSettings: {"name": "a/b"},
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_hostile_values_are_refused_in_our_own_words(kind: type[Settings]) -> None:
    for key in kind.model_fields:
        for value in HOSTILE:
            with contextlib.suppress(EinsearchError):
                read_settings(kind, {**NEEDED.get(kind, {}), key: value})
                continue
            with pytest.raises(EinsearchError) as caught:
                read_settings(kind, {**NEEDED.get(kind, {}), key: value})
            text = str(caught.value).lower()
            assert not [word for word in OF_PYDANTIC if word in text], text
            assert caught.value.problem
            assert caught.value.remedy
            assert key in text or key == "structure", text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_remedies_can_be_typed(kind: type[Settings]) -> None:
    """Values proposed for a list are values of the same field."""
    for key, field in kind.model_fields.items():
        if field.annotation == list[Any] or "dict" in str(field.annotation):
            continue
        with pytest.raises(EinsearchError) as caught:
            read_settings(kind, {**NEEDED.get(kind, {}), key: [[object()]]})
        document = load_yaml(caught.value.remedy, "remedy")
        assert list(document.data) == [key], caught.value.remedy
        others = {} if (kind, key) in ((TrainSpec, "tokens"),) else NEEDED.get(kind, {})
        if key not in (
            "files",
            "token_type",
            "flop_matched",
            "experts",
            "top",
            "heads",
        ):  # these need others with them
            read_settings(kind, {**others, **document.data})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_unknown_key_is_named(kind: type[Settings]) -> None:
    with pytest.raises(EinsearchError, match="unknown key 'no_such_key'"):
        read_settings(kind, {"no_such_key": 1})


def test_true_is_not_one_and_text_is_not_a_number() -> None:
    for value in (True, "3", "1e3", 1.5, None):
        with pytest.raises(EinsearchError, match="a whole number from 1 to 1,000 is needed"):
            read_settings(StudySpec, {"seeds": value})
    assert read_settings(StudySpec, {"seeds": 1e3}).seeds == 1000
    with pytest.raises(EinsearchError, match="true or false is needed"):
        read_settings(StudySpec, {"ablate_balance": 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: 010\nwidths: [0]", "x.yaml:2: an entry of widths is 0: a whole number from 1 to 1,000,000 is needed"),
        ("seeds: 12:30", "x.yaml:1: seeds is '12:30': a whole number from 1 to 1,000 is needed\ntry: seeds: 3"),
        ("seeds: no", "seeds is 'no'"),
        ("seeds: null", "seeds is null"),
        ("seeds:", "seeds is empty"),
        ("seeds: 1E-1", "seeds is 1E-1"),
        ("widths: [yes]", "an entry of widths is 'yes'"),
        ("structures: monarch", "structures is 'monarch': a list is needed\ntry: structures: [monarch, btt:r=2]"),
        ("structures: {a: 1}", "structures is a mapping: a list is needed"),
        ("halving: 3", "halving is 3: a mapping of keys to values is needed\ntry: halving: {rungs: 3, factor: 3"),
        ("name: ../../etc", "name is '../../etc': letters, digits and . _ - are allowed, at most 64"),
        ("optimizer:\n  beta1: 1.0", "x.yaml:2: optimizer.beta1 is 1.0: a number from 0 and below 1 is needed"),
        ("optimizer: {bta1: 1}", "unknown key 'optimizer.bta1'\ntry: use beta1; all are name, learning_rate"),
        ("space: {grid: 2, min_psi: -1}", "space.min_psi is -1: a number from 0 on is needed, such as 1/2 or 0.5"),
    ],
)
def test_messages_quote_what_was_typed(text: str, message: str) -> None:
    document = load_yaml(text, "x.yaml")
    with pytest.raises(EinsearchError) as caught:
        read_settings(StudySpec, document.data, in_document(document))
    assert message in str(caught.value)


def test_an_error_survives_a_pickle() -> None:
    import pickle

    with pytest.raises(EinsearchError) as caught:
        read_settings(StudySpec, {"seeds": 0})
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301
    placed = pickle.loads(pickle.dumps(SizeError("3 heads", remedy="give 4", keys=("heads",))))  # noqa: S301
    assert (placed.keys, placed.remedy) == (("heads",), "give 4")


def test_paths_are_text() -> None:
    assert read_settings(DataSettings, {"text": "a.txt"}).text == Path("a.txt")
    for value in (3, True, "", "a\0b"):
        with pytest.raises(EinsearchError, match="a path is needed"):
            read_settings(DataSettings, {"text": value})


def test_bounds_are_exact() -> None:
    spec = read_settings(SpaceSpec, {"grid": 3, "max_omega": 0.33, "min_psi": 0, "max_nu": 1e-3})
    assert (spec.max_omega, spec.min_psi, spec.max_nu) == ("0.33", "0", "0.001")
    most = {"grid": 3, "min_psi": 0, "max_nu": 9}
    assert len(read_settings(SpaceSpec, {**most, "max_omega": "1/3"}).structures()) == 145
    assert len(read_settings(SpaceSpec, {**most, "max_omega": 0.33}).structures()) == 101
