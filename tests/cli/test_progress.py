"""Progress of a study while it runs."""

from __future__ import annotations

import io
import re

from rich.console import Console

from einsearch_cli.cli.progress import StudyProgress, TrainProgress
from einsearch_cli.search.equal_networks import EqualNetworks
from einsearch_cli.search.estimate import StageEstimate, StudyEstimate
from einsearch_cli.search.job import TrialFinished, TrialProgress
from einsearch_cli.search.plan import PlannedStage
from einsearch_cli.search.stages import StageStarted
from einsearch_cli.structures import RoutingStatistics, parse_layer
from einsearch_cli.training.full import StepMetrics
from einsearch_cli.training.proxy.trial import Trial, TrialResult

TRIAL = Trial(parse_layer("btt-moe:experts=2,top=1"), 32, 0, 0, 1e9)
ROUTING = tuple(
    RoutingStatistics(f"blocks.0.{name}", load, token_entropy=0.25, aggregate_entropy=0.65, dropped=0)
    for name, load in (("query", (0.5, 0.5)), ("key", (0.9, 0.1)))
)


def shown(is_terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=is_terminal, width=200)
    result = TrialResult(TRIAL, "ok", 1.25, 10, 1e9, 1e9, 7, 2.0, (), routing=ROUTING)
    seeds = StageEstimate(PlannedStage("seeds", 0, 1e9, 1, 1.0), 60.0)
    ablation = StageEstimate(PlannedStage("without balance loss", 0, 1e9, 1, 1.0), 0.0)
    estimate = StudyEstimate((seeds, ablation), EqualNetworks(lambda *place: place), (), start_up_s=15.0)
    with StudyProgress(console, estimate, workers=2) as progress:
        progress(StageStarted("seeds", 0, 1, 1e9, (TRIAL.structure,), 1, 0))
        progress._bars.refresh()
        progress(TrialProgress(0, TRIAL, 3, 7, 2.5, ROUTING))
        progress._bars.refresh()
        progress(TrialFinished(0, result))
        progress(StageStarted("seeds", 0, 1, 1e9, (TRIAL.structure,), 2, 1))
        progress(StageStarted("without balance loss", 0, 1, 1e9, (TRIAL.structure,), 1, 0))
    return file.getvalue()


def test_on_a_terminal_a_run_shows_its_least_used_expert_while_it_trains() -> None:
    text = shown(is_terminal=True)
    note = "training loss 2.5  least load 0.20 in blocks.0.key  entropy 0.25 of 0.65  0 dropped"
    assert note in text
    assert "btt-moe:experts=2,top=1, width 32, seed 0" in text


def test_until_a_worker_trains_the_note_says_that_they_start_and_counts_it() -> None:
    notes = re.findall(r"((?:starting 2 workers, )?about [0-9a-z ]+ left)", shown(is_terminal=True))
    assert notes[0] == "starting 2 workers, about 1 min 15 s left"
    assert "about 1 min 0 s left" in notes


def test_elsewhere_there_is_a_line_for_every_stage_and_run() -> None:
    first, second, third = shown(is_terminal=False).splitlines()
    assert first == "rung 1/1, seeds: 1 candidates, 1e+09 FLOPs a run"
    assert second.startswith("  btt-moe:experts=2,top=1, width 32, seed 0  loss 1.25  least load 0.20 in blocks.0.key")
    assert third == "rung 1/1, without balance loss: 1 candidates, 1e+09 FLOPs a run"


def test_a_validation_of_a_network_with_experts_shows_the_least_used_one() -> None:
    file = io.StringIO()
    metrics = StepMetrics(
        step=4,
        tokens=64,
        flops=1,
        total_flops=2,
        loss=5.5,
        learning_rate=1e-3,
        gradient_norm=1.0,
        tokens_per_s=100.0,
        guide_weight=0.0,
        validation_loss=5.25,
        smallest_load=0.4,
    )
    with TrainProgress(Console(file=file, width=200), "moe") as progress:
        progress.on_step(metrics, 8)
    assert file.getvalue() == "moe: step 4 of 8   loss 5.5000   held-out 5.2500   least load 0.40   100 tokens/s\n"
