from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from einsearch_cli.cli.study_input import overrides_of, read_study
from einsearch_cli.search.store import StudyStore
from tests.faults.driving import finished_runs

STUDY = """
task: teacher
task_settings: {teacher_width: 16, pool_size: 4096, validation_size: 256, batch_size: 64}
structures: [monarch, kronecker, low-rank]
widths: [16, 32]
seeds: 2
budget_flops: 1e8
halving: {rungs: 2, factor: 4}
rates: fixed
confirm: 0
"""
SHORT = STUDY.replace(", kronecker, low-rank", "").replace("[16, 32]", "[16]").replace("seeds: 2", "seeds: 1")
"""A study of two rungs with one candidate, for tests of what surrounds the runs."""
LITTLE_DATA = "task_settings: {pool_size: 4096, validation_size: 256}\n"
"""The default task, but without the time that it takes to draw its data."""


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


TUNED = """
task: teacher
task_settings: {teacher_width: 16, pool_size: 2048, validation_size: 128, batch_size: 256}
optimizer: {validations: 1}
structures: [btt:r=2]
seeds: 2
most_seeds: 3
coordinates: true
budget_flops: 2e7
halving: {rungs: 2, factor: 4}
"""


def write_study(folder: Path, text: str = STUDY) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_study_from_start_to_report(einsearch, tmp_path: Path) -> None:
    study, out = write_study(tmp_path), tmp_path / "out"
    found = einsearch("rank", study, "--out", out)
    assert found.code == 0, found.err
    assert "28 runs" in found.err, "the estimate comes first"
    document = json.loads((out / "results.json").read_text())
    assert (document["task"], document["budget_flops"]) == ("teacher", 1e8)
    assert len(document["results"]) == 28
    fields = {"structure", "family", "omega", "psi", "nu", "width", "params", "train_flops", "seed", "loss", "status"}
    assert all(fields <= set(result) for result in document["results"])
    last_rung = [r for r in document["results"] if r["rung"] == 1]
    assert all(0.9e8 < r["train_flops"] <= 1e8 for r in last_rung), "equal training FLOPs for all"
    assert {r["family"] for r in last_rung} > {"dense"}, "the yardstick is always trained to the end"
    assert len(document["ranking"]) == 4
    assert all({"loss", "loss_low", "loss_high", "compute_gain", "rank"} <= set(entry) for entry in document["ranking"])
    assert "<svg" in (out / "report.html").read_text()
    assert "monarch" in found.out


def test_a_study_with_tuned_rates_searched_widths_controls_and_confirmation(einsearch, tmp_path: Path) -> None:
    study, out = write_study(tmp_path, TUNED), tmp_path / "out"
    found = einsearch("rank", study, "--out", out)
    assert found.code == 0, found.err
    said = " ".join(found.err.split())
    assert "controls: monarch" in said
    assert re.search(r"\d+ runs look for learning rates \(\d+% more than without\)", said)
    for stage in ("rung 1/2, rates", "rung 1/2, widths", "rung 2/2, rate check", "rung 2/2, seeds", "confirmation"):
        assert f"{stage}: " in said
    document = json.loads((out / "results.json").read_text())
    families = {"dense", "btt", "monarch"}
    assert {run["family"] for run in document["results"]} == families
    assert [control["of"] for control in document["controls"]] == [["XA^1/2 XAB^1/2 YB^1/2 YAB^1/2 AB=2"]]
    assert len(document["rates"]) == 3
    for tuned in document["rates"]:
        mine = [run for run in document["results"] if run["structure"] == tuned["structure"] and run["rung"] == 0]
        assert all(run["learning_rate"] == pytest.approx(tuned["base"] * tuned["rate"]) for run in mine)
        assert len({run["width"] for run in mine}) >= 3
        assert len(tuned["tried"]) >= 3
    assert {run["seed"] for run in document["confirmation"]} == {1000, 1001}
    assert len({run["structure"] for run in document["confirmation"]}) == 2
    checked = {(row["structure"], row["width"]) for row in document["coordinates"]}
    assert len(checked) == 3 * len({run["structure"] for run in document["results"]})
    assert checked <= {(run["structure"], run["width"]) for run in document["results"]}
    assert any(row["changes"][1] > 0 for row in document["coordinates"] if row["layer"] == "layers.0")
    spending = document["spending"]
    assert spending["looks"] == [2, 3]
    at_the_end = {run["structure"] for run in document["results"] if run["seed"] == 2}
    assert len(at_the_end) == (1 + spending["extended"][0] if spending["extended"] else 0)
    assert f"{spending['saved_runs']} runs" in said
    assert all(run["learning_rate"] for run in document["tuning"])
    assert sorted(entry["confirmed_seeds"] for entry in document["ranking"]) == [0, 0, 2]
    timed = {(step["structure"], step["width"]) for step in document["step_seconds"]}
    assert timed >= {(run["structure"], run["width"]) for run in document["confirmation"]}
    assert all(0 < step["seconds"] < 1 for step in document["step_seconds"])
    assert any(entry["seconds_gain"] for entry in document["ranking"])
    again = einsearch("rank", study, "--out", out)
    assert again.code == 0
    after = json.loads((out / "results.json").read_text())
    for part in ("results", "ranking", "coordinates"):
        assert after[part] == document[part], "timed and checked once"


def test_the_same_command_again_repeats_nothing(einsearch, tmp_path: Path) -> None:
    study, out = write_study(tmp_path, SHORT), tmp_path / "out"
    einsearch("rank", study, "--out", out)
    before = finished_runs(out)
    again = einsearch("rank", study, "--out", out)
    assert again.code == 0
    assert finished_runs(out) == before
    more = einsearch("rank", study, "--out", out, "--seeds", 2)
    assert more.code == 0
    assert before.items() < finished_runs(out).items()
    assert {run["seed"] for run in json.loads((out / "results.json").read_text())["results"]} == {0, 1}
    other = einsearch("rank", write_study(tmp_path, SHORT + "optimizer: {warmup: 0.1}\n"), "--out", out)
    assert other.code == 2
    assert "holds another study: optimizer.warmup was 0.05 and is 0.1" in " ".join(other.err.split())


def test_a_dry_run_plans_with_the_budget_that_the_folder_keeps(einsearch, tmp_path: Path) -> None:
    study, out = write_study(tmp_path, SHORT), tmp_path / "out"
    assert einsearch("rank", study, "--out", out, "--quiet").code == 0
    kept = {"time": "1h", "budget_flops": 123456789.0, "halving": {"rungs": 1, "factor": 4, "keep": 0.5}}
    with StudyStore(out, None) as store:
        store.note("time_budget", kept)
    write_study(tmp_path, SHORT.replace("budget_flops: 1e8", "time: 1h"))
    before = finished_runs(out)
    found = einsearch("rank", study, "--out", out, "--dry-run", "--format", "json")
    plan = json.loads(found.out)
    assert (plan["budget_flops"], {stage["rung"] for stage in plan["stages"]}) == (kept["budget_flops"], {0})
    assert f"holds this study with {len(before)} runs, which are not trained again" in " ".join(found.err.split())
    assert finished_runs(out) == before
    write_study(tmp_path, SHORT + "optimizer: {warmup: 0.1}\n")
    other = einsearch("rank", study, "--out", out, "--dry-run")
    assert other.code == 0
    assert "holds another study: without --dry-run this command would stop" in " ".join(other.err.split())


def test_a_budget_that_trains_narrow_networks_is_warned_of_once(einsearch, tmp_path: Path) -> None:
    study = write_study(tmp_path, f"{LITTLE_DATA}structures: [monarch, low-rank]\n")
    words = ("rank", study, "--dry-run", "--out", tmp_path / "out", "--budget")
    said = " ".join(einsearch(*words, "1e8").err.split())
    assert said.count("networks are about 8 wide on the first rung") == 1
    assert "try: --budget 2e8 or more" in said
    assert "wide on the first rung" not in einsearch(*words, "2e8").err


def test_a_short_held_out_part_is_warned_of_by_the_dry_run_and_at_the_start(einsearch, tmp_path: Path) -> None:
    settings = "{data: {text: own.txt}, context: 16, batch: 4, layers: 1}"
    shape = "widths: [8]\nseeds: 1\nrates: fixed\nconfirm: 0\nhalving: {rungs: 1}\nbudget_flops: 1e7\n"
    study = write_study(
        tmp_path, f"task: text\ntask_settings: {settings}\nstructures: [low-rank]\ncontrols: false\n{shape}"
    )
    words = ("rank", study, "--workers", "1", "--out", tmp_path / "out")
    (tmp_path / "own.txt").write_text("abcdefg " * 25_000)
    assert "held-out bytes" not in einsearch(*words, "--dry-run").err
    (tmp_path / "own.txt").write_text("abcdefg " * 5_000)
    for more in (["--dry-run"], []):
        found = einsearch(*words, *more)
        assert found.code == 0, found.err
        said = " ".join(found.err.split())
        assert said.count("warning: only 1,984 held-out bytes give the loss") == 1
        assert (
            "try: a text 5 times as long, or in a study file task_settings: {data: {held_out_fraction: 0.21}}" in said
        )


def test_widths_that_allow_no_verdict_are_warned_of(einsearch, tmp_path: Path) -> None:
    words = ("rank", write_study(tmp_path), "--dry-run", "--out", tmp_path / "out", "--widths")
    said = " ".join(einsearch(*words, "16,24").err.split())
    assert "2 widths: at least three show where the loss is lowest: every verdict will be 'cannot tell'" in said
    assert "every verdict" not in einsearch(*words, "16,24,32").err


def test_a_busy_machine_is_warned_of(einsearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    study = write_study(tmp_path, f"{LITTLE_DATA}structures: [monarch]\n")
    words = ("rank", study, "--dry-run", "--budget", "2e8", "--out", tmp_path / "out", "--workers")
    said = {}
    for load in (1.4, 3.0):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        said[load] = [" ".join(einsearch(*words, workers).err.split()) for workers in (2, 4)]
    assert "other work takes about 2.0 of the 4 cores of this machine" in said[3.0][1]
    assert "try: a free machine, or fewer --workers" in said[3.0][1]
    assert not any("other work" in text for text in (said[3.0][0], *said[1.4]))


def wait_until_gone(session: int) -> None:
    """Wait until every process of the session has ended, which takes moments after its first one."""
    deadline_s = time.monotonic() + 30
    with suppress(ProcessLookupError):
        while True:
            os.killpg(session, 0)
            assert time.monotonic() < deadline_s, "workers outlived their parent"
            time.sleep(0.05)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_being_stopped_ends_cleanly_and_says_how_to_go_on(tmp_path: Path, sign: signal.Signals) -> None:
    study = write_study(tmp_path, SHORT.replace("1e8", "1e12"))
    command = [sys.executable, "-m", "einsearch_cli.cli.main", "rank", str(study), "--out", str(tmp_path / "out")]
    heard = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)  # noqa: E731  # under nohup it would be ignored, rightly
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heard
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("rung 1/2, seeds"):
                break
        time.sleep(1 if sign is signal.SIGINT else 3)  # while workers start, and while they train
        os.killpg(process.pid, sign) if sign is signal.SIGINT else process.send_signal(sign)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "run the same command again to go on" in rest
    assert "Traceback" not in rest
    wait_until_gone(process.pid)


def test_a_run_that_diverges_is_reported_and_the_others_are_ranked(einsearch, tmp_path: Path) -> None:
    text = STUDY.replace("structures:", "optimizer: {learning_rate: 1e30}\nstructures:")
    found = einsearch("rank", write_study(tmp_path, text), "--out", tmp_path / "out")
    assert found.code == 3
    assert "20 of 20 runs have no loss" in found.err
    assert "loss became" in found.err
    assert "lower the learning rate" in found.err
    assert "Traceback" not in found.err
    assert {r["status"] for r in json.loads((tmp_path / "out" / "results.json").read_text())["results"]} == {"diverged"}


def test_a_file_name_with_spaces_and_a_task_given_on_the_command_line(einsearch, tmp_path: Path) -> None:
    path = write_study(tmp_path).rename(tmp_path / "my study.yaml")
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 100)
    words = ("--text", tmp_path / "text.txt", "--budget", "1e11", "--dry-run", "--format", "json")
    assert json.loads(einsearch("rank", path, *words).out)["task"] == "text"


@pytest.mark.parametrize(
    "settings",
    ["{teacher_width: 2000000}", "{pool_size: 1000000000000}", "{input_size: 10000000000}", "{depth: 100000000}"],
)
def test_settings_that_need_terabytes_are_refused(einsearch, tmp_path: Path, settings: str) -> None:
    path = write_study(tmp_path, f"task_settings: {settings}\nstructures: [monarch]\n")
    found = einsearch("rank", path, "--dry-run")
    assert found.code == 2
    assert "a whole number from" in found.err


def test_networks_larger_than_the_memory_are_refused(einsearch, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 100)
    found = einsearch("rank", "monarch", "--text", tmp_path / "text.txt", "--widths", "32768", "--budget", "1e20")
    assert found.code == 2
    assert "bytes" in found.err


def test_dry_run_shows_the_plan_and_writes_nothing(einsearch, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = json.loads(einsearch("rank", write_study(tmp_path), "--dry-run", "--format", "json").out)
    assert (plan["runs"], len(plan["structures"])) == (28, 4)
    assert plan["train_flops"] == pytest.approx(16 * 2.5e7 + 12 * 1e8)
    assert [(stage["stage"], stage["runs"]) for stage in plan["stages"]] == [("seeds", 16), ("seeds", 12)]
    assert plan["seconds"] > 0
    other = einsearch("rank", write_study(tmp_path), "--dry-run", "--format", "json", "--first-seed", 3).out
    assert (plan["first_seed"], json.loads(other)["first_seed"]) == (0, 3)
    assert not (tmp_path / "runs").exists()
    timed = einsearch("rank", write_study(tmp_path), "--dry-run", "--time", "1m", "--workers", 2)
    assert re.search(r"about (59 s|1 min 0 s)", timed.out)
    assert re.search(r"1m pays for \S+ FLOPs a run of the last rung, 2 rungs", timed.out)


def test_structures_and_grids_without_a_file(einsearch, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 100)
    words = ("--text", tmp_path / "text.txt", "--widths", "32", "--budget", "1e11", "--dry-run", "--format", "json")
    assert len(json.loads(einsearch("rank", "monarch", "btt:r=2", *words).out)["structures"]) == 3
    plan = json.loads(einsearch("rank", "grid:2", *words).out)
    assert (plan["task"], len(plan["structures"])) == ("text", 12)
    (tmp_path / "found.csv").write_text("structure\nmonarch\n")
    assert len(json.loads(einsearch("rank", tmp_path / "found.csv", *words).out)["structures"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["monarch", "--widths", "64,x"], "--widths 64,x: x is not a whole number"),
        (["monarch", "--time", "2"], "--time is '2': a number above 0 with s, m, h or d is needed"),
        (["monarch", "--time", "2h", "--budget", "1e9"], "--budget and --time say the same in two ways"),
        (["monarch", "--run-timeout", "90"], "--run-timeout 90: a number above 0 with s, m, h or d is needed"),
        (["monarch", "--run-timeout", "0s"], "--run-timeout 0s: a number above 0 with s, m, h or d is needed"),
        (["monarch", "--worker-memory", "4"], "--worker-memory 4: a number with MB or GB is needed, from 500MB on"),
        (["monarch", "--worker-memory", "0.4gb"], "--worker-memory 0.4gb: a number with MB or GB is needed"),
        (["monarch", "--first-seed", "1000"], "--first-seed 1000: a whole number from 0 to 999 is needed"),
        (["monarch", "--first-seed", "998"], "the last seed is 1000: seeds from 1000 on are kept"),
        (["monarch", "--budget", "-1"], "--budget -1: a number above 0 is needed"),
        (["monarch", "--budget", "5e-4"], "--budget 5e-4 leaves 5.56e-05 training FLOPs"),
        (["monarch", "--widths", "4096"], "--budget 1e+11 leaves 1.11e+10 training FLOPs"),
        (["monarch", "--total-flops", "1e6"], "--total-flops 1e6: budget_flops = "),
        (["monarch", "--most-seeds", "2"], "--most-seeds 2, but every candidate has 3 seeds"),
        (["monarch", "--most-seeds", "2"], "try: --most-seeds 12"),
        (["monarch", "--task", "teachr"], "no task is named 'teachr'"),
        (["monarch", "--text", "missing"], "missing"),
        (["grid:x"], "grid:x: a whole number from 1 to 24"),
        (["monrach"], "error: no structure or family is named 'monrach'"),
        (["monarch", "btt-moe:experts=8,top=9"], "error: structure 'btt-moe:experts=8,top=9': top=9 with experts=8"),
        (["dense"], "0 candidates besides dense"),
        (["missing.yaml"], "cannot read missing.yaml"),
        (["dense", "monarch", "--widths", "1000000", "--budget", "1e20"], "bytes"),
    ],
)
def test_bad_studies_are_refused_before_anything_starts(einsearch, tmp_path: Path, words, message: str) -> None:
    found = einsearch("rank", *words, "--out", tmp_path / "out")
    assert found.code == 2
    assert message in found.err
    assert "try: " in found.err
    assert "Traceback" not in found.err
    assert not (tmp_path / "out").exists()


def test_a_bad_structure_in_a_file_is_named_by_its_place(einsearch, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("structures:\n  - monarch\n  - btt-moe:experts=8,top=9\n")
    found = einsearch("rank", tmp_path / "mine.yaml", "--dry-run")
    assert f"error: {tmp_path / 'mine.yaml'}:3: top=9 with experts=8" in found.err


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("{tokenizer: 'bpe:300', held_out_fraction: 0.2}", {"tokenizer": "bpe:300", "held_out_fraction": 0.2}),
        ("{tokens: folder, token_type: uint8}", {}),
        ("{dataset: {name: roneneldan/TinyStories}, tokenizer: characters}", {"tokenizer": "characters"}),
    ],
)
def test_a_text_by_option_takes_the_place_of_the_source_and_keeps_the_tokenizer(
    tmp_path: Path, data: str, expected: dict[str, object]
) -> None:
    path = write_study(tmp_path, f"task: text\ntask_settings: {{data: {data}, layers: 1}}\nstructures: [monarch]\n")
    spec, _ = read_study([str(path)], overrides_of("text", Path("mine.txt"), None, {}))
    assert spec.task_settings == {"data": {**expected, "text": "mine.txt"}, "layers": 1}
    other = write_study(tmp_path, "structures: [monarch]\n")
    spec, _ = read_study([str(other)], overrides_of(None, Path("mine.txt"), None, {}))
    assert (spec.task, spec.task_settings) == ("text", {"data": {"text": "mine.txt"}})


def test_products_in_bfloat16_make_another_study(einsearch, tmp_path: Path) -> None:
    study, out = write_study(tmp_path, SHORT), tmp_path / "out"
    half = ("rank", study, "--out", out, "--device", "cpu", "--precision", "bfloat16")
    assert einsearch(*half).code == 0
    refused = einsearch("rank", study, "--out", out, "--device", "cpu")
    assert refused.code == 2
    assert "precision" in refused.err, "the difference is said"
    again = einsearch(*half)
    assert again.code == 0
    rest = einsearch("rank", study, "--out", tmp_path / "full", "--device", "cpu")
    losses = [
        json.loads((folder / "results.json").read_text())["ranking"][0]["loss"] for folder in (out, tmp_path / "full")
    ]
    assert rest.code == 0
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--device", "abacus"), "device 'abacus' is not a device"),
        (("--device", "cpu,cuda:0"), "device 'cuda:0': "),
        (
            ("--device", "cuda:0", "--engine", "slurm"),
            "--device cuda:0 with --engine slurm: one of auto, cpu, cuda is needed",
        ),
        (("--precision", "half"), "precision is 'half': "),
    ],
)
@pytest.mark.skipif("torch" in sys.modules and sys.modules["torch"].cuda.is_available(), reason="there is CUDA here")
def test_devices_and_precisions_that_cannot_be(einsearch, tmp_path: Path, words, message: str) -> None:
    found = einsearch("rank", "monarch", "--out", tmp_path / "out", *words)
    assert found.code == 2
    assert message in " ".join(found.err.split())
    assert not (tmp_path / "out").exists()
