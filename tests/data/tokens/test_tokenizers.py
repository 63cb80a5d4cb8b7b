import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import tokenizers

from einsearch_cli.data.tokens import BytesTokenizer, CharacterTokenizer, Tokenizer, open_tokenizer, tokenizer_from_json
from einsearch_cli.data.tokens.encoding import encode_document
from einsearch_cli.data.tokens.subwords import GPT2_PATTERN, HuggingFaceTokenizer, TiktokenTokenizer
from einsearch_cli.errors import DataError

TEXT = "Hello hello world,\n  an indented line\n\nthe end: 12 é\t漢😀\n\n\n"
MERGES = [b"he", b"ll", b"hell", b"hello", b" h", b" hello", b" w", b"or", b"\n\n", b"en", b"th", b"the"]


def merge_ranks() -> dict[bytes, int]:
    words = [bytes([byte]) for byte in range(256)] + MERGES
    return {word: rank for rank, word in enumerate(words)}


@pytest.fixture
def merge_table(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.tiktoken"
    lines = [f"{base64.b64encode(word).decode()} {rank}" for word, rank in merge_ranks().items()]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def tokenizer_json(tmp_path: Path) -> Path:
    """A byte-level tokenizer trained on the text."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 5, trainer)
    tokenizer.enable_truncation(4)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


class TokenizerContract:
    @pytest.fixture
    def tokenizer(self) -> Tokenizer:
        raise NotImplementedError

    def test_text_comes_back(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.decode(tokenizer.encode(TEXT).tolist()) == TEXT

    def test_tokens_are_below_the_vocabulary(self, tokenizer: Tokenizer) -> None:
        tokens = tokenizer.encode(TEXT)
        assert tokens.ndim == 1
        assert tokens.dtype.kind == "u"
        assert int(tokens.max()) < tokenizer.vocabulary
        assert tokenizer.end_of_text is None or tokenizer.end_of_text < tokenizer.vocabulary

    def test_it_survives_json(self, tokenizer: Tokenizer) -> None:
        again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
        assert type(again) is type(tokenizer)
        assert again.to_json() == tokenizer.to_json()
        assert (again.vocabulary, again.end_of_text) == (tokenizer.vocabulary, tokenizer.end_of_text)
        np.testing.assert_array_equal(again.encode(TEXT), tokenizer.encode(TEXT))

    def test_the_empty_text(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.encode("").tolist() == []
        assert tokenizer.decode([]) == ""

    def test_a_lone_surrogate_counts_as_a_question_mark(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.encode("a\ud800b").tolist() == tokenizer.encode("a?b").tolist()

    def test_numbers_that_are_not_tokens_do_not_break_decoding(self, tokenizer: Tokenizer) -> None:
        assert "a" in tokenizer.decode([*tokenizer.encode("a").tolist(), 999_999])

    def test_pieces_give_the_tokens_of_the_whole(self, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("einsearch_cli.data.tokens.encoding.PIECE", 5)
        text = (TEXT + "second line\nthird line\n\nfourth\nfifth\n") * 3
        parts = list(encode_document(text, tokenizer, separate=False))
        assert len(parts) == 9
        np.testing.assert_array_equal(np.concatenate(parts), tokenizer.encode(text))


class TestBytes(TokenizerContract):
    @pytest.fixture
    def tokenizer(self) -> Tokenizer:
        return open_tokenizer("bytes")

    def test_half_a_character(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.decode([97, 195]) == "a�"


class TestCharacters(TokenizerContract):
    @pytest.fixture
    def tokenizer(self) -> Tokenizer:
        return CharacterTokenizer.of([TEXT, "?"])

    def test_many_characters_take_two_bytes(self) -> None:
        text = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
        tokenizer = CharacterTokenizer.of([text])
        assert tokenizer.encode(text).tolist() == list(range(1, 301))
        assert tokenizer.encode("a").tolist() == [0]
        assert tokenizer.decode([0, 1]) == "�一"


class TestTiktoken(TokenizerContract):
    @pytest.fixture
    def tokenizer(self, merge_table: Path) -> Tokenizer:
        return open_tokenizer(f"tiktoken:{merge_table}")

    def test_tokens_are_the_packages(self, tokenizer: Tokenizer) -> None:
        special = {"<|endoftext|>": 268}
        encoding = tiktoken.Encoding("t", pat_str=GPT2_PATTERN, mergeable_ranks=merge_ranks(), special_tokens=special)
        assert tokenizer.encode(TEXT).tolist() == encoding.encode(TEXT)
        assert (tokenizer.vocabulary, tokenizer.end_of_text) == (269, 268)

    def test_special_tokens_in_a_text_are_text(self, tokenizer: Tokenizer) -> None:
        tokens = tokenizer.encode("<|endoftext|>").tolist()
        assert 268 not in tokens
        assert tokenizer.decode(tokens) == "<|endoftext|>"


class TestHuggingFace(TokenizerContract):
    @pytest.fixture
    def tokenizer(self, tokenizer_json: Path) -> Tokenizer:
        return open_tokenizer(f"huggingface:{tokenizer_json}")

    def test_a_folder_will_do(self, tokenizer: Tokenizer, tokenizer_json: Path) -> None:
        assert open_tokenizer(f"huggingface:{tokenizer_json.parent}").to_json() == tokenizer.to_json()

    def test_texts_are_not_cut(self, tokenizer: Tokenizer) -> None:
        """The file asks for at most four tokens."""
        assert len(tokenizer.encode(TEXT)) > 4
        assert tokenizer.end_of_text == 0


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        make()
    return str(caught.value)


@pytest.mark.parametrize("name", ["byte", "tiktoken", "tiktoken:", "huggingface", "bytes:x"])
def test_unknown_names(name: str) -> None:
    assert refusal(lambda: open_tokenizer(name)) == (
        f"no tokenizer {name!r}\ntry: use bytes, characters, bpe:N, tiktoken:NAME, tiktoken:FILE.tiktoken or huggingface:FILE"
    )


def test_an_unknown_encoding_names_the_known() -> None:
    message = refusal(lambda: open_tokenizer("tiktoken:gpt9"))
    assert message.startswith("tiktoken has no encoding 'gpt9'\ntry: use one of: cl100k_base, gpt2, ")


def test_an_encoding_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    assert refusal(lambda: open_tokenizer("tiktoken:gpt2")) == (
        "the merge table of tiktoken's 'gpt2' cannot be fetched: ConnectionError\n"
        "try: run it once with a network, set TIKTOKEN_CACHE_DIR to a folder that has the table, "
        "or use huggingface:FILE with a local tokenizer.json"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"aGU= 256\nnonsense\n", "line 2: b'nonsense' is not a word and a rank"),
        (b"aGU= x\n", "line 1: b'aGU= x' is not a word and a rank"),
        (b"aGU= 256\n", "has no rank for byte 0x00: all 256 bytes need one"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_damaged_merge_table(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "bad.tiktoken"
    if content is not None:
        path.write_bytes(content)
    text = refusal(lambda: open_tokenizer(f"tiktoken:{path}"))
    assert message in text
    assert text.endswith("try: give a merge table: lines of a word in base64, a space, and its rank")


def test_a_merge_table_of_another_pattern(tmp_path: Path, merge_table: Path) -> None:
    """Cut into words as GPT-2 does, it would silently give other tokens."""
    renamed = merge_table.rename(tmp_path / "cl100k_base.tiktoken")
    assert refusal(lambda: open_tokenizer(f"tiktoken:{renamed}")).startswith(
        f"merge table {renamed} is that of tiktoken's 'cl100k_base', which does not cut text into words as GPT-2 does\n"
        "try: give tiktoken:cl100k_base; "
    )


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), ("{}", "not a tokenizer.json")])
def test_a_file_that_is_not_a_tokenizer_json_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "t.json"
    if content is not None:
        path.write_text(content)
    text = refusal(lambda: open_tokenizer(f"huggingface:{path}"))
    assert text.startswith(f"tokenizer {path} cannot be read: {message}")


@pytest.mark.parametrize("package", ["tiktoken", "tokenizers"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    kind = TiktokenTokenizer if package == "tiktoken" else HuggingFaceTokenizer
    assert refusal(lambda: open_tokenizer(f"{kind.kind}:x")) == (
        f"this tokenizer needs the package {package}, which is not installed\ntry: pip install 'einsearch[{package}]'"
    )


def test_damaged_descriptions() -> None:
    assert "no tokenizer is of kind None" in refusal(lambda: tokenizer_from_json({}))
    for damaged in (
        {"kind": "tiktoken", "name": "x", "pattern": "x", "special_tokens": {}, "ranks": {"@": 0}},
        {"kind": "huggingface", "tokenizer_json": "{}"},
    ):
        assert f"kind {damaged['kind']!r} is damaged" in refusal(lambda damaged=damaged: tokenizer_from_json(damaged))


def test_equal_texts_give_equal_tokenizers() -> None:
    assert isinstance(tokenizer_from_json({"kind": "bytes"}), BytesTokenizer)
    assert CharacterTokenizer.of(["ab", "ba"]).to_json() == CharacterTokenizer.of(["abba"]).to_json()
