"""Specs that come with einsearch, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from einsearch_cli import shipped
from einsearch_cli.errors import StructureError
from einsearch_cli.shipped import Kind, names_of, shipped_path, shipped_specs
from einsearch_cli.structures import parse_layer


def test_all_specs_have_a_name_that_is_no_structure() -> None:
    assert {shipped_path(name) for name in shipped_specs()} == {str(path) for path in shipped.FOLDER.rglob("*.yaml")}
    assert {len(names_of(kind)) > 1 for kind in Kind} == {True}
    for name in shipped_specs():
        with pytest.raises(StructureError):
            parse_layer(name)


def test_a_name_means_the_spec_and_a_suffix_a_file(einsearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("structures").write_text("dense")
    Path("structures.yaml").write_text("structures: [dense]")
    shown = einsearch("classify", "structures", "--format", "csv").out
    assert shown.splitlines()[1].startswith("XA^1/2 XAB^1/2 YB^1/2 YAB^1/2")
    assert len(shown.splitlines()) > 3
    assert len(einsearch("classify", "structures.yaml", "--format", "csv").out.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "data", "option"),
    [
        (("rank", "paper/taxonomy-text"), "data/gcide.txt", "--text PATH"),
        (("rank", "paper/taxonomy-pixels"), "data/photos", "--images PATH"),
        (("train", "paper/ffn"), "data/gcide.txt", "--set data.text=PATH"),
    ],
)
def test_data_that_are_missing_are_named_with_the_way_to_get_them(
    einsearch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, str], data: str, option: str
) -> None:
    copy = tmp_path / "package" / "specs"
    copy.mkdir(parents=True)
    for path in shipped.FOLDER.rglob("*.yaml"):
        (copy / path.relative_to(shipped.FOLDER)).parent.mkdir(exist_ok=True)
        (copy / path.relative_to(shipped.FOLDER)).write_text(path.read_text())
    monkeypatch.setattr(shipped, "FOLDER", copy)
    found = einsearch(*words, "--dry-run")
    assert found.code == 2
    name = f"{words[1].removeprefix('paper/')}.yaml"
    there = copy.parent / data
    assert f"{name} trains on {data}, which is not part of einsearch: there is no {there}" in found.err
    assert f"try: `make data` in a checkout of einsearch, or data of your own: {option}" in found.err
