"""Completion, asked for as the shells ask for it: by variables of the environment."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from einsearch_cli.cli.completing import complete
from einsearch_cli.shipped import Kind, names_of
from einsearch_cli.structures import FAMILIES, parse_layer

_RUN = """
import sys
from einsearch_cli.cli.main import run
sys.argv = ["einsearch"]
try:
    run()
finally:
    print(*sorted({"torch", "optuna", "sympy", "scipy"} & set(sys.modules)), file=sys.stderr)
"""


def offered(line: str, shell: str) -> list[str]:
    """The words that a shell gets for a line."""
    asked = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    environment = {**os.environ, **asked, "_EINSEARCH_COMPLETE": f"complete_{shell}"}
    found = subprocess.run([sys.executable, "-c", _RUN], env=environment, capture_output=True, text=True, check=True)
    assert found.stderr.strip() == "", "nothing large is imported"
    return [part.strip("\"'()") for part in found.stdout.replace("\t", "\n").splitlines() if part]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_the_words(shell: str) -> None:
    found = " ".join(offered("einsearch classify mon", shell))
    assert "monarch" in found
    assert "kronecker" not in found


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("einsearch rank monarch low", ["low-rank", "low-rank-moe:experts=8,top=2"]),
        ("einsearch rank de", ["dense", "dense-moe:experts=8,top=2", "demo"]),
        ("einsearch search mono", []),
        ("einsearch bench paper/", ["paper/vectors"]),
        ("einsearch draw kr", ["kronecker", "kronecker-moe:experts=8,top=2"]),
        ("einsearch params s --structure mon", ["monarch", "monarch-moe:experts=8,top=2"]),
        ("einsearch project runs/a --structure cp", ["cp", "cp-moe:experts=8,top=2"]),
        ("einsearch enumerate --family bl", ["block-shuffle", "block-dense"]),
        ("einsearch train t", ["train-structured"]),
        ("einsearch rank monarch --task te", ["teacher", "text"]),
        ("einsearch rank monarch --engine sl", ["slurm"]),
        ("einsearch enu", ["enumerate"]),
        ("einsearch rank monarch --format ", ["table", "json", "jsonl", "csv", "yaml", "markdown"]),
        ("einsearch status runs --format ", ["table", "json"]),
        ("einsearch enumerate --format p", ["parquet"]),
        ("einsearch rank monarch --rates ", ["tuned", "fixed"]),
        ("einsearch rank monarch --by s", ["seconds"]),
        ("einsearch params w", ["wide-m", "wide-l"]),
        ("einsearch params s --gpu h", ["h100", "h200"]),
        ("einsearch tokenize a.txt --tokenizer b", ["bytes", "bpe:1024"]),
    ],
)
def test_what_fits_is_offered(line: str, words: list[str]) -> None:
    assert offered(line, "bash") == words


def test_all_that_is_offered_can_be_read() -> None:
    words = [word for word, _ in complete()("")]
    assert len(words) == 2 * len(FAMILIES) + 1
    for word in words:
        assert parse_layer(word)
    assert not set(words) & set(names_of(*Kind))


def test_it_takes_little_time() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    offered("einsearch classify mon", "bash")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
