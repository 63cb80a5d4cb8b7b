"""Statements of the README on demo, layer and speed are true; tests/docs/test_pages.py runs its blocks."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from einsearch_cli.cli.output import table
from einsearch_cli.reports import ranking_table
from einsearch_cli.reports.stored import read_study
from tests.docs.pages import blocks, pattern_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_shows_all_three_commands() -> None:
    shown = "".join(block.text for block in blocks(README) if block.kind == "console" and not block.note)
    assert set(re.findall(r"^\$ einsearch (\w+)", shown, re.M)) >= {"enumerate", "classify", "rank"}


def test_the_test_command_is_on_the_first_screen() -> None:
    assert "$ make test" in README[:1500]


def test_the_layer_of_the_readme_is_a_drop_in_and_its_swap_spares_the_decoder() -> None:
    """The statements around the block are checked."""
    import torch

    (code,) = (block.text for block in blocks(README) if block.kind == "python")
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102
    layer, model = names["layer"], names["model"]
    assert isinstance(layer, torch.nn.Module)
    assert layer(torch.randn(3, 1024)).shape == (3, 4096)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    assert "EinsumLinear" in {kind for name, kind in kinds.items() if "decoder" not in name}
    assert "EinsumLinear" not in {kind for name, kind in kinds.items() if "decoder" in name}


def test_the_ranking_shown_is_that_of_the_stored_study() -> None:
    """The table, without its last columns, from the runs in examples/demo/results.json."""
    shown = ranking_table(read_study(ROOT / "examples" / "demo"))
    rows = table([dict(zip(shown.headers, row, strict=True)) for row in shown.rows])
    (block,) = (block.text for block in blocks(README) if block.note.startswith("checked by"))
    assert pattern_of(block).fullmatch(rows + "\n" * (not rows.endswith("\n")))
    assert len(block.splitlines()) == len(shown.rows) + 2


def test_the_two_gains_of_the_winner_are_explained_where_the_table_is() -> None:
    """The table has the gain from the seeds that chose the winner, the beginning that from new seeds."""
    section = " ".join(README.partition("## What the demo shows")[2].partition("\n## ")[0].split())
    winner = read_study(ROOT / "examples" / "demo").ranking.entries[0]
    assert winner.compute_gain is not None
    assert f"At a compute gain of {winner.compute_gain:.2f}× dense needs" in section
    said = "This gain is from the seeds that chose the winner, the {:.2f} above from new seeds."
    assert said.format(winner.confirmed_gain) in section


def test_the_figures_in_the_text_are_those_of_the_files() -> None:
    text = " ".join(README.split())
    ranking = json.loads((ROOT / "examples/demo/results.json").read_text(encoding="utf-8"))["ranking"]
    (monarch,) = (entry for entry in ranking if entry["family"] == "monarch")
    gain, low, high = (monarch[key] for key in ("confirmed_gain", "confirmed_gain_low", "confirmed_gain_high"))
    assert f"dense needs {gain:.2f} times the FLOPs of Monarch for the same loss in the demo (95% interval" in text
    assert f"(95% interval {low:.2f} to {high:.2f}, new seeds)" in text
    layers = json.loads((ROOT / "benchmarks/results/layers.json").read_text(encoding="utf-8"))["measurements"]
    wanted = {"name": "monarch", "mode": "training", "width": 4096, "tokens": 4096}
    (speedup,) = (each["speedup"] for each in layers if wanted.items() <= each.items())
    assert f"a Monarch layer of width 4096 is {speedup:.1f} times as fast as `nn.Linear` on one CPU core" in text


def test_the_findings_on_claims_are_those_of_the_rows() -> None:
    rows = json.loads((ROOT / "benchmarks/results/claims.json").read_text(encoding="utf-8"))["rows"]
    mine = [row["verdict"] for row in rows if row["kind"] == "claim"]
    numbers = [len(mine), *(mine.count(verdict) for verdict in ("holds", "does not hold", "cannot tell"))]
    text = " ".join(README.split())
    said = "Of {} measurements of papers' claims, {} hold here, {} do not, and {} are open."
    assert said.format(*numbers) in text, "run python -m benchmarks.claims"
    (omega,) = (row for row in rows if row["key"] == "omega-teacher-small")
    assert omega["verdict"] == "holds"
    cost = "{:.0%} ({:.0%} to {:.0%})".format(*(math.expm1(omega[end]) for end in ("value", "low", "high")))
    assert f"In `taxonomy-teacher-small` the loss rises by {cost} for one unit of [ω]" in text
    assert "of the other studies, 2 say 'cannot tell'. " in text


def test_files_in_specs_are_valid() -> None:
    from einsearch_cli.search.spec import load_study_spec
    from einsearch_cli.training.full import load_train_specs

    paths = sorted((ROOT / "specs").rglob("*.yaml"))
    assert len(paths) > 10
    for path in paths:
        text = path.read_text()
        if "steps:" in text or "tokens:" in text:
            _, specs = load_train_specs(path)
            assert all(spec.config(vocabulary=512).layers for spec in specs)
        else:
            assert len(load_study_spec(path).candidates(path.parent)) >= 2
