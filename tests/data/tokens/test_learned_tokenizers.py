"""Tokenizers learned from the training text; subwords compared with slow, explicit byte-pair encoding."""

import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from einsearch_cli.data.tokens import (
    DataSettings,
    TokenData,
    check_source,
    open_tokenizer,
    open_tokens,
    registry as module,
    write_tokens,
)
from einsearch_cli.data.tokens.subwords import HuggingFaceTokenizer
from einsearch_cli.errors import DataError

POEM = "".join(
    f"line {number}: the cat sat on the mat, then the {'other ' * (number % 3)}cat ate it\n" for number in range(400)
)


@pytest.fixture
def poem(tmp_path: Path) -> Path:
    path = tmp_path / "poem"
    path.write_text(POEM, encoding="utf-8")
    return path


def subwords(path: Path, size: int, cache: Path) -> TokenData:
    return open_tokens(DataSettings(text=path, tokenizer=f"bpe:{size}", held_out_fraction=0.1), cache)


def byte_pairs(text: str, merges: int) -> list[bytes]:
    """The most frequent pair of neighbours within a word becomes one token, again and again; ASCII only."""
    words = Counter(re.findall(r" ?[a-z]+| ?[0-9]+| ?[^\sa-z0-9]+|\s+", text))
    spelled = {word: [bytes([byte]) for byte in word.encode()] for word in words}
    merged = []
    for _ in range(merges):
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, count in words.items():
            for pair in zip(spelled[word], spelled[word][1:], strict=False):
                pairs[pair] += count
        (first, second), _ = pairs.most_common(1)[0]
        merged.append(first + second)
        for word, parts in spelled.items():
            joined: list[bytes] = []
            while parts:
                taken = 2 if parts[:2] == [first, second] else 1
                joined.append(b"".join(parts[:taken]))
                parts = parts[taken:]
            spelled[word] = joined
    return merged


def test_merges_are_of_the_most_frequent_pairs() -> None:
    # All pairs have different frequencies, so the order of equally frequent ones does not matter.
    text = " abcd" * 100 + " bcd" * 50 + " cd" * 27 + " xy" * 90 + " xyz" * 13 + " qxy" * 3 + " a" * 7
    tokenizer = HuggingFaceTokenizer.train([text], 256 + 6)
    assert tokenizer.vocabulary == 262
    found = [tokenizer.decode([token]).encode() for token in range(256, 262)]
    assert found == byte_pairs(text, 6)


def test_subwords_come_from_the_training_part(poem: Path, tmp_path: Path) -> None:
    data = subwords(poem, 300, tmp_path)
    expected = HuggingFaceTokenizer.train([POEM[: len(POEM) - round(0.1 * len(POEM))]], 300)
    assert data.tokenizer is not None
    assert data.tokenizer.to_json() == expected.to_json()
    assert data.tokenizer.decode(data.training.tolist()) + data.tokenizer.decode(data.held_out.tolist()) == POEM
    assert len(data.training) < 0.6 * len(POEM), "words are tokens"
    assert data.vocabulary == 300


def test_a_text_cut_into_pieces_has_the_tokens_of_the_whole(
    poem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = subwords(poem, 300, tmp_path / "whole")
    monkeypatch.setattr(module, "PIECE", 100)
    assert subwords(poem, 300, tmp_path / "cut").digest == whole.digest


def test_training_again_finds_the_same_subwords() -> None:
    first, *others = [HuggingFaceTokenizer.train([POEM], 400).to_json() for _ in range(4)]
    assert all(other == first for other in others), "also where pairs are equally frequent"


def test_subwords_are_found_once(poem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = subwords(poem, 300, tmp_path)
    monkeypatch.setattr(HuggingFaceTokenizer, "train", None)
    again = subwords(poem, 300, tmp_path)
    assert np.array_equal(first.training, again.training)
    assert again.digest == first.digest


def test_one_cache_keeps_sizes_and_versions_apart(poem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert subwords(poem, 300, tmp_path).digest != subwords(poem, 280, tmp_path).digest
    monkeypatch.setattr(HuggingFaceTokenizer, "package_version", staticmethod(lambda: "0.0"))
    monkeypatch.setattr(HuggingFaceTokenizer, "train", None)
    with pytest.raises(TypeError, match="not callable"):
        subwords(poem, 300, tmp_path)


def test_a_short_text_has_fewer_subwords(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_text("aaaa " * 20)
    assert 256 < subwords(path, 5_000, tmp_path).vocabulary < 270


def test_token_files_have_the_tokenizer_with_them(poem: Path, tmp_path: Path) -> None:
    write_tokens(poem, tmp_path / "tokens", "bpe:300", held_out_fraction=0.1)
    data = open_tokens(DataSettings(tokens=tmp_path / "tokens"), tmp_path)
    assert data.digest == subwords(poem, 300, tmp_path).digest
    assert data.tokenizer is not None
    assert data.tokenizer.decode(data.held_out.tolist()) == POEM[len(POEM) - len(POEM) // 10 :][-len(POEM) // 10 :]


@pytest.mark.parametrize("number", ["", "255", "65537", "many", "1e3", "9" * 5000, "-300", "٣٠٠"])
def test_other_numbers_of_subwords_are_refused(number: str) -> None:
    with pytest.raises(DataError) as caught:
        check_source(DataSettings(tokenizer=f"bpe:{number}"))
    shown = f"bpe:{number}"[:40]
    assert str(caught.value) == (
        f"tokenizer {shown!r}: bpe:N takes a number of subwords from 256 to 65,536\ntry: tokenizer: bpe:1024"
    )


@pytest.mark.parametrize("name", ["characters", "bpe:300"])
def test_without_a_text_there_is_nothing_to_learn_from(name: str) -> None:
    with pytest.raises(DataError) as caught:
        open_tokenizer(name)
    assert str(caught.value) == (
        f"tokenizer {name} is made from the training text, and here it is not read\n"
        f"try: give another tokenizer, or write token files with `einsearch tokenize --tokenizer {name}`"
    )


def test_without_the_package_the_command_to_install_it_is_given(
    poem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError) as caught:
        subwords(poem, 280, tmp_path)
    assert str(caught.value) == (
        "this tokenizer needs the package tokenizers, which is not installed\ntry: pip install 'einsearch[tokenizers]'"
    )
