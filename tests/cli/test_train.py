"""`einsearch train` from the command line."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from einsearch_cli.training.full import RunResult, load_train_specs
from einsearch_cli.training.full.checkpoint import RunState, save_checkpoint

ROOT = Path(__file__).parents[2]

SPEC = """\
model: {width: 32, layers: 1, heads: 2, context: 16}
data: {text: corpus.txt, tokenizer: characters}
batch: 4
steps: 12
optimizer: {learning_rate: 1e-2}
validation: {points: 4, blocks: 4}
checkpoint: {every: 4}
runs:
- {name: dense}
- {name: low-rank, model: {structure: "low-rank:r=4"}}
- {name: guided, model: {structure: "low-rank:r=4"}, guidance: {flop_matched: true}}
"""

Einsearch = Callable[..., Any]


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "corpus.txt").write_text("".join(f"{number} times seven is {7 * number}\n" for number in range(300)))
    path = tmp_path / "three.yaml"
    path.write_text(SPEC)
    return path


def test_a_dry_run_shows_steps_flops_and_speed(einsearch: Einsearch, spec: Path) -> None:
    outcome = einsearch("train", spec, "--dry-run", "--gpu", "h100", "--out", spec.parent / "runs")
    assert outcome.code == 0
    for text in ("as characters, vocabulary ", "low-rank:r=4", "time here", "memory per device", "NVIDIA H100"):
        assert text in outcome.out
    rows = {line.split()[0]: line for line in outcome.out.splitlines() if line.strip()}
    assert "100%" in rows["dense"]
    assert "come again in the last" in outcome.out
    assert not (spec.parent / "runs").exists()


def test_a_step_that_is_too_large_for_a_cpu_is_planned_and_not_timed(
    einsearch: Einsearch, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("einsearch_cli.training.full.train_plan._MOST_TIMED_FLOPS", 1)
    monkeypatch.delattr("einsearch_cli.training.full.train_plan._step_seconds")
    outcome = einsearch("train", spec, "--dry-run", "--gpu", "h100")
    assert outcome.code == 0
    assert "memory per device" in outcome.out


def test_all_runs_and_their_comparison(einsearch: Einsearch, spec: Path) -> None:
    out = spec.parent / "runs"
    first = einsearch("train", spec, "--out", out)
    assert first.code == 0
    assert [line.split()[0] for line in first.out.splitlines()[2:]] == ["dense", "low-rank", "guided"]
    assert "guided ends at" in first.err
    assert "step 12 of 12" in first.err
    results = json.loads((out / "results.json").read_text())
    assert [run["name"] for run in results["runs"]] == ["dense", "low-rank", "guided"]
    for run in results["runs"]:
        assert run["curve"][-1]["loss"] == run["loss"]
        assert run["curve"][-1]["total_flops"] == run["total_flops"]
        assert (out / run["name"] / "metrics.jsonl").exists()
    guided, dense = results["runs"][2], results["runs"][0]
    assert guided["total_flops"] == pytest.approx(dense["total_flops"], rel=0.1)
    check_page((out / "report.html").read_text())

    weights = (out / "dense" / "checkpoints" / "step-00000012" / "model.safetensors").stat().st_mtime_ns
    again = einsearch("train", spec, "--out", out)
    assert again.out == first.out
    assert "step 12 of 12" not in again.err
    assert (out / "dense" / "checkpoints" / "step-00000012" / "model.safetensors").stat().st_mtime_ns == weights

    changed = einsearch("train", spec, "--out", out, "--set", "optimizer.weight_decay=0.2")
    assert changed.code == 2
    assert "optimizer.weight_decay was 0.1 and is 0.2" in changed.err


def test_controls_are_planned_trained_and_named_in_the_summary(einsearch: Einsearch, spec: Path) -> None:
    """With controls, even a single guided run has its own folder next to theirs."""
    spec.write_text(SPEC.split("runs:")[0] + "guidance: {ratio: 0.5}\ncontrols: true\nname: led\n")
    out, change = spec.parent / "runs", ("--set", "model.structure=low-rank:r=4")
    names = ["led", "led-equal-tokens", "led-equal-flops"]
    planned = einsearch("train", spec, "--out", out, *change, "--dry-run")
    assert [
        line.split()[0] for line in planned.out.splitlines() if line.startswith("led") and "low-rank" in line
    ] == names
    outcome = einsearch("train", spec, "--out", out, *change)
    assert outcome.code == 0
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == sorted(names)
    assert "without guides, one run each: " in outcome.err
    other = einsearch("train", spec, "--out", out, *change, "--set", "batch=8")
    assert (other.code, "batch was 4 and is 8" in other.err) == (2, True)


def check_page(page: str) -> None:
    """Check that the HTML is complete, loads nothing, and has both figures."""
    parser = HTMLParser()
    parser.feed(page)
    for part in ("flops", "steps"):
        assert f'id="section-{part}"' in page
    assert page.count("<svg") >= 2
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_a_device_that_is_not_there(einsearch: Einsearch, spec: Path) -> None:
    outcome = einsearch("train", spec, "--device", "cuda")
    assert outcome.code == 2
    assert outcome.err.startswith("error: device 'cuda': ")
    assert "try: use --device cpu" in outcome.err


@pytest.mark.parametrize("device", ["abacus", "meta"])
def test_an_unknown_device_is_refused(einsearch: Einsearch, spec: Path, device: str) -> None:
    outcome = einsearch("train", spec, "--device", device)
    assert outcome.code == 2
    assert "try: use auto, cpu or cuda" in outcome.err


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("model.heads=3", "3 heads in a width of 32: the heads have to divide the width"),
        ("model.context=100000 guidance=null", "a block of 100,000 needs 100,001"),
        ("model.vocabulary=5", "model.vocabulary is 5: the data have"),
        ("data.text=nothing.txt", "text nothing.txt does not exist"),
        ("optimizer.speed=3", "unknown key 'optimizer.speed'"),
        ("steps", "--set 'steps': it needs a key and a value"),
        ("optimizer.learning_rate=1e30", "loss became"),
    ],
)
def test_bad_input_is_named(einsearch: Einsearch, spec: Path, setting: str, problem: str) -> None:
    changes = [word for change in setting.split() for word in ("--set", change)]
    outcome = einsearch("train", spec, "--out", spec.parent / "runs", *changes)
    assert outcome.code == (3 if "loss" in problem else 2)
    assert problem in outcome.err
    assert "try: " in outcome.err
    assert "Traceback" not in outcome.err


def test_ctrl_c_saves_and_the_same_command_goes_on(spec: Path) -> None:
    """A real process and a real signal; the run is far too long to end on its own."""
    out = spec.parent / "runs"
    command = [sys.executable, "-m", "einsearch_cli", "train", str(spec), "--out", str(out), "--device", "cpu"]
    command += ["--set", "steps=1000000", "--set", "checkpoint.every=1000000"]
    command += ["--set", "validation.points=100000", "--set", "guidance=null"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    next(line for line in process.stderr if line.startswith("dense: step 20 of"))  # validated every ten steps
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"stopped: the same command goes on from the last checkpoint in {out}" in err
    metrics = out / "dense" / "metrics.jsonl"
    (saved,) = (out / "dense" / "checkpoints").iterdir()
    assert int(saved.name.removeprefix("step-")) == len(metrics.read_text().splitlines()) >= 20


def _finished(out: Path, spec: Path, **changes: object) -> None:
    """Make a folder that looks like that of a finished run, without training."""
    _, [run] = load_train_specs(spec, changes)
    out.mkdir(parents=True, exist_ok=True)
    counts = dict.fromkeys(("params", "guided_steps", "repeated_steps", "tokens", "flops", "total_flops"), 1)
    result = RunResult(
        name=run.name, structure="dense", loss=1.0, steps=run.steps or 0, elapsed_s=1.0, spec=run.same_run(),
        data_digest="0", **counts,
    )  # fmt: skip
    result.save(out)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["optimizer.learning_rate=0.01"], "holds a run with other settings: optimizer.learning_rate"),
        (["steps=6"], "holds a run with other settings: steps"),
        (["steps=12", "schedule.shape=cosine"], "holds a run with other settings"),
        ([], "does not exist"),
        (["steps=20", "schedule.warmup=0.25"], "does not exist"),
    ],
)
def test_another_run_is_refused_before_the_data_are_looked_for(
    einsearch: Einsearch, tmp_path: Path, settings: list[str], problem: str
) -> None:
    file, out = tmp_path / "one.yaml", tmp_path / "run"
    file.write_text("{steps: 10, schedule: {shape: constant, warmup: 0.5}, data: {text: gone.txt}, model: {preset: s}}")
    _finished(out, file)
    changes = [word for setting in settings for word in ("--set", setting)]
    outcome = einsearch("train", file, "--out", out, *changes)
    assert outcome.code == 2
    assert problem in outcome.err


def test_an_unfinished_run_is_compared_too(einsearch: Einsearch, tmp_path: Path) -> None:
    file, out = tmp_path / "one.yaml", tmp_path / "run"
    file.write_text("{steps: 10, data: {text: gone.txt}, model: {preset: s}}")
    _, [run] = load_train_specs(file)
    state = RunState(
        step=5, flops=1, elapsed_s=1.0, guided=False, guide_weight=0.0, spec=run.same_run(), config={}, tokenizer=None,
        data_digest="0",
    )  # fmt: skip
    save_checkpoint(out, state, {}, {})
    outcome = einsearch("train", file, "--out", out, "--set", "optimizer.learning_rate=0.01")
    assert "holds a run with other settings: optimizer.learning_rate" in outcome.err
    assert "does not exist" in einsearch("train", file, "--out", out).err
