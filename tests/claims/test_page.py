"""The page on claims says what the committed studies say."""

from __future__ import annotations

import doctest
import json
import math
import re
from types import ModuleType
from typing import Any

import pytest

from benchmarks.claims import inference, numbers as numbers_as_text, page as page_module
from benchmarks.claims.document import all_rows, document_of
from benchmarks.claims.numbers import p_text, signed
from benchmarks.claims.page import (
    TOPICS,
    anchor,
    blocks,
    claims_table,
    counted,
    filled,
    findings,
    of_topic,
    page_of,
    scales,
    studies_table,
    topic_text,
    why_open,
)
from benchmarks.claims.rows import Row
from benchmarks.claims.studies import ROOT, Store
from einsearch_cli.shipped import shipped_specs

STORED = ROOT / "benchmarks/results/claims.json"


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(STORED.read_text("utf-8"))
    return document


@pytest.fixture(scope="module")
def studies() -> Store:
    """The committed studies, each read once."""
    return Store()


@pytest.fixture(scope="module")
def rows(stored: dict[str, Any]) -> list[Row]:
    return [Row(**row) for row in stored["rows"]]


def numbers(value: Any) -> Any:
    """The value with its floats to five digits: processors differ in the last ones."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def test_the_stored_rows_are_those_of_the_committed_studies(stored: dict[str, Any], studies: Store) -> None:
    made = json.loads(json.dumps(document_of(*all_rows(studies))))
    assert numbers(made) == numbers(stored), "run python -m benchmarks.claims"


def test_the_page_has_the_stored_rows(rows: list[Row], stored: dict[str, Any]) -> None:
    page = page_of(ROOT).read_text("utf-8")
    assert filled(page, blocks(rows, stored["exponents"])) == page, "run python -m benchmarks.claims"


def test_the_taxonomy_shows_the_stored_correlations_and_verdicts(stored: dict[str, Any], rows: list[Row]) -> None:
    page = (ROOT / "docs/explanation/taxonomy.md").read_text("utf-8")
    for exponent in ("ω", "1 − ψ", "ν"):
        rungs = [
            found for found in stored["exponents"] if (found["task"], found["exponent"]) == ("teacher-small", exponent)
        ]
        cells = [exponent, *(signed(found["spearman"]) for found in rungs), p_text(rungs[-1]["p"])]
        assert "| " + " | ".join(cells) + " |" in page
    verdicts = {row.key.removesuffix("-teacher-small"): row.verdict for row in rows if "-teacher-small" in row.key}
    for key, claim in (
        ("omega", "A smaller ω gives a lower loss"),
        ("psi", "A larger ψ gives a lower loss"),
        ("nu", "ν hardly matters at ω = 0 and ψ = 1"),
        ("nu-trend", "What ν costs fades with compute"),
    ):
        assert f"- **{claim}: {verdicts[key]}" in page


def test_the_readme_has_the_stored_counts(rows: list[Row]) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert counted(readme, rows) == readme, "run python -m benchmarks.claims"


def test_the_table_of_studies_is_that_of_the_files(studies: Store) -> None:
    readme = (ROOT / "examples/reproduction/README.md").read_text("utf-8")
    assert filled(readme, {"studies": studies_table(studies)}) == readme, "run python -m benchmarks.claims"


@pytest.mark.parametrize("module", [inference, numbers_as_text, page_module], ids=lambda module: module.__name__)
def test_examples_in_docstrings_are_true(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


def test_every_claim_has_a_row_and_every_row_an_interval(rows: list[Row]) -> None:
    assert all(of_topic(rows, topic) for topic in TOPICS)
    assert sorted(row.key for topic in TOPICS for row in of_topic(rows, topic)) == sorted(row.key for row in rows)
    for row in rows:
        assert math.isfinite(row.high - row.low)
        assert row.low <= row.value <= row.high
        assert all((row.scale, row.would_tell, row.control, row.source))


def made(study: str, **changes: Any) -> Row:
    """A row of a claim on losses."""
    values: dict[str, Any] = {
        "key": f"x-{study}", "topic": "wide", "kind": "claim", "claim": "X beats dense", "published": "it does", "source": "S",
        "effect": "loss against dense", "unit": "percent", "value": -0.05, "low": -0.06, "high": -0.04, "rule": "below",
        "margin": 0.0, "interval": "3 seeds", "p": 0.01, "p_adjusted": 0.02, "verdict": "holds", "study": study,
        "scale": f"size of {study}", "flops": 1e9, "control": "Without X it is 0.", "flaw": "", "would_tell": "`run`",
    }  # fmt: skip
    return Row(**values | changes)


def test_a_claim_of_several_studies_is_one_claim_with_several_rows() -> None:
    """The study with more FLOPs comes first, in the table and in the section."""
    rows = [made("small"), made("large", flops=1e12, verdict="cannot tell", flaw="grids end")]
    lines = claims_table(rows, "claim").splitlines()
    assert lines[0] == "| claim, study | verdict | estimate | p |"
    assert lines[2] == "| **Structured feed-forward networks** |  |  |  |"
    numbers = "−4.9% [−5.8%,\u00a0−3.9%] | 0.020"
    assert lines[3:] == [
        f"| [X beats dense](#wide-and-structured)<br>large | **cannot tell** | {numbers} |",
        f"| small | **holds** | {numbers} |",
    ]
    text = topic_text(rows)
    assert text.count("X beats dense") == text.count("it does (S)") == text.count("Would tell more: `run`") == 1
    assert (
        text.index("- large: **cannot tell**") < text.index("  - Open: grids end.") < text.index("- small: **holds**")
    )
    assert scales([*rows, made("small", key="y")]).count("size of small") == 1
    assert "X beats dense (small)" in findings(rows, [])
    assert "X beats dense." in findings(rows[:1], [])


def test_our_own_questions_are_set_apart() -> None:
    rows = [made("one"), made("two", kind="question", claim="Y beats dense", verdict="does not hold")]
    assert "Y beats dense" not in claims_table(rows, "claim")
    assert "X beats dense" not in claims_table(rows, "question")
    assert "(our question, not a claim of the papers)" in topic_text(rows[1:])
    assert "question" not in topic_text(rows[:1])
    said = findings(rows, [])
    assert said.startswith("Of 1 measurements of the papers' claims, 1 hold at the scale of these studies, 0 do not")
    assert "Of 1 measurements of our own questions, the answer is yes in 0, no in 1, and open in 0." in said
    readme = counted("a\n- Of 7 measurements of\n  old\n- b\n", rows)
    assert readme.startswith("a\n- Of 1 measurements of papers' claims, 1 hold here, 0 do not")
    assert "The clearest" not in readme, "no row on ω that holds"
    assert readme.endswith("\n- b\n")
    with pytest.raises(ValueError, match="has 0 items"):
        counted("nothing", rows)


def test_comparisons_that_no_paper_makes_are_questions(rows: list[Row]) -> None:
    kinds = {row.key: row.kind for row in rows}
    for key in ("pre-merge", "rates-one", "rates-layers", "standard-over-dense-moe", "speed-31-CPU", "guided-flops"):
        assert kinds[key] == "question"
    assert kinds["rates-own"] == kinds["speed-31-H200"] == kinds["btt-over-dense-moe"] == "claim"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"flaw": "there is one seed"}, "there is one seed"),
        ({"high": 0.01}, "the interval contains 0"),
        ({"high": 0.01, "unit": "factor"}, "the interval contains 1×"),
        ({"p_adjusted": 0.06}, "p is not below 5% after Holm's correction"),
        ({"rule": "within", "margin": 0.05}, "the interval reaches over the margin of ±0.05"),
        ({"rule": "within", "margin": 0.05, "unit": "share"}, "the interval reaches over the margin of ±5%"),
        ({"rule": "within", "margin": 0.1}, "p is not below 5% after Holm's correction"),
    ],
)
def test_an_open_row_says_why(changes: dict[str, Any], reason: str) -> None:
    assert why_open(made("one", **changes)) == reason


def test_links_of_the_table_lead_to_sections(rows: list[Row]) -> None:
    page = page_of(ROOT).read_text("utf-8")
    for topic, heading in TOPICS.items():
        section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        assert f"<!-- begin {topic} -->" in section
    found = set(re.findall(r"\]\(#(.+?)\)", claims_table(rows, "claim") + claims_table(rows, "question")))
    assert found == {anchor(heading) for heading in TOPICS.values()}


def test_the_scale_of_a_study_is_said_once(rows: list[Row]) -> None:
    page = page_of(ROOT).read_text("utf-8")
    assert len({(row.study, row.scale) for row in rows}) == len({row.study for row in rows})
    for scale in {row.scale for row in rows}:
        assert page.count(scale) == 1


def test_numbers_have_one_form(rows: list[Row], stored: dict[str, Any]) -> None:
    text = "\n".join(blocks(rows, stored["exponents"]).values())
    prose = re.sub(r"`[^`]*`", "", text)
    assert not re.search(r"\de[+-]?\d", prose)
    assert not re.search(r"[ \[]-\d", prose), "the sign is a minus, not a hyphen"
    ps = re.findall(r"\bp (?:= )?(< [\d.]+\d|[\d.]+\d)", prose)
    assert len(ps) > len(rows)
    assert [p for p in ps if not re.fullmatch(r"< 0\.001|0\.\d\d|0\.0[1-9]\d|0\.00[1-9]\d|1\.0", p)] == []


def test_no_verdict_is_typed() -> None:
    page = re.sub(r"<!-- begin (\w+) -->.*?<!-- end \1 -->", "", page_of(ROOT).read_text("utf-8"), flags=re.DOTALL)
    rule, _, rest = page.partition("## All claims")
    assert rule.count("**cannot tell**") == 3
    assert rule.count("**holds**") == rule.count("**does not hold**") == 1
    assert not re.search(r"\*\*(holds|does not hold|cannot tell)\*\*", rest)


def test_commands_name_specs_that_are_there(rows: list[Row]) -> None:
    for row in rows:
        for name in re.findall(r"paper/full/[\w-]+", row.would_tell):
            assert name in shipped_specs()
            assert re.search(r"training FLOPs, .* of an H100\)$", row.would_tell)
    assert sum("paper/full/" in row.would_tell for row in rows) > 20
