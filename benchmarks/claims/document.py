"""All rows, and the content of claims.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.claims.experts import expert_rows
from benchmarks.claims.exponents import EXPONENT_MARGIN, NU_MARGIN, TAXONOMY, exponent_rows, rung_table
from benchmarks.claims.feed_forward import overtraining_rows, steeper_rows
from benchmarks.claims.networks import guided_rows, wide_rows
from benchmarks.claims.rates import rate_rows
from benchmarks.claims.rows import Row, finished
from benchmarks.claims.speeds import merged_rows, speed_rows
from benchmarks.claims.studies import Store


def all_rows(store: Store) -> tuple[list[Row], list[dict[str, Any]]]:
    """Rows of all claims and questions, and the table of what exponents say rung by rung."""
    drafts = [
        *(draft for task in TAXONOMY for draft in exponent_rows(store, task)),
        *expert_rows(store),
        *steeper_rows(store),
        *overtraining_rows(store),
        *wide_rows(store),
        *guided_rows(store),
        *rate_rows(store),
        *speed_rows(store),
        *merged_rows(store),
    ]
    return finished(drafts), [row for task in TAXONOMY for row in rung_table(store, task)]


def document_of(rows: Sequence[Row], rungs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of claims.json."""
    return {
        "margins": {"ν": NU_MARGIN, "exponents": EXPONENT_MARGIN},
        "rows": [asdict(row) for row in rows],
        "exponents": list(rungs),
    }
