"""`rank --engine`: an engine of a plug-in, and errors for wrong names."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Einsearch = Callable[..., Any]

STUDY = """\
task_settings: {teacher_width: 16, pool_size: 512, validation_size: 64, batch_size: 32}
structures: [monarch]
widths: [16]
seeds: 2
budget_flops: 5e6
halving: {rungs: 1}
rates: fixed
confirm: 0
"""
PLUGIN = """\
from einsearch_cli.search.engines import register
from tests.search.in_process import InProcess


@register
class Patient(InProcess):
    name = "patient"

    def start_up_s(self, loading_s):
        return 6000.0
"""


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "patient.py").write_text(PLUGIN)
    (tmp_path / "study.yaml").write_text(STUDY)
    return ["--plugin", tmp_path / "patient.py", "rank", tmp_path / "study.yaml", "--engine", "patient"]


@pytest.mark.usefixtures("registers", "one_thread")
def test_an_engine_of_a_plug_in_trains_a_study_and_says_how_long_it_takes(
    einsearch: Einsearch, words: list[Any], tmp_path: Path
) -> None:
    planned = einsearch(*words, "--workers", "1000", "--dry-run", "--format", "json")
    assert planned.code == 0, planned.err
    plan = json.loads(planned.out)
    assert plan["workers"] == 1000
    assert plan["seconds"] == pytest.approx(6000, rel=0.01)
    found = einsearch(*words, "--out", tmp_path / "theirs")
    assert found.code == 0, found.err
    assert "1 worker" in found.err
    assert "the workers take 1 h 40 min to start" in " ".join(found.err.split())
    local = einsearch(*words[:-2], "--out", tmp_path / "ours", "--workers", "1")
    assert local.code == 0, local.err
    losses = [
        [run["loss"] for run in json.loads((tmp_path / name / "results.json").read_text())["results"]]
        for name in ("theirs", "ours")
    ]
    assert losses[0] == losses[1]


@pytest.mark.usefixtures("registers")
def test_names_of_engines_are_known_to_help_completion_and_errors(
    einsearch: Einsearch, words: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from einsearch_cli import cli
    from einsearch_cli.cli import commands

    for name in ("rank", "study_options"):  # these modules list the engines when they are imported
        monkeypatch.delitem(sys.modules, f"einsearch_cli.cli.{name}", raising=False)
        monkeypatch.delattr(cli, name, raising=False)
    assert "local, patient, ray, slurm, or one that a plug-in registers" in " ".join(
        einsearch(*words[:3], "--help").out.replace("│", "").split()
    )
    option = next(param for param in commands.load_command("rank").params if param.name == "engine")
    assert [item.value for item in option.shell_complete(None, "lo")] == ["local"]
    wrong = einsearch(*words[:-1], "patent")
    assert wrong.code == 2
    assert (
        wrong.err
        == "error: no engine is named 'patent': the engines are local, patient, ray, slurm\n  try: use patient\n"
    )


@pytest.mark.parametrize(
    ("engine", "option", "problem", "remedy"),
    [
        ("local", "cores=2", "--engine-option cores: the engine local has no options", "leave it out"),
        ("ray", "adress=auto", "engine ray: unknown key 'adress'", "use address; all are address"),
        (
            "ray",
            "address=10.0.0.1",
            "engine ray: address is '10.0.0.1': auto or HOST:PORT is needed",
            "--engine-option address=auto",
        ),
        (
            "slurm",
            "memory=lots",
            "engine slurm: memory is 'lots': a whole number with MB, GB or TB is needed",
            "--engine-option memory=4GB",
        ),
        (
            "slurm",
            "cores=0",
            "engine slurm: cores is 0: a whole number from 1 to 1,024 is needed",
            "--engine-option cores=1",
        ),
        (
            "slurm",
            "time=soon",
            "engine slurm: time is 'soon': a number above 0 with s, m, h or d is needed, up to 1000d",
            "--engine-option time=2h",
        ),
        ("ray", "address", "--engine-option 'address': it needs a key and a value", "--engine-option KEY=VALUE"),
        (
            "ray",
            "address=127.0.0.1:1",
            "the Ray cluster cannot be reached: nothing answers at 127.0.0.1:1 ([Errno 111] Connection refused)",
            "check `ray status` on this machine, --engine-option address=HOST:PORT, and that RAY_AUTH_TOKEN or",
        ),
    ],
)
def test_options_of_engines_are_checked_before_anything_is_prepared(
    einsearch: Einsearch, words: list[Any], engine: str, option: str, problem: str, remedy: str
) -> None:
    found = einsearch(*words[2:-1], engine, "--engine-option", option)
    assert found.code == 2
    assert found.out == ""
    assert found.err.startswith(f"error: {problem}\n  try: {remedy}")


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_whose_package_is_missing_says_how_to_install_it(
    einsearch: Einsearch, words: list[Any], monkeypatch: pytest.MonkeyPatch, engine: str, package: str
) -> None:
    monkeypatch.setattr("einsearch_cli.search.engines.find_spec", lambda _: None)
    found = einsearch(*words[2:-1], engine)
    assert found.code == 2
    assert found.err == (
        f"error: the engine {engine} needs the package {package}: it is not installed\n"
        f"  try: pip install 'einsearch[{engine}]'\n"
    )


def test_slurm_is_asked_for_its_cores_and_missed_where_it_is_not(
    einsearch: Einsearch, words: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    command = (*words[2:-1], "slurm", "--engine-option", "partition=gpu", "--dry-run", "--format", "json")
    found = einsearch(*command)
    assert found.code == 2
    assert found.err == (
        "error: the engine slurm needs Slurm: sbatch is not found on this machine\n"
        "  try: run it on a login node of the cluster, or try it here: --engine-option executor=local\n"
    )
    (tmp_path / "bin").mkdir()
    nodes = "n1 3/4/1/8", "n2 2/0/0/2", "n2 2/0/0/2"  # Slurm names a node once for each of its partitions
    said = " && ".join(f"echo {node}" for node in nodes)
    for name, text in (("sbatch", ""), ("sinfo", f'[ "$4" = --partition=gpu ] && {said}')):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    found = einsearch(*command)
    assert found.code == 0, found.err
    assert json.loads(found.out)["workers"] == 9
