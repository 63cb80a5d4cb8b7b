"""The page on claims says what the committed studies say."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

from benchmarks.claims.page import TOPICS, blocks, filled, of_topic, page_of, studies_table, title
from benchmarks.claims.rows import Row, all_rows, document_of
from benchmarks.claims.studies import ROOT, Store

STORED = ROOT / "benchmarks/results/claims.json"


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(STORED.read_text("utf-8"))
    return document


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


def test_the_stored_rows_are_those_of_the_committed_studies(stored: dict[str, Any]) -> None:
    made = json.loads(json.dumps(document_of(*all_rows(Store()))))
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
        correlations = [f"{found['spearman']:+.2f}".replace("-", "−") for found in rungs]
        assert "| " + " | ".join([exponent, *correlations, f"{rungs[-1]['p']:.2g}"]) + " |" in page
    verdicts = {row.key.removesuffix("-teacher-small"): row.verdict for row in rows if "-teacher-small" in row.key}
    for key, claim in (
        ("omega", "A smaller ω gives a lower loss"),
        ("psi", "A larger ψ gives a lower loss"),
        ("nu", "ν hardly matters at ω = 0 and ψ = 1"),
        ("nu-trend", "What ν costs fades with compute"),
    ):
        assert f"- **{claim}: {verdicts[key]}" in page


def test_the_table_of_studies_is_that_of_the_files() -> None:
    readme = (ROOT / "examples/reproduction/README.md").read_text("utf-8")
    assert filled(readme, {"studies": studies_table(Store())}) == readme, "run python -m benchmarks.claims"


def test_every_claim_has_a_row_and_every_row_an_interval(rows: list[Row]) -> None:
    assert all(of_topic(rows, topic) for topic in TOPICS)
    assert sorted(row.key for topic in TOPICS for row in of_topic(rows, topic)) == sorted(row.key for row in rows)
    for row in rows:
        assert math.isfinite(row.high - row.low)
        assert row.low <= row.value <= row.high
        assert all((row.scale, row.would_tell, row.control, row.source))


def test_titles_tell_rows_of_one_claim_apart(rows: list[Row]) -> None:
    titles = [title(row) for row in rows]
    assert len(set(titles)) == len(titles)
    assert "BTT experts in every layer beat dense; study `moe`, 5·10¹⁰ FLOPs a run" in titles
    eager = [text for text in titles if "(H200)" in text]
    assert len(eager) == 2
    assert all(text.endswith("one eager forward pass") for text in eager)


def test_a_study_that_is_called_like_the_end_of_a_key_stays_in_its_section(rows: list[Row]) -> None:
    claims = {topic: {row.claim for row in of_topic(rows, topic)} for topic in ("experts", "kinds")}
    assert "BTT experts in every layer beat dense" in claims["experts"] - claims["kinds"]
    assert "BTT experts beat dense experts" in claims["kinds"] - claims["experts"]


def test_no_verdict_is_typed() -> None:
    page = re.sub(r"<!-- begin (\w+) -->.*?<!-- end \1 -->", "", page_of(ROOT).read_text("utf-8"), flags=re.DOTALL)
    rule, _, rest = page.partition("## All claims")
    assert rule.count("**cannot tell**") == 3
    assert rule.count("**holds**") == rule.count("**does not hold**") == 1
    assert not re.search(r"\*\*(holds|does not hold|cannot tell)\*\*", rest)


def test_commands_name_specs_that_are_there(rows: list[Row]) -> None:
    for row in rows:
        for name in re.findall(r"specs/paper/[\w-]+\.yaml", row.would_tell):
            assert (ROOT / name).is_file()
