"""Files of evidence: made from studies, read back, and compared with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from einsearch_cli.advice.evidence import add_evidence, evidence_of, known_evidence, matching, user_folder
from einsearch_cli.errors import SpecError
from einsearch_cli.structures import parse_layer, parse_structure

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "einsearch_cli" / "advice" / "studies"


@pytest.fixture(autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EINSEARCH_EVIDENCE", str(tmp_path / "own"))


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.json")), ids=lambda path: path.stem)
def test_the_evidence_of_the_package_says_what_the_studies_say(path: Path) -> None:
    stored = evidence_of(path)
    made = replace(evidence_of(ROOT / stored.source), source=stored.source, name=path.stem)
    assert made == stored, f"einsearch evidence add {stored.source} --out {STUDIES}"
    document = json.loads((ROOT / stored.source / "results.json").read_text())
    rows = {row["structure"]: row for row in document["ranking"]}
    assert len(rows) == len(stored.findings)
    for finding in stored.findings:
        row = rows[str(finding.structure)]
        wanted = ("confirmed_gain", "confirmed_gain_low", "confirmed_gain_high")
        if row["confirmed_gain"] is None:
            wanted = ("compute_gain", "compute_gain_low", "compute_gain_high")
        numbers = tuple(row[name] for name in wanted)
        assert finding.gain == (None if numbers[0] is None else numbers)
        assert (finding.seeds, finding.verdict) == (row["seeds"], row["verdict"])
    assert stored.commands
    assert stored.environment["torch"]


def test_evidence_of_a_user_is_read_after_it_was_added(tmp_path: Path) -> None:
    before = known_evidence()
    assert {item.task for item in before} == {"teacher", "text"}
    document = json.loads((ROOT / "examples/demo/results.json").read_text())
    run = tmp_path / "run"
    run.mkdir()
    (run / "results.json").write_text(json.dumps({**document, "title": "mine"}))
    (written,) = add_evidence([run], user_folder())
    assert written == tmp_path / "own" / "mine.json"
    assert [item.name for item in known_evidence()] == [*(item.name for item in before), "mine"]
    assert len(known_evidence([run])) == len(before) + 1, "one study, given in two ways"
    add_evidence([run], user_folder())
    with pytest.raises(SpecError, match="holds the evidence of"):
        add_evidence([ROOT / "examples/moe"], user_folder(), "mine")


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    for name, text, said in (
        ("broken.json", "{", "cannot be read as JSON"),
        ("list.json", "[]", "holds no study of `einsearch rank` or `einsearch search`"),
        ("other.json", '{"findings": [], "least_budget_flops": 1, "format": 9}', "evidence of format 9"),
        ("empty.json", '{"ranking": [], "results": []}', "no finished run"),
        ("half.json", '{"ranking": [{}], "results": [{"stage": 1}]}', "is damaged, or of another version"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(SpecError, match=said):
            evidence_of(tmp_path / name)
    with pytest.raises(SpecError, match="no such file"):
        evidence_of(tmp_path / "nothing")


def test_the_package_has_every_study_of_the_examples_that_ranks() -> None:
    known = {evidence_of(path).digest for path in STUDIES.glob("*.json")}
    refused = {}
    for results in sorted((ROOT / "examples").rglob("results.json")):
        place = results.parent.relative_to(ROOT)
        try:
            digest = evidence_of(results.parent).digest
        except SpecError as error:
            refused[place.name] = error.problem
        else:
            assert digest in known, f"einsearch evidence add {place} --out {STUDIES}"
    assert "of another version" in refused.pop("balance")
    assert "structured_ffn" in refused, "results of `einsearch train` are no evidence"
    assert all("holds no study of `einsearch rank` or" in problem for problem in refused.values())


def test_names_tell_the_studies_of_the_package_apart() -> None:
    names = [item.name for item in known_evidence()]
    assert len(set(names)) == len(names)


def test_a_structure_itself_comes_before_its_family() -> None:
    studies = known_evidence()
    own = [match for match in matching(studies, parse_structure("monarch")) if match[2]]
    assert {str(found.structure) for _, found, _ in own} == {"XA^1/2 XAB^1/2 YB^1/2 YAB^1/2"}
    family = list(matching(studies, parse_structure("btt:r=7")))
    assert family
    assert not any(same for _, _, same in family)
    assert {found.family for _, found, _ in family} == {"btt"}
    assert not list(matching(studies, parse_structure("XA^1/4 XB^1/4 XAB^1/2 YB^1/4 YAB^3/4"))), (
        "a family of none says nothing"
    )
    assert not [
        m for m in matching(studies, parse_layer("dense-moe:experts=8,top=2")) if m[2] and m[1].family == "dense"
    ]


def test_evidence_on_the_command_line(einsearch, tmp_path: Path) -> None:
    out = tmp_path / "files"
    added = einsearch("evidence", "add", ROOT / "examples/demo", "--out", out, "--name", "first")
    assert added.code == 0
    assert evidence_of(out / "first.json").name == "first"
    listed = einsearch("evidence", "list", "--format", "json")
    assert listed.code == 0
    assert {row["source"] for row in json.loads(listed.out)} >= {"examples/demo", "examples/moe"}
    assert einsearch("evidence", "add").code == 2
    assert einsearch("evidence", "add", tmp_path / "nothing").code == 2
    assert einsearch("evidence", "add", ROOT / "examples/demo", ROOT / "examples/moe", "--name", "x").code == 2
