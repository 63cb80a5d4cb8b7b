"""`einsearch bench` from the command line."""

import csv
import io
import json
import os
import signal
import subprocess
import sys

import pytest
import torch

SMALL = ("bench", "monarch", "low-rank:r=4", "--widths", "32", "--tokens", "16,80", "--rounds", "1")


@pytest.fixture(autouse=True)
def threads():
    """Restore the number of threads, which the command sets for the whole process of the tests."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_json_on_stdout_talk_on_stderr(einsearch) -> None:
    outcome = einsearch(*SMALL, "--format", "json")
    assert outcome.code == 0
    told = json.loads(outcome.out)
    assert told["complete"] is True
    assert {(item["mode"], item["tokens"], item["name"]) for item in told["measurements"]} == {
        (mode, tokens, name)
        for mode, tokens in (("decode", 16), ("forward", 80), ("training", 16), ("training", 80))
        for name in ("monarch", "low-rank:r=4")
    }
    assert "2 layers in 4 cases: about" in outcome.err
    assert "Training: " in outcome.err


def test_table_has_dense_and_a_block_for_each_case(einsearch) -> None:
    outcome = einsearch(*SMALL)
    blocks = outcome.out.strip().split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [
        "decode, width 32, 16 tokens, merged layers",
        "forward, width 32, 80 tokens",
        "training, width 32, 16 tokens",
        "training, width 32, 80 tokens",
    ]
    assert [line.split()[0] for line in blocks[0].splitlines()[3:]] == ["nn.Linear", "monarch", "low-rank:r=4"]
    assert "over einsum" in blocks[0]
    assert "over einsum" not in blocks[1]


def test_csv_has_numbers_and_files_have_everything(einsearch, tmp_path) -> None:
    page, data = tmp_path / "speed.html", tmp_path / "speed.json"
    outcome = einsearch(*SMALL, "--format", "csv", "--out", page, "--out", data)
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    told = json.loads(data.read_text())["measurements"]
    for row, item in zip(rows, told, strict=True):
        assert float(row["vs_bare"]) == item["vs_bare"]["median"]
        assert float(row["vs_bare_low"]) == item["vs_bare"]["low"]
        assert int(row["flops"]) == item["flops"]
    assert "low-rank:r=4" in page.read_text()


def test_yaml_lists_each_structure_once(einsearch) -> None:
    from einsearch_cli.structures import parse_structure

    lines = einsearch(*SMALL, "--format", "yaml").out.splitlines()
    assert lines[0] == "structures:"
    assert [parse_structure(line.removeprefix("- ")) for line in lines[1:]] == [
        parse_structure("monarch"),
        parse_structure("low-rank:r=4"),
    ]


def test_no_structures_means_the_market(einsearch) -> None:
    from einsearch_cli.speed import MARKET

    outcome = einsearch(
        "bench", "--widths", "16", "--tokens", "1", "--modes", "decode", "--rounds", "1", "--format", "jsonl"
    )
    assert len(outcome.out.splitlines()) == len(MARKET)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--modes", "inference"), "'inference' is none of forward, training, decode"),
        (("--widths", "1k"), "--widths 1k: 1k is not a whole number"),
        (("--tokens", "0"), "--tokens 0: 0 is not a whole number from 1 to 10^15"),
        (("--modes", "decode", "--tokens", "128"), "no case is left"),
        (("--rounds", "0"), "--rounds 0: a whole number from 1"),
        (("--out", "speed.png"), "must end in .json or .html"),
        (("--out", "pyproject.toml/speed.json"), "pyproject.toml' is not a folder"),
        (("no-such-family",), "no-such-family"),
        (("--dtype", "int8"), "int8"),
    ],
)
def test_bad_input_is_refused_by_name(einsearch, arguments, said) -> None:
    outcome = einsearch("bench", *arguments)
    assert outcome.code == 2
    assert said in outcome.err
    assert outcome.out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused_with_the_remedy(einsearch) -> None:
    outcome = einsearch("bench", "--device", "cuda")
    assert outcome.code == 2
    assert "device cuda: this torch sees no CUDA device" in outcome.err
    assert "--device cpu" in outcome.err


def test_ctrl_c_shows_what_was_measured() -> None:
    """The interruption comes when the second case, of many seconds, has started."""
    words = ["bench", "monarch", "--widths", "32,2048", "--tokens", "4096", "--modes", "training", "--rounds", "3"]
    child = subprocess.Popen(
        [sys.executable, "-m", "einsearch_cli.cli.main", *words, "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert child.stderr is not None
    next(line for line in iter(child.stderr.readline, "") if "2 of 2" in line)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    told = json.loads(out)
    assert told["complete"] is False
    assert [(item["width"], item["rounds"]) for item in told["measurements"]] == [(32, 3)]
    assert "stopped before its last case" in err
    assert "Traceback" not in err
