"""`einsearch params` from the command line."""

import csv
import io
import json

import pytest


def test_the_table_sums(einsearch) -> None:
    outcome = einsearch("params", "m", "--structure", "low-rank:r=256", "--structured", "ffn")
    assert outcome.code == 0
    rows = {line[:18].strip(): line[18:].split() for line in outcome.out.splitlines()[2:]}
    assert list(rows) == ["embedding", "attention", "attention scores", "ffn", "norms", "head", "total"]
    for column in (0, 3):
        numbers = {part: int(cells[column].replace(",", "")) for part, cells in rows.items()}
        assert sum(numbers.values()) == 2 * numbers["total"]
    assert rows["ffn"][2] == "31%"
    assert "24 blocks of width 1024" in outcome.err
    assert "low-rank:r=256 in feed-forward networks" in outcome.err


def test_csv_and_json_agree(einsearch) -> None:
    command = ("params", "s", "--set", "norm=rms", "--set", "tied=false", "--set", "activation=swiglu")
    rows = list(csv.DictReader(io.StringIO(einsearch(*command, "--format", "csv").out)))
    told = json.loads(einsearch(*command, "--format", "json").out)
    assert [(row["part"], int(row["params"]), int(row["flops_per_token"])) for row in rows] == [
        (part["part"], part["params"], part["flops"]) for part in (*told["parts"], told["total"])
    ]
    assert told["config"]["hidden"] == 2048
    assert told["config"]["tied"] is False
    head = next(part for part in told["parts"] if part["part"] == "head")
    assert head["params"] == 32_000 * 768
    assert "estimate" not in told


def test_estimates_on_a_card(einsearch) -> None:
    outcome = einsearch("params", "xl", "--gpu", "h100", "--batch", "4", "--tokens", "26e9", "--utilisation", "0.5")
    memory, time = outcome.out.splitlines()[-2:]
    assert memory.startswith("memory per device: weights 7.64 + gradients 5.10 + moments 10.19 + activations ")
    assert memory.endswith("GB of 80 GB: fits")
    assert time == ("time: 2.1×10²⁰ FLOPs on 1 × NVIDIA H100 SXM at an assumed 50% of the peak: 120 h 25 min")
    told = json.loads(einsearch("params", "xl", "--gpu", "l4", "--gpus", "8", "--format", "json").out)["estimate"]
    assert told["device"] == "NVIDIA L4"
    assert told["fits"] is False
    assert told["flops"] == pytest.approx(20 * 1_274_138_624 * 3 * 2_746_392_576, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x",), "no preset 'x'"),
        (("s", "--gpu", "h1"), "no accelerator 'h1' in the table\n  try: use 'h100'"),
        (
            ("s", "--set", "heads=7"),
            "--set: 7 heads in a width of 768: the heads have to divide the width\n  try: give 6 or 8",
        ),
        (("s", "--set", "heads"), "--set 'heads': it needs a key and a value\n  try: --set width=512"),
        (("s", "--set", "depth=2"), "--set: unknown key 'depth'"),
        (("s", "--set", "width=[1"), "--set width:1: not valid YAML"),
        (("s", "--structure", "monrach"), "monrach"),
        (("s", "--gpu", "h100", "--utilisation", "2"), "--utilisation 2: a number above 0 and at most 1"),
        (("s", "--gpu", "h100", "--tokens", "0"), "--tokens 0: a number from 1 to 1e+15 is needed"),
    ],
    ids=str,
)
def test_bad_input(einsearch, arguments: tuple[str, ...], message: str) -> None:
    outcome = einsearch("params", *arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert message in outcome.err
