import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from einsearch_cli.data.tokens import DataSettings, open_tokens

TEXT = "one line after the other\n" * 100


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(TEXT)
    return path


def test_token_files_that_a_run_reads(einsearch: Callable[..., Any], book: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    done = einsearch("tokenize", book, "--tokenizer", "characters", "--out", out, "--held-out-fraction", "0.1")
    assert (done.code, done.out) == (0, "")
    assert done.err == (f"wrote 2,250 tokens to train on and 250 held-out ones to {out} (uint8, vocabulary 13)\n")
    assert sorted(path.name for path in out.iterdir()) == ["meta.json", "train.bin", "val.bin"]
    data = open_tokens(DataSettings(tokens=out), tmp_path)
    assert data.tokenizer is not None
    assert data.tokenizer.decode(data.training.tolist()) == TEXT[:2250]
    assert data.tokenizer.decode(data.held_out.tolist()) == TEXT[2250:]


def test_a_type_that_nanogpt_reads(einsearch: Callable[..., Any], book: Path, tmp_path: Path) -> None:
    assert einsearch("tokenize", book, "--out", tmp_path / "out", "--token-type", "uint16").code == 0
    tokens = np.fromfile(tmp_path / "out" / "train.bin", dtype=np.uint16)
    assert bytes(tokens.tolist()).decode() == TEXT[:2375]
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["token_type"] == "uint16"


def test_files_that_are_there_stay(einsearch: Callable[..., Any], book: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "train.bin").write_bytes(b"precious")
    done = einsearch("tokenize", book, "--out", out)
    assert done.code == 2
    assert done.err == (
        f"error: folder {out} has train.bin already\n  try: give another folder, or remove them first\n"
    )
    assert (out / "train.bin").read_bytes() == b"precious"


def test_inputs_that_cannot_be_encoded_are_refused(einsearch: Callable[..., Any], book: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments, message in (
        ((tmp_path / "missing",), "missing does not exist"),
        ((book, "--tokenizer", "morse"), "no tokenizer 'morse'"),
        (
            (book, "--held-out-fraction", "0.0001"),
            f"the held-out part of text {book} is empty: it has 2,500 characters",
        ),
        ((book, "--held-out-fraction", "0.9"), "--held-out-fraction 0.9: a number from 1e-6 to 0.5 is needed"),
    ):
        done = einsearch("tokenize", *arguments, "--out", out)
        assert done.code == 2
        assert message in done.err
        assert not list(tmp_path.rglob("*.bin"))


def test_a_type_that_is_too_small_is_refused(einsearch: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "many.txt"
    path.write_text("".join(map(chr, range(0x4E00, 0x4E00 + 400))))
    done = einsearch("tokenize", path, "--out", tmp_path / "o", "--tokenizer", "characters", "--token-type", "uint8")
    assert done.code == 2
    assert done.err == "error: 381 tokens do not fit uint8\n  try: give uint16, or leave the type out\n"
    assert not (tmp_path / "o").exists()


def test_a_folder_that_cannot_be_made(einsearch: Callable[..., Any], book: Path) -> None:
    done = einsearch("tokenize", book, "--out", book / "inside")
    assert done.code == 2
    assert done.err.startswith(f"error: cannot write folder {book / 'inside'}: Not a directory\n  try: ")
