"""The studies of the papers at published sizes: each is planned without its data, and costs what its first lines say."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from einsearch_cli.models.transformer import accelerator
from einsearch_cli.models.transformer.accounting import transformer_count
from einsearch_cli.models.transformer.resources import UTILISATION
from einsearch_cli.search.budgets import check_budgets
from einsearch_cli.search.equal_networks import EqualNetworks
from einsearch_cli.search.plan import planned_stages
from einsearch_cli.search.spec import load_study_spec
from einsearch_cli.shipped import Kind, shipped_specs
from einsearch_cli.tasks.pixels import PixelTask
from einsearch_cli.tasks.text import TextTask
from einsearch_cli.training.full import TrainSpec, load_train_specs, plan_run, with_controls

ROOT = Path(__file__).parents[1]
PAPERS = ROOT / "specs" / "paper"
PAGE = (ROOT / "docs" / "guide" / "papers.md").read_text(encoding="utf-8")
FULL = {name: kind for name, kind in shipped_specs().items() if name.startswith("paper/full/")}

planned = cache(plan_run)  # the same for a guided run and for the lengths of its controls


def said(name: str, pattern: str) -> str:
    """The part of the comment at the head of a file that matches."""
    lines = (ROOT / "specs" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = [line.removeprefix("# ") for line in lines[:5] if line.startswith("#")]
    found = re.search(pattern, " ".join(comment))
    assert found is not None, comment
    return found[1].replace(",", "")


def check_cost(name: str, flops: float) -> None:
    written = said(name, r"Cost: ([\d.e]+) training FLOPs")
    assert flops == pytest.approx(float(written), rel=0.03)
    hours = said(name, r"([\d,]+|an) hours? of an H100 at 40%")
    per_hour = UTILISATION * accelerator("h100").peak_flops("bfloat16") * 3600
    assert float(1 if hours == "an" else hours) == pytest.approx(flops / per_hour, rel=0.15)
    assert f"| `{name}` | {written} |" in PAGE


def total_flops(run: TrainSpec) -> float:
    """Training FLOPs of a run, head included: by its plan if it has guides, else by arithmetic, which is faster."""
    if run.guidance is not None:
        return planned(run, 50_257).total_flops
    return transformer_count(run.config(50_257)).training.total * run.tokens_per_step * run.base_steps


def test_every_study_of_the_papers_has_a_full_size_a_twin_and_a_line_in_the_guide() -> None:
    assert {name.rpartition("/")[2] for name in FULL} == {
        "taxonomy-teacher", "taxonomy-text", "taxonomy-pixels", "experts", "ffn", "guided", "wide", "overtraining",
    }  # fmt: skip
    for name in FULL:
        twin = name.replace("/full", "")
        assert FULL[name] == shipped_specs()[twin]
        assert f"| `{'train' if FULL[name] is Kind.training else 'rank'}` | `{twin}` | `{name}` |" in PAGE
        assert said(name, r"(?:Potapczynski|Wei) et al. 2024 \((arXiv [\d.]+)\), section on")
    assert "python -m benchmarks.rate_transfer" in PAGE


@pytest.mark.parametrize("name", [name for name, kind in FULL.items() if kind is Kind.study])
def test_a_full_study_is_planned_and_costs_what_it_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TextTask, "vocabulary", 256)
    monkeypatch.setattr(PixelTask, "context", 192)
    monkeypatch.setattr("einsearch_cli.training.proxy.cost.machine_bytes", lambda: 80e9)
    path = ROOT / "specs" / f"{name}.yaml"
    spec = load_study_spec(path)
    candidates = spec.candidates(path.parent)
    check_budgets(spec, candidates, spec.open_task())
    assert said(name, rf"einsearch rank {name} .*(--engine slurm --workers \d+ --device cuda)")
    check_cost(name, sum(stage.train_flops for stage in planned_stages(spec, candidates)))
    assert set(candidates) == set(load_study_spec(PAPERS / path.name).candidates(PAPERS))


def test_at_the_widths_for_regression_all_structures_are_different_networks() -> None:
    path = PAPERS / "full" / "taxonomy-teacher.yaml"
    spec = load_study_spec(path)
    assert EqualNetworks.of_task(spec.open_task()).groups(spec.candidates(path.parent), spec.widths or ()) == []


@pytest.mark.parametrize("name", [name for name, kind in FULL.items() if kind is Kind.training])
def test_full_training_runs_are_planned_and_cost_what_they_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    title, specs = load_train_specs(ROOT / "specs" / f"{name}.yaml")
    monkeypatch.setattr("einsearch_cli.training.full.controls.plan_run", planned)
    runs = with_controls(specs, lambda _: 50_257)
    check_cost(name, sum(map(total_flops, runs)))
    assert said(name, rf"torchrun --nproc-per-node (8) -m einsearch_cli train {name} --out runs/{title}")
    for run in runs:
        assert run.batch % (8 * run.accumulation) == 0, "eight processes share the rows of a step"
        assert run.config(50_257).first_ffn_dense
        assert run.config(50_257).context == 1024
    _, twins = load_train_specs(PAPERS / f"{name.rpartition('/')[2]}.yaml")

    def kinds(names: list[str]) -> set[str]:
        return {re.sub(r"-(24|36|48|72|s|m|l|xl)$", "", run) for run in names}

    assert kinds([run.name for run in specs]) == kinds([run.name for run in twins])
