"""Workers are killed, asked to end, and run code that hangs, prints, dies or computes no numbers."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from einsearch_cli.search.job import Job, JobEvent, TrialFinished, TrialSetup, run_pack
from einsearch_cli.structures import parse_structure
from einsearch_cli.training.proxy.trial import Trial, TrialResult
from tests.faults.driving import UNRULY, Driven, is_training, send, workers_of

DYING = Path(__file__).with_name("dying_saves.py")


def test_a_worker_that_is_killed_in_a_step_loses_no_run(tmp_path: Path, undisturbed: Driven) -> None:
    study = Driven(tmp_path / "study")
    process = study.start()
    study.wait_for(process, is_training)
    for worker in workers_of(process.pid):
        send(worker, signal.SIGKILL)
    assert process.wait(timeout=200) == 0, study.said
    assert (
        "the worker process died with exit code -9 (killed; perhaps out of memory); tried again (1 of 2)" in study.said
    )
    study.assert_every_run_once()
    assert study.ranking() == undisturbed.ranking()
    assert study.status is not None
    assert study.status.runs.tried_again >= 1


def test_a_worker_that_is_killed_in_a_checkpoint_loses_no_run(tmp_path: Path, undisturbed: Driven) -> None:
    study = Driven(tmp_path / "study", plugins=(UNRULY, DYING))
    said = study.run("--checkpoint-every", "0.05s")
    assert "tried again (1 of 2)" in said
    assert "damaged" not in said, "what was half-written is no checkpoint"
    study.assert_every_run_once()
    assert study.losses() == undisturbed.losses()
    assert not list((study.folder / "checkpoints").glob("*"))


def test_a_worker_that_is_asked_to_end_saves_and_uses_up_no_try(tmp_path: Path, undisturbed: Driven) -> None:
    study = Driven(tmp_path / "study")
    process = study.start()
    study.wait_for(process, is_training)
    for worker in workers_of(process.pid):
        send(worker, signal.SIGTERM)
    assert process.wait(timeout=200) == 0, study.said
    assert "tried again" not in study.said
    study.assert_every_run_once()
    assert study.losses() == undisturbed.losses()


def test_a_run_that_dies_every_time_fails_alone_and_its_last_words_are_shown(tmp_path: Path) -> None:
    study = Driven(tmp_path / "study", {"task_settings": {"act": "die", "unruly_width": 32}, "seeds": 1})
    said = study.run(code=3)
    assert said.count("tried again (1 of 2)") == said.count("tried again (2 of 2)") == 2
    assert "3 workers died with this run in hand; see logs/run-" in said
    assert "    | dying\n" in said
    logs = list((study.folder / "logs").iterdir())
    assert len(logs) == 6
    assert {log.read_text() for log in logs} == {"dying\n"}
    study.assert_every_run_once(runs=2)


def test_a_run_that_prints_a_gigabyte_fills_no_disk(tmp_path: Path) -> None:
    study = Driven(tmp_path / "study", {"task_settings": {"act": "print_much", "unruly_width": 32}, "seeds": 1})
    said = study.run("--workers", "1", code=3)
    assert "    | ValueError: no more to say" in said
    sizes = [path.stat().st_size for path in study.folder.rglob("*")]
    assert sum(sizes) < 3_000_000
    [log, _] = sorted((study.folder / "logs").iterdir())
    text = log.read_text()
    assert text.startswith("the first words")
    assert "bytes left out" in text
    assert "the last words" in text


@pytest.mark.usefixtures("one_thread", "registers")
def test_losses_that_are_not_numbers_end_only_their_own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of a pack has a NaN at step 5, another an infinity at the first step."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    small = {"teacher_width": 16, "pool_size": 2048, "validation_size": 128, "batch_size": 64}
    jobs = [Job(n, Trial(parse_structure("monarch"), 16, n, 0, 2e7)) for n in range(4)]

    def results(act: str, chosen: list[Job]) -> dict[int, TrialResult]:
        found: dict[int, TrialResult] = {}

        def note(event: JobEvent) -> None:
            if isinstance(event, TrialFinished):
                found[event.number] = replace(event.result, elapsed_s=0.0)

        run_pack(chosen, TrialSetup("unruly", small | {"act": act}, pack=4, plugins=(str(UNRULY),)), note)
        return found

    poisoned = results("poison", jobs)
    assert [poisoned[n].status for n in range(4)] == ["ok", "diverged", "diverged", "ok"]
    assert "at step 5" in str(poisoned[1].error)
    assert "at step 1" in str(poisoned[2].error)
    healthy = results("behave", [jobs[0], jobs[3]])
    assert {n: poisoned[n] for n in (0, 3)} == healthy


def test_the_events_of_a_disturbed_study_keep_their_schema(tmp_path: Path) -> None:
    import jsonschema

    study = Driven(
        tmp_path / "study", {"task_settings": {"act": "die_once", "folder": str(tmp_path), "unruly_width": 32}}
    )
    study.run()
    schema = json.loads((Path(__file__).parents[2] / "docs/reference/schemas/events.schema.json").read_text())
    told = [json.loads(line) for line in (study.folder / "events.jsonl").read_text().splitlines()]
    for event in told:
        jsonschema.validate(event, schema)
    names = [event["event"] for event in told]
    assert names.count("run_started") == names.count("run_finished") + names.count("run_tried_again")
    assert names.count("run_tried_again") >= 1
    assert (names[0], names[-1]) == ("study_started", "study_ended")
    study.assert_every_run_once()
