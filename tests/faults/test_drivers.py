"""The process of a study is killed, refused, out of disk space, or has a jumping clock."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from einsearch_cli.search.owner import OWNER
from einsearch_cli.training.sealed import sealed_in
from tests.faults.driving import Driven, is_training, kill, send

CLOCK = Path(__file__).with_name("jumping_clock.py")


def test_kill_9_a_move_and_the_same_command_give_the_undisturbed_ranking(tmp_path: Path, undisturbed: Driven) -> None:
    study = Driven(tmp_path / "study")
    for ended in (2, 5):
        process = study.start()
        study.wait_for(process, lambda status, ended=ended: status.runs.ended >= ended)  # type: ignore[misc]
        kill(process)
        assert json.loads((study.folder / OWNER).read_text())["pid"] == process.pid, "a lock that nobody holds"
        assert study.status is not None
        assert study.status.state == "killed"
        study.move(tmp_path / f"moved-{ended}")
    study.run()
    study.assert_every_run_once()
    assert study.ranking() == undisturbed.ranking()
    assert not list((study.folder / "checkpoints").glob("*"))


def test_a_second_process_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    study = Driven(tmp_path / "study")
    process = study.start()
    study.wait_for(process, is_training)
    assert f"is in use by process {process.pid} on " in study.run(code=2)
    assert process.wait(timeout=200) == 0
    study.assert_every_run_once()


def test_runs_go_on_from_their_checkpoints_and_damaged_ones_are_reported(tmp_path: Path, undisturbed: Driven) -> None:
    study = Driven(tmp_path / "study")
    for damage in ("none", "flipped", "truncated", "empty"):
        process = study.start("--checkpoint-every", "0.1s", "--workers", "1")
        study.wait_for(process, lambda status: is_training(status) and bool(saved(study)))
        kill(process)
        for path in saved(study):
            hurt(path / "state.safetensors", damage)
    said = study.run("--checkpoint-every", "1h")
    study.assert_every_run_once()
    assert study.losses() == undisturbed.losses(), "equal to the last bit"
    assert (
        said.count("is damaged: state.safetensors is not what was written (SHA-256 differs); the run begins again") >= 3
    )


def saved(study: Driven) -> list[Path]:
    return [path for folder in (study.folder / "checkpoints").glob("*") for path in sealed_in(folder)]


def hurt(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    if damage == "flipped" and data:  # not one that was emptied before
        data[len(data) // 2] ^= 1
    path.write_bytes({"none": data, "truncated": data[:-10], "empty": b"", "flipped": data}[damage])


def test_ctrl_c_saves_what_runs(tmp_path: Path, undisturbed: Driven) -> None:
    study = Driven(tmp_path / "study")
    process = study.start()
    study.wait_for(process, is_training)
    send(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert saved(study), "without any interval that is over"
    study.run()
    study.assert_every_run_once()
    assert study.losses() == undisturbed.losses()


def test_a_disk_that_fills_loses_nothing(disk: Path, undisturbed: Driven) -> None:
    study = Driven(disk / "study")
    process = study.start()
    study.wait_for(process, lambda status: status.runs.ended >= 2)
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(1024))
    code = process.wait(timeout=200)
    (disk / "filler").unlink()
    assert code == 2, study.said
    assert "make room and run the same command again" in study.said
    study.run("--checkpoint-every", "0.2s")
    study.assert_every_run_once()
    assert study.losses() == undisturbed.losses()


def test_a_folder_that_cannot_be_written_is_named(disk: Path) -> None:
    study = Driven(disk / "study")
    (disk / "study").mkdir()
    remount = ["mount", "-o", "remount,ro", str(disk)]
    subprocess.run(remount, check=True)
    study.errors = disk.parent / "study.err"
    assert "cannot write to the study folder" in study.run(code=2)
    subprocess.run([*remount[:2], "remount,rw", str(disk)], check=True)
    study.run()
    study.assert_every_run_once()


def test_a_clock_that_jumps_by_hours_changes_nothing(tmp_path: Path, undisturbed: Driven) -> None:
    study = Driven(tmp_path / "study", plugins=(*undisturbed.plugins, CLOCK))
    said = study.run("--run-timeout", "10m", "--checkpoint-every", "10m")
    study.assert_every_run_once()
    assert study.losses() == undisturbed.losses()
    assert "took longer" not in said
    assert not (study.folder / "checkpoints").exists(), "no interval was over"
    times = [json.loads(line)["time"] for line in (study.folder / "events.jsonl").read_text().splitlines()]
    assert times != sorted(times), "the clock has jumped"
