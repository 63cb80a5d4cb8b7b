"""The course of a study, with an engine that only pretends to train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from einsearch_cli.search.engines import Engine
from einsearch_cli.search.equal_networks import EqualNetworks
from einsearch_cli.search.job import Job, TrialFinished, TrialProgress, TrialSetup
from einsearch_cli.search.spec import StudySpec
from einsearch_cli.search.store import StudyStore
from einsearch_cli.search.study import RungStarted, StudyEvent, fingerprint, run_study
from einsearch_cli.training.proxy.trial import Trial, TrialResult

SPEC = StudySpec.model_validate(
    {
        "structures": ["monarch", "btt-moe:experts=4,top=2", "low-rank-moe:r=4,experts=4,top=2"],
        "widths": [16, 32],
        "seeds": 2,
        "halving": {"rungs": 2, "keep": 1},
        "ablate_balance": True,
    }
)
BEST_WIDTH = {"btt-moe": 32, "low-rank-moe": 16}


class Pretending(Engine):
    """Width decides the loss; the trials it was given are in `ran`."""

    def __init__(self) -> None:
        super().__init__(TrialSetup("teacher"))
        self.ran: list[Trial] = []

    def stop(self) -> None:
        """Nothing runs."""

    def run(
        self, next_job: Callable[[], Job | None], on_event: Callable[[TrialProgress | TrialFinished], None]
    ) -> None:
        while (job := next_job()) is not None:
            trial = job.trial
            self.ran.append(trial)
            is_best = trial.width == BEST_WIDTH.get(getattr(trial.structure, "family", ""), 16)
            loss = 1.0 + (not is_best) + 0.1 * trial.seed
            on_event(TrialFinished(job.number, TrialResult(trial, "ok", loss, 1, 1e9, 1e9, 10, 0.1, ())))


def study(folder: Path, spec: StudySpec) -> tuple[list[Trial], list[TrialResult], list[RungStarted]]:
    candidates, engine, stages = spec.candidates(), Pretending(), []

    def on_event(event: StudyEvent) -> None:
        if isinstance(event, RungStarted):
            stages.append(event)

    networks = EqualNetworks.among(spec.open_task(), candidates, spec.widths)
    with StudyStore(folder, fingerprint(spec, candidates, spec.open_task()), candidates) as store:
        results = run_study(spec, candidates, networks, store, engine, on_event)
    return engine.ran, results, stages


def test_the_ablation_repeats_the_run_that_stands_for_each_mixture_once(tmp_path: Path) -> None:
    ran, results, stages = study(tmp_path, SPEC)
    assert len(ran) == len(results) == 2 * 4 * 2 * 2 + 2
    ablations = [result.trial for result in results if not result.trial.balanced]
    assert ran[-2:] == ablations
    assert {(trial.structure.family, trial.width, trial.seed, trial.rung) for trial in ablations} == {
        ("btt-moe", 32, 0, 1),
        ("low-rank-moe", 16, 0, 1),
    }
    assert [(stage.rung, stage.is_ablation, stage.trials) for stage in stages] == [
        (0, False, 16),
        (1, False, 16),
        (1, True, 2),
    ]
    again, same, _ = study(tmp_path, SPEC)
    assert again == []
    assert same == results


def test_an_ablation_can_be_asked_for_later(tmp_path: Path) -> None:
    plain = SPEC.model_copy(update={"ablate_balance": False})
    assert all(trial.balanced for trial in study(tmp_path, plain)[0])
    ran, _, _ = study(tmp_path, SPEC)
    assert [trial.balanced for trial in ran] == [False, False]
