"""The subwords of the text task, against byte-pair encoding done slowly and in the open."""

import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from einsearch_cli.data import AnyTask, TextSettings, TextTask, open_task, subword_corpus as module
from einsearch_cli.data.subword_corpus import SubwordCorpus, read_subwords
from einsearch_cli.data.tokens.subwords import HuggingFaceTokenizer
from einsearch_cli.errors import DataError
from tests.data.contract import TaskContract, take

POEM = "".join(
    f"line {number}: the cat sat on the mat, then the {'other ' * (number % 3)}cat ate it\n" for number in range(400)
)
SMALL = {"block_size": 16, "batch_size": 4, "validation_blocks": 6, "vocabulary": 280}


@pytest.fixture
def poem(tmp_path: Path) -> Path:
    path = tmp_path / "poem"
    path.write_text(POEM, encoding="utf-8")
    return path


class TestSubwordContract(TaskContract):
    def make(self, cache_folder: Path) -> AnyTask:
        path = cache_folder / "poem"
        path.write_text(POEM, encoding="utf-8")
        return TextTask(TextSettings.model_validate({"path": path, **SMALL}), cache_folder)


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
    # Every pair has a frequency of its own, so that the order of equally frequent ones does not matter.
    text = " abcd" * 100 + " bcd" * 50 + " cd" * 27 + " xy" * 90 + " xyz" * 13 + " qxy" * 3 + " a" * 7
    tokenizer = HuggingFaceTokenizer.train([text], 256 + 6)
    assert tokenizer.vocabulary == 262
    found = [tokenizer.decode([token]).encode() for token in range(256, 262)]
    assert found == byte_pairs(text, 6)


def test_tokens_are_the_text(poem: Path, tmp_path: Path) -> None:
    corpus = read_subwords(poem, 0.1, 300, tmp_path)
    tokenizer = HuggingFaceTokenizer.train([POEM[: len(POEM) - round(0.1 * len(POEM))]], 300)
    assert tokenizer.decode(corpus.training) + tokenizer.decode(corpus.held_out) == POEM
    assert len(corpus.training) < 0.6 * len(POEM), "words are tokens"
    assert corpus.vocabulary == 300
    assert corpus.training.max() < 300


def test_a_text_cut_into_pieces_has_the_tokens_of_the_whole(
    poem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_subwords(poem, 0.1, 300, tmp_path / "whole")
    monkeypatch.setattr(module, "PIECE", 100)
    cut = read_subwords(poem, 0.1, 300, tmp_path / "cut")
    assert np.array_equal(whole.training, cut.training)
    assert whole.sha256 == cut.sha256


def test_training_again_finds_the_same_subwords() -> None:
    first, *others = [HuggingFaceTokenizer.train([POEM], 400).to_json() for _ in range(4)]
    assert all(other == first for other in others), "also where pairs are equally frequent"


def test_subwords_are_found_once(poem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_subwords(poem, 0.1, 300, tmp_path)
    monkeypatch.setattr(HuggingFaceTokenizer, "train", None)
    again = read_subwords(poem, 0.1, 300, tmp_path)
    assert np.array_equal(first.training, again.training)
    assert np.array_equal(first.held_out, again.held_out)
    assert (again.vocabulary, again.sha256) == (first.vocabulary, first.sha256)


def test_one_cache_keeps_texts_and_vocabularies_apart(poem: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(POEM[::-1], encoding="utf-8")
    wanted = [(poem, 300), (poem, 280), (other, 300)]
    for number, (path, vocabulary) in enumerate(wanted):
        shared = read_subwords(path, 0.1, vocabulary, tmp_path / "shared")
        alone = read_subwords(path, 0.1, vocabulary, tmp_path / str(number))
        assert shared.sha256 == alone.sha256
        assert shared.vocabulary == vocabulary


def test_a_short_text_has_fewer_subwords(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_text("aaaa " * 20)
    corpus = read_subwords(path, 0.1, 5_000, tmp_path)
    assert 256 < corpus.vocabulary < 270


def test_the_unit_is_the_token(poem: Path, tmp_path: Path) -> None:
    settings = {"path": str(poem), "block_size": 16}
    characters = open_task("text", settings, tmp_path)
    subwords = open_task("text", settings | {"vocabulary": 280}, tmp_path)
    assert (characters.loss_unit, subwords.loss_unit) == ("nats per character", "nats per token")
    with pytest.raises(DataError) as caught:
        open_task("text", settings | {"vocabulary": 280, "block_size": 1 << 15}, tmp_path).prepare()
    assert re.fullmatch(
        rf"the training part of text {poem} has \d+ tokens: a block of 32768 needs 32769\n"
        "try: give a longer text, or a smaller block_size",
        str(caught.value),
    )


def test_every_vocabulary_has_a_fingerprint_of_its_own(poem: Path, tmp_path: Path) -> None:
    tasks = [open_task("text", {"path": str(poem), "vocabulary": size}, tmp_path) for size in (None, 256, 280, 300)]
    assert len({task.fingerprint() for task in tasks}) == 4


def test_characters_keep_the_fingerprint_that_they_had() -> None:
    assert "vocabulary" not in TextSettings().model_dump(mode="json")
    assert TextSettings(vocabulary=512).model_dump(mode="json")["vocabulary"] == 512


def test_the_corpus_digest_sees_tokens_and_where_they_are_split() -> None:
    def corpus(training: list[int], held_out: list[int], vocabulary: int = 300) -> str:
        parts = (np.array(part, dtype=np.uint16) for part in (training, held_out))
        return SubwordCorpus(*parts, vocabulary).sha256

    variants = [corpus([1, 2], [3]), corpus([1], [2, 3]), corpus([1, 2], [4]), corpus([1, 2], [3], 301)]
    assert len(set(variants)) == 4


def test_inputs_and_targets_are_one_token_apart(poem: Path, tmp_path: Path) -> None:
    task = TextTask(TextSettings.model_validate({"path": poem, **SMALL}), tmp_path)
    for batch in [*take(task, 0, 2), *task.validation()]:
        assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
        assert int(batch.targets.max()) < task.corpus.vocabulary


def test_without_the_package_the_command_to_install_it_is_given(
    poem: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError) as caught:
        open_task("text", {"path": str(poem), "vocabulary": 280}, tmp_path).prepare()
    assert str(caught.value) == (
        "this tokenizer needs the package tokenizers, which is not installed\ntry: pip install 'einsearch[tokenizers]'"
    )
