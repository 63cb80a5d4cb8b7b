"""One rule for all commands: a file that exists is refused unless --overwrite is given, a folder always."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from einsearch_cli.cli.commands import SUMMARIES, load_command
from einsearch_cli.data.tokens import BytesTokenizer
from einsearch_cli.export import save_run
from einsearch_cli.models.transformer import Transformer, TransformerConfig
from einsearch_cli.reports import write_results
from tests.cli.test_help_examples import TEXT
from tests.reports.conftest import study as study
from tests.reports.test_stored import whole

FOLDERS = {"rank", "search", "train", "tokenize", "evidence"}
"""Commands whose --out is a folder: studies and runs go on in it, token files and evidence of others are refused."""
SMALL_BENCH = "bench monarch --widths 64 --tokens 1 --modes decode --rounds 1"
FILES = {
    "enumerate": [("enumerate --grid 2 --limit 3", "--out", "a.json")],
    "sample": [("sample -n 2", "--out", "a.yaml")],
    "classify": [("classify monarch", "--out", "a.txt")],
    "draw": [("draw monarch", "--out", "a.svg"), ("draw monarch", "--out", "a.png")],
    "bench": [(SMALL_BENCH, "--out", "a.json"), (SMALL_BENCH, "--out", "a.html")],
    "report": [("report study", "--out", "a.html"), ("report study", "--csv", "a.csv")],
    "export": [("export run --to dense", "--out", "a.safetensors")],
    "project": [("project model.safetensors --structure monarch", "--out", "a.safetensors")],
}


def test_every_command_that_writes_is_here() -> None:
    names = {name: {param.name for param in load_command(name).params} for name in SUMMARIES}
    writers = {name for name, params in names.items() if params & {"out", "to", "csv"}}
    assert writers == FOLDERS | set(FILES)
    assert {name for name, params in names.items() if "overwrite" in params} == set(FILES)


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study").mkdir()
    write_results(Path("study/results.json"), whole(study))
    save_file({"up.weight": torch.randn(16, 16)}, "model.safetensors")
    tokenizer = BytesTokenizer()
    config = TransformerConfig(vocabulary=tokenizer.vocabulary, width=16, layers=1, heads=2, context=8)
    save_run(Transformer(config), Path("run"), tokenizer)


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(("words", "option", "name"), [case for cases in FILES.values() for case in cases])
def test_a_file_is_replaced_only_when_asked(einsearch, words: str, option: str, name: str) -> None:
    Path(name).write_text("mine")
    refused = einsearch(*words.split(), option, name)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == f"error: {option} '{name}' exists already\n  try: add --overwrite, or give another name\n"
    assert Path(name).read_text() == "mine"
    assert einsearch(*words.split(), option, name, "--overwrite").code == 0
    assert Path(name).read_bytes() != b"mine"


@pytest.mark.usefixtures("_here")
def test_a_folder_is_never_replaced(einsearch) -> None:
    Path("book.txt").write_text(TEXT)
    Path("taken").mkdir()
    for name in ("mine", "train.bin"):
        Path("taken", name).write_text("mine")
    for words in (
        "export run --to hf --overwrite",
        "project run --structure low-rank --overwrite",
        "enumerate --grid 2 --format json --overwrite",
        "tokenize book.txt",
    ):
        assert einsearch(*words.split(), "--out", "taken").code == 2
    assert {path.name: path.read_text() for path in Path("taken").iterdir()} == {"mine": "mine", "train.bin": "mine"}


@pytest.mark.usefixtures("_here")
def test_the_file_that_is_read_is_not_written(einsearch) -> None:
    words = ("project", "model.safetensors", "--structure", "monarch", "--out", "model.safetensors")
    for more in ((), ("--overwrite",)):
        found = einsearch(*words, *more)
        assert found.code == 2
        assert "--overwrite" not in found.err
