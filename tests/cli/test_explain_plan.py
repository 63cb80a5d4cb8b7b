"""`classify --explain-plan` says what the planner does."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from einsearch_cli.layers.plans import machine_profile
from einsearch_cli.layers.plans.machine_profile import DEFAULT_CPU
from einsearch_cli.layers.plans.planner import Use, best_route, predicted_ns, routes
from einsearch_cli.structures import parse_structure


def share_said(einsearch) -> float:
    """The share of the dense matrix's time below which another route is taken, as the card states it."""
    outcome = einsearch("classify", "monarch", "--d-in", 256, "--tokens", 16, "--explain-plan")
    assert outcome.code == 0
    (percent,) = re.findall(r"left only for routes predicted to take less than (\d+)% of its time", outcome.out)
    return int(percent) / 100


def test_the_margin_of_the_dense_matrix_is_the_planners(einsearch, monkeypatch: pytest.MonkeyPatch) -> None:
    assert share_said(einsearch) == DEFAULT_CPU.dense_margin
    other = replace(DEFAULT_CPU, dense_margin=0.35)
    monkeypatch.setattr(machine_profile, "profile_for", lambda *_: other)
    assert share_said(einsearch) == 0.35


def test_the_planner_leaves_the_dense_matrix_only_below_that_share(einsearch) -> None:
    share = share_said(einsearch)
    seen = set()
    for text in ("monarch", "btt:r=2", "block-shuffle:blocks=4", "low-rank", "tt:r=4"):
        for width in (64, 128, 256, 512):
            sized = parse_structure(text).at(width, width)
            for tokens in (1, 4, 16, 64, 256):
                times = {r: predicted_ns(sized, r, tokens, DEFAULT_CPU, Use.merged) for r in routes(sized)}
                dense_ns = next(ns for route, ns in times.items() if route.is_dense)
                fastest = min(times.values()) / dense_ns
                is_left = not best_route(sized, tokens, DEFAULT_CPU, Use.merged).is_dense
                assert is_left == (fastest < share), (text, width, tokens)
                seen.add((is_left, share - 0.2 < fastest < share + 0.2))
    assert seen >= {(True, True), (False, True)}, "cases near the share are needed to see it"
