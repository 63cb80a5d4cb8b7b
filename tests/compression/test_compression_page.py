"""The page on compression shows the figures of the benchmark, and the benchmark does what the page says."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compression import table

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ROOT / "benchmarks/results/compression.json").read_text(encoding="utf-8"))
    return document


def _loss(found: dict[str, Any], family: str, method: str, share: str = "") -> float:
    (row,) = (row for row in found["rows"] if (row["family"], row["method"], row["share"]) == (family, method, share))
    return statistics.fmean(row["losses"])


def test_the_table_is_that_of_the_results(found: dict[str, Any]) -> None:
    page = (ROOT / "docs/guide/compress.md").read_text(encoding="utf-8")
    assert table(found) in page
    prose = " ".join(page.split())
    assert f"dense model loses {found['dense']:.3f}" in prose
    assert f"{found['memory']['ratio']:.2f} times the memory of the model" in prose


@pytest.mark.parametrize("family", ["monarch", "btt:r=2", "block-shuffle:blocks=4"])
def test_data_serve_every_family(found: dict[str, Any], family: str) -> None:
    assert _loss(found, family, "compress") < _loss(found, family, "plain") - 0.1


@pytest.mark.parametrize("share", ["keep 0.5", "keep 0.25"])
def test_a_budget_beats_equal_shares_and_these_beat_other_methods(found: dict[str, Any], share: str) -> None:
    losses = [_loss(found, "low-rank", method, share) for method in ("budget", "compress", "svd-llm", "asvd", "plain")]
    assert losses == sorted(losses)
