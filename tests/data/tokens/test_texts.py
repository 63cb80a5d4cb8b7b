import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from einsearch_cli.data.tokens import DataSettings, open_tokens, opening as opening_module
from einsearch_cli.errors import DataError, OutputError

VERSE = "the quick brown fox jumps over the lazy dog\n"
BOOK = "".join(f"{number} {VERSE}" for number in range(200))


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(BOOK, encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "texts"
    path.mkdir()
    for number in range(20):
        letters = chr(ord("A") + number) * 50
        (path / f"{number}.txt").write_text(f"text {number:02}\n{letters}" + "\n" * (number % 2))
    return path


def token_folder(cache: Path) -> Path:
    (meta,) = (cache / "tokens").glob("*/meta.json")
    return meta.parent


def count_encodings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    written: list[Path] = []
    write = opening_module.write_token_folder

    def counted(folder: Path, *arguments: object, **options: object) -> object:
        written.append(folder)
        return write(folder, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(opening_module, "write_token_folder", counted)
    return written


@pytest.mark.parametrize("tokenizer", ["bytes", "characters"])
def test_the_end_of_a_single_file_is_held_out(book: Path, tmp_path: Path, tokenizer: str) -> None:
    data = open_tokens(DataSettings(text=book, tokenizer=tokenizer, held_out_fraction=0.1), tmp_path / "cache")
    assert data.tokenizer is not None
    cut = len(BOOK) - round(0.1 * len(BOOK))
    assert data.tokenizer.decode(data.training.tolist()) == BOOK[:cut]
    assert data.tokenizer.decode(data.held_out.tolist()) == BOOK[cut:]
    assert data.described == f"text {book} as {tokenizer}"
    assert isinstance(data.training.base, np.memmap)


def test_whole_files_are_held_out_and_kept_apart(folder: Path, tmp_path: Path) -> None:
    data = open_tokens(DataSettings(text=folder, held_out_fraction=0.1), tmp_path / "cache")
    assert data.tokenizer is not None
    parts = [data.tokenizer.decode(part.tolist()) for part in (data.training, data.held_out)]
    texts = {path.read_text().removesuffix("\n") for path in folder.iterdir()}
    for part, count in zip(parts, (17, 3), strict=True):
        found = part.removesuffix("\n").replace("\ntext", "\0text").split("\0")  # a line break ends each
        assert len(found) == count
        assert set(found) <= texts


def test_a_folder_of_two_keeps_one_for_training(tmp_path: Path) -> None:
    path = tmp_path / "two"
    (path / ".git").mkdir(parents=True)
    (path / "a.txt").write_text("ab" * 5)
    (path / "b.md").write_text("bc" * 5)
    (path / "c.bin").write_bytes(b"\xff" * 10)
    (path / ".git" / "d.txt").write_bytes(b"\xff" * 10)
    data = open_tokens(DataSettings(text=path, held_out_fraction=0.5), tmp_path / "cache")
    assert (len(data.training), len(data.held_out)) == (11, 11)


def test_characters_come_from_the_training_part(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("ab" * 90 + "c" * 20)
    data = open_tokens(DataSettings(text=path, tokenizer="characters", held_out_fraction=0.1), tmp_path)
    assert data.vocabulary == 3
    assert data.held_out.tolist() == [0] * 20


def test_the_default_is_the_bytes_of_the_standard_library(tmp_path: Path) -> None:
    data = open_tokens(DataSettings(), tmp_path)
    assert (data.vocabulary, data.described) == (256, "the Python library's source as bytes")
    assert len(data.training) > 2_000_000
    assert b"def __init__(self" in data.training.tobytes()


def test_text_is_encoded_once(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = count_encodings(monkeypatch)
    first = open_tokens(DataSettings(text=book), tmp_path / "cache")
    second = open_tokens(DataSettings(text=book), tmp_path / "cache")
    assert len(written) == 1
    assert first.digest == second.digest
    np.testing.assert_array_equal(first.training, second.training)


@pytest.mark.parametrize("change", [{"tokenizer": "characters"}, {"held_out_fraction": 0.2}, {"text": "changed"}])
def test_other_settings_or_texts_are_encoded_again(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    first = open_tokens(DataSettings(text=book), tmp_path / "cache")
    written = count_encodings(monkeypatch)
    if change == {"text": "changed"}:
        book.write_text(BOOK.replace("fox", "cat"))
        change = {}
    second = open_tokens(DataSettings.model_validate({"text": book} | change), tmp_path / "cache")
    assert len(written) == 1
    assert first.digest != second.digest


@pytest.mark.parametrize("damage", ["cut off", "no meta", "damaged meta", "other key", "missing"])
def test_damaged_token_files_in_the_cache_are_written_again(book: Path, tmp_path: Path, damage: str) -> None:
    settings, cache = DataSettings(text=book), tmp_path / "cache"
    expected = open_tokens(settings, cache).training.tolist()
    folder = token_folder(cache)
    meta = folder / "meta.json"
    if damage == "cut off":
        os.truncate(folder / "train.bin", 100)
    elif damage == "no meta":
        meta.unlink()
    elif damage == "damaged meta":
        meta.write_text("{")
    elif damage == "other key":
        meta.write_text(json.dumps(json.loads(meta.read_text()) | {"key": "other"}))
    else:
        (folder / "val.bin").unlink()
    assert open_tokens(settings, cache).training.tolist() == expected
    assert json.loads(meta.read_text())["training_tokens"] == len(expected)


def test_a_failure_leaves_nothing_to_mistake_for_tokens(book: Path, tmp_path: Path) -> None:
    def fail(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_tokens(DataSettings(text=book), tmp_path / "cache", progress=fail)
    assert not list((tmp_path / "cache").rglob("*.bin"))
    assert not list((tmp_path / "cache").rglob("*draft*"))
    assert len(open_tokens(DataSettings(text=book), tmp_path / "cache").training) > 0


def test_drafts_of_a_killed_process_are_removed(book: Path, tmp_path: Path) -> None:
    def kill(_: float) -> None:
        os._exit(9)

    child = multiprocessing.get_context("fork").Process(
        target=open_tokens, args=(DataSettings(text=book), tmp_path / "cache", kill)
    )
    child.start()
    child.join()
    assert len(list((tmp_path / "cache").rglob("*draft*"))) == 2
    open_tokens(DataSettings(text=book), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*draft*"))


def test_progress_ends_at_one(folder: Path, tmp_path: Path) -> None:
    shares: list[float] = []
    open_tokens(DataSettings(text=folder), tmp_path / "cache", progress=shares.append)
    assert shares == sorted(shares)
    assert len(shares) == 20
    assert shares[-1] == 1


def _open(text: Path, cache: Path, log: Path) -> None:
    def slowly(_: float) -> None:
        with log.open("a") as file:
            file.write(f"encoded by {os.getpid()}\n")
        time.sleep(0.2)  # the others come while this one writes

    data = open_tokens(DataSettings(text=text), cache, slowly)
    with log.open("a") as file:
        file.write(f"{data.digest} {len(data.training)}\n")


def test_only_one_of_several_processes_encodes(book: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_open, args=(book, tmp_path / "cache", log)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    lines = log.read_text().splitlines()
    found = [line for line in lines if not line.startswith("encoded")]
    assert len(found) == 3
    assert len(set(found)) == 1
    assert len(lines) == 3 + 2  # one process told of the training and the held-out part


def refusal(settings: DataSettings, cache: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_tokens(settings, cache)
    return str(caught.value)


def test_texts_with_nothing_in_them(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.touch()
    assert refusal(DataSettings(text=path), tmp_path) == (
        f"text {path} is empty: there is no text to train on\ntry: give a file or folder with text"
    )
    path.write_text("x")
    assert refusal(DataSettings(text=path), tmp_path) == (
        f"the held-out part of text {path} is empty: it has 1 characters, too few to hold some of them out\n"
        "try: give more text, or another held_out_fraction"
    )
    path.write_text("xx" * 100)
    assert refusal(DataSettings(text=path), tmp_path) == (
        f"every token of text {path} as bytes is 120: there is nothing to learn\n"
        "try: give a corpus with at least two different tokens"
    )


def test_texts_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    (tmp_path / "good.txt").write_text(BOOK)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "bad.txt", tmp_path):
        assert refusal(DataSettings(text=path), tmp_path) == (
            f"text {tmp_path / 'bad.txt'} is not UTF-8: byte 0xff at offset 3 (invalid start byte)\n"
            "try: convert it, e.g. iconv -f latin1 -t utf-8 bad.txt, or leave it out"
        )
    for path, message in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "folder", "has no text files: none ends in .csv, .html, .json"),
        (tmp_path / "pipe", "is neither a file nor a folder"),
    ):
        assert f"{path} {message}" in refusal(DataSettings(text=path), tmp_path)
    with pytest.raises(DataError, match="no tokenizer 'morse'"):
        DataSettings(tokenizer="morse")


def test_a_file_that_cannot_be_read(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    expected = f"text {book} cannot be read: Permission denied\ntry: check its permissions"
    assert refusal(DataSettings(text=book), tmp_path) == expected


def test_a_cache_that_cannot_be_written(book: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write folder .*file.*: .*\ntry: .*XDG_CACHE_HOME"):
        open_tokens(DataSettings(text=book), tmp_path / "file")
