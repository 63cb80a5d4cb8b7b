import os
from pathlib import Path

import numpy as np
import pytest
import torch

from einsearch_cli.data import AnyTask, TextSettings, TextTask, corpus as corpus_module
from einsearch_cli.data.corpus import encode, most_frequent, read_corpus
from einsearch_cli.errors import DataError
from tests.data.contract import TaskContract, take

VERSE = "the quick brown fox jumps over the lazy dog\n"


def small(path: Path, **settings: object) -> TextTask:
    given = {"path": path, "block_size": 16, "batch_size": 4, "validation_blocks": 6} | settings
    return TextTask(TextSettings.model_validate(given))


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book"
    path.write_text("".join(f"{number} {VERSE}" for number in range(200)), encoding="utf-8")
    return path


class TestTextContract(TaskContract):
    def make(self, cache_folder: Path) -> AnyTask:
        path = cache_folder / "book"
        path.write_text("".join(f"{number} {VERSE}" for number in range(200)), encoding="utf-8")
        return small(path)


def read_back(characters: str, tokens: torch.Tensor) -> str:
    return "".join("�" if token == 0 else characters[token - 1] for token in tokens.flatten().tolist())


def test_targets_are_the_next_characters_of_the_text(book: Path) -> None:
    task = small(book)
    text = book.read_text()
    for batch in [*take(task, 0, 3), *task.validation()]:
        for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
            assert torch.equal(inputs[1:], targets[:-1])
            assert read_back(task.corpus.characters, inputs) in text


def test_the_end_of_a_single_file_is_held_out(book: Path) -> None:
    corpus = read_corpus(book, 0.1)
    text = book.read_text()
    cut = len(text) - round(0.1 * len(text))
    assert read_back(corpus.characters, torch.from_numpy(corpus.training)) == text[:cut]
    assert read_back(corpus.characters, torch.from_numpy(corpus.held_out)) == text[cut:]


def test_validation_blocks_do_not_overlap(book: Path) -> None:
    task = small(book, validation_blocks=10_000)
    held_out = len(task.corpus.held_out)
    blocks = torch.cat([batch.inputs for batch in task.validation()])
    assert len(blocks) == (held_out - 1) // 16
    joined = read_back(task.corpus.characters, blocks)
    assert len(joined) <= held_out


def test_whole_files_of_a_folder_are_held_out(tmp_path: Path) -> None:
    for number in range(20):
        folder = tmp_path / f"part{number % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.txt").write_text(chr(ord("A") + number) * 100)
    first = read_corpus(tmp_path, 0.1)
    characters = set(first.characters)
    assert len(characters) == 18  # 2 of 20 files are held out, and their characters are unknown
    assert first.held_out.tolist() == [0] * 200
    assert read_corpus(tmp_path, 0.1).sha256 == first.sha256


def test_a_folder_of_two_keeps_one_for_training(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 10)
    (tmp_path / "b.md").write_text("b" * 10)
    (tmp_path / "c.bin").write_bytes(b"\xff" * 10)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "d.txt").write_bytes(b"\xff" * 10)
    corpus = read_corpus(tmp_path, 0.5)
    assert (len(corpus.training), len(corpus.held_out)) == (10, 10)


def test_the_default_text_is_the_standard_library() -> None:
    first = read_corpus(None, 0.05)
    assert len(first.training) > 2_000_000
    assert 0.04 < len(first.held_out) / (len(first.training) + len(first.held_out)) < 0.1
    assert first.vocabulary <= 128
    assert {"\n", " ", "e", "_"} <= set(first.characters[:20])
    assert len(first.sha256) == 64


def test_the_fingerprint_follows_the_text(book: Path) -> None:
    before = small(book).fingerprint()
    book.write_text(book.read_text().replace("fox", "cat"))
    assert small(book).fingerprint() != before


def test_most_frequent_characters_have_tokens() -> None:
    points = np.repeat(np.arange(200, dtype=np.uint32), np.arange(200) + 1)  # 199 is the most frequent
    characters = most_frequent(np.bincount(points))
    assert characters == "".join(map(chr, range(199, 72, -1)))
    assert encode(np.array([199, 73, 72, 0x10FFFF], dtype=np.uint32), characters).tolist() == [1, 127, 0, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "text {path} is empty: there is no text to train on\ntry: give a file or folder with text"),
        (
            "grüße ".encode() + b"\xe4pfel",
            "text {path} is not UTF-8: byte 0xe4 at offset 8 (invalid continuation byte)\n"
            "try: convert it, e.g. iconv -f latin1 -t utf-8 bad.txt, or leave it out",
        ),
        (
            b"x" * 160,
            "the held-out part of text {path} has 16 characters: a block of 16 needs 17\n"
            "try: give a longer text, or a smaller block_size",
        ),
        (
            b"x" * 12,
            "the training part of text {path} has 11 characters: a block of 16 needs 17\n"
            "try: give a longer text, or a smaller block_size",
        ),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        small(path, held_out_fraction=0.1).prepare()
    assert str(caught.value) == message.format(path=path)


def test_a_bad_file_in_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text(VERSE * 50)
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    with pytest.raises(DataError) as caught:
        small(tmp_path).prepare()
    assert str(caught.value).startswith(f"text {tmp_path / 'bad.txt'} is not UTF-8: byte 0xff at offset 3 (")


def test_paths_that_hold_no_text(tmp_path: Path) -> None:
    missing, folder, pipe = tmp_path / "missing", tmp_path / "folder", tmp_path / "pipe"
    folder.mkdir()
    os.mkfifo(pipe)
    for path, message in (
        (missing, f"text {missing} does not exist"),
        (folder, f"folder {folder} has no text files: none ends in .csv, .html, .json"),
        (pipe, f"text {pipe} is neither a file nor a folder"),
    ):
        with pytest.raises(DataError) as caught:
            small(path).prepare()
        assert str(caught.value).startswith(message)


def test_a_folder_of_empty_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match="is empty: there is no text to train on"):
        small(tmp_path).prepare()


def test_a_text_too_large_to_hold(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "MAX_BYTES", 1 << 10)
    with pytest.raises(DataError, match=r"larger than 0 MiB \(at .*book\): every worker holds all of it"):
        small(book).prepare()


def test_a_file_that_cannot_be_read(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"text .*book cannot be read: Permission denied\ntry: check its permissions"):
        small(book).prepare()
