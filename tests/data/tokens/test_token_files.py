import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from einsearch_cli.data.tokens import BytesTokenizer, DataSettings, binary as binary_module, open_tokens
from einsearch_cli.data.tokens.binary import Scan, map_tokens, scan
from einsearch_cli.errors import DataError

TOKENS = np.random.default_rng(0).integers(0, 65, 5000).astype("<u2")


def write(path: Path, tokens: np.ndarray = TOKENS) -> Path:
    path.parent.mkdir(exist_ok=True)
    tokens.tofile(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "data" / "train.bin")
    write(tmp_path / "data" / "val.bin", TOKENS[:500])
    return tmp_path / "data"


def refusal(settings: DataSettings, cache: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_tokens(settings, cache)
    return str(caught.value)


def test_a_folder_as_nanogpt_writes_it(folder: Path, tmp_path: Path) -> None:
    data = open_tokens(DataSettings(tokens=folder, vocabulary=65), tmp_path)
    np.testing.assert_array_equal(data.training, TOKENS)
    np.testing.assert_array_equal(data.held_out, TOKENS[:500])
    assert (data.vocabulary, data.tokenizer, data.described) == (65, None, f"tokens {folder}")
    assert isinstance(data.training, np.ndarray)
    assert isinstance(data.training.base, np.memmap)  # and not read into memory


def test_the_end_of_a_single_file_is_held_out(tmp_path: Path) -> None:
    path = write(tmp_path / "all.bin")
    data = open_tokens(DataSettings(tokens=path, vocabulary=65, held_out_fraction=0.1), tmp_path)
    np.testing.assert_array_equal(data.training, TOKENS[:4500])
    np.testing.assert_array_equal(data.held_out, TOKENS[4500:])


@pytest.mark.parametrize("token_type", ["uint8", "uint16", "uint32"])
def test_every_type(tmp_path: Path, token_type: str) -> None:
    path = write(tmp_path / "all.bin", TOKENS.astype(token_type))
    settings = DataSettings.model_validate({"tokens": path, "vocabulary": 65, "token_type": token_type})
    np.testing.assert_array_equal(open_tokens(settings, tmp_path).training, TOKENS[:4750])


def test_meta_describes_the_token_files(folder: Path, tmp_path: Path) -> None:
    (folder / "meta.json").write_text(json.dumps({"vocabulary": 256, "tokenizer": {"kind": "bytes"}}))
    data = open_tokens(DataSettings(tokens=folder), tmp_path)
    assert data.vocabulary == 256
    assert isinstance(data.tokenizer, BytesTokenizer)
    assert open_tokens(DataSettings(tokens=folder, vocabulary=320), tmp_path).vocabulary == 320


def test_the_digest_follows_the_tokens_and_their_split_alone(folder: Path, tmp_path: Path) -> None:
    first = open_tokens(DataSettings(tokens=folder, vocabulary=65), tmp_path).digest
    assert len(first) == 64
    copy = tmp_path / "copy"
    write(copy / "train.bin")
    write(copy / "val.bin", TOKENS[:500])
    assert open_tokens(DataSettings(tokens=copy, vocabulary=70), tmp_path).digest == first
    changed = TOKENS.copy()
    changed[4999] ^= 1
    write(copy / "train.bin", changed)
    assert open_tokens(DataSettings(tokens=copy, vocabulary=70), tmp_path).digest != first
    whole = [
        open_tokens(DataSettings(tokens=folder / "train.bin", vocabulary=65, held_out_fraction=part), tmp_path).digest
        for part in (0.1, 0.2)
    ]
    assert len({first, *whole}) == 3


def test_a_scan_is_what_reading_all_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary_module, "CHUNK_BYTES", 1 << 10)
    path = write(tmp_path / "all.bin", TOKENS + 7)
    expected = Scan(hashlib.sha256(path.read_bytes()).hexdigest(), int(TOKENS.min()) + 7, int(TOKENS.max()) + 7)
    assert scan(path, map_tokens(path, "uint16"), tmp_path) == expected


def test_a_token_beyond_the_vocabulary(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary_module, "CHUNK_BYTES", 1 << 10)
    tokens = TOKENS.copy()
    tokens[[3210, 4000]] = 65, 900
    write(folder / "train.bin", tokens)
    assert refusal(DataSettings(tokens=folder, vocabulary=65), tmp_path) == (
        f"{folder / 'train.bin'}: token 65 at offset 3,210 (byte 6,420): a vocabulary of 65 ends at 64; "
        "the largest token is 900\ntry: give vocabulary: 901 or more, or the right token_type (read as uint16)"
    )


def test_a_token_beyond_the_vocabulary_in_the_held_out_part(folder: Path, tmp_path: Path) -> None:
    write(folder / "val.bin", TOKENS + 1)
    assert refusal(DataSettings(tokens=folder, vocabulary=65), tmp_path).startswith(
        f"{folder / 'val.bin'}: token 65 at"
    )


def test_an_odd_length(folder: Path, tmp_path: Path) -> None:
    (folder / "train.bin").write_bytes(b"\1" * 9999)
    assert refusal(DataSettings(tokens=folder, vocabulary=65), tmp_path) == (
        f"{folder / 'train.bin'} has 9,999 bytes: tokens of type uint16 take 2 bytes each\n"
        "try: copy it again if it was cut off, or give the type it was written in as token_type"
    )


def test_an_empty_file(folder: Path, tmp_path: Path) -> None:
    (folder / "val.bin").write_bytes(b"")
    assert refusal(DataSettings(tokens=folder, vocabulary=65), tmp_path) == (
        f"{folder / 'val.bin'} is empty: there are no tokens in it\ntry: write it again, e.g. with `einsearch tokenize`"
    )


def test_a_corpus_of_one_token(folder: Path, tmp_path: Path) -> None:
    write(folder / "train.bin", np.full(5000, 7, dtype="<u2"))
    assert refusal(DataSettings(tokens=folder, vocabulary=65), tmp_path) == (
        f"every token of tokens {folder} is 7: there is nothing to learn\n"
        "try: give a corpus with at least two different tokens"
    )


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("unpickled",))


def test_meta_pkl_is_not_unpickled(folder: Path, tmp_path: Path) -> None:
    (folder / "meta.pkl").write_bytes(pickle.dumps(Bomb()))
    assert refusal(DataSettings(tokens=folder), tmp_path) == (
        f"{folder} has no meta.json that says how large the vocabulary is "
        "(meta.pkl is not read: unpickling a file runs whatever is in it)\n"
        "try: give data.vocabulary, for these files at least 65"
    )
    assert open_tokens(DataSettings(tokens=folder, vocabulary=65), tmp_path).vocabulary == 65


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ("{", "meta.json is not JSON: Expecting property name"),
        ("{}", "meta.json: vocabulary is missing"),
        ('{"vocabulary": 65, "vocab": 1}', "meta.json: unknown key 'vocab'"),
        (
            '{"vocabulary": 65, "token_type": "int8"}',
            "meta.json: token_type is 'int8': one of uint8, uint16, uint32 is needed",
        ),
        (
            '{"vocabulary": 65, "training_tokens": 5001}',
            "train.bin has 5,000 tokens, and meta.json next to it says 5,001",
        ),
        ('{"vocabulary": 65, "tokenizer": {"kind": "morse"}}', "no tokenizer is of kind 'morse'"),
        (
            '{"vocabulary": 65, "tokenizer": {"kind": "characters"}}',
            "the description of a tokenizer of kind 'characters'",
        ),
        ("[1]", "meta.json holds [1]: a mapping of keys is needed"),
    ],
)
def test_a_damaged_meta_json(folder: Path, tmp_path: Path, meta: str, message: str) -> None:
    (folder / "meta.json").write_text(meta)
    assert message in refusal(DataSettings(tokens=folder), tmp_path)


def test_two_types(folder: Path, tmp_path: Path) -> None:
    (folder / "meta.json").write_text('{"vocabulary": 65, "token_type": "uint16"}')
    message = refusal(DataSettings(tokens=folder, token_type="uint8"), tmp_path)
    assert message.startswith(f"token_type is uint8, and {folder / 'meta.json'} says uint16\ntry: ")


def test_paths_without_tokens(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert refusal(DataSettings(tokens=missing), tmp_path).startswith(
        f"tokens {missing} do not exist\ntry: give a .bin"
    )
    assert refusal(DataSettings(tokens=tmp_path), tmp_path).startswith(f"folder {tmp_path} has no train.bin\ntry: give")


def test_a_vocabulary_below_the_tokenizers(folder: Path, tmp_path: Path) -> None:
    assert refusal(DataSettings(tokens=folder, tokenizer="bytes", vocabulary=65), tmp_path) == (
        "vocabulary is 65: the tokenizer has 256 tokens\ntry: leave vocabulary out, or give a larger number"
    )


def test_another_tokenizer_than_meta_json_holds(folder: Path, tmp_path: Path) -> None:
    meta = folder / "meta.json"
    meta.write_text(json.dumps({"vocabulary": 65, "tokenizer": {"kind": "characters", "characters": "ab"}}))
    assert open_tokens(DataSettings(tokens=folder, tokenizer="characters"), tmp_path).vocabulary == 65
    assert refusal(DataSettings(tokens=folder, tokenizer="bytes"), tmp_path) == (
        f"tokenizer is bytes, and the files in {folder} were written with another, which meta.json holds\n"
        "try: leave tokenizer out"
    )
    meta.write_text(json.dumps({"vocabulary": 256, "tokenizer": {"kind": "bytes"}}))
    assert open_tokens(DataSettings(tokens=folder, tokenizer="bytes"), tmp_path).vocabulary == 256
    meta.write_text(json.dumps({"vocabulary": 65, "tokenizer": {"kind": "bytes"}}))
    assert refusal(DataSettings(tokens=folder), tmp_path).startswith("vocabulary is 65: the tokenizer has 256 tokens")


def test_characters_cannot_be_guessed(folder: Path, tmp_path: Path) -> None:
    message = refusal(DataSettings(tokens=folder, tokenizer="characters"), tmp_path)
    assert message.startswith("tokenizer characters is made from the training text")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": "a", "text": "b"}, "the tokens come from one place, and tokens and text are given"),
        ({"token_type": "uint8"}, "token_type describes token files"),
        ({"vocabulary": 1}, "greater than or equal to 2"),
        ({"held_out_fraction": 0}, "greater than 0"),
        ({"path": "a"}, "Extra inputs"),
        ({"dataset": {"name": "json"}}, "the reader 'json' needs files"),
        (
            {"dataset": {"name": "a/b", "files": ["c"]}},
            "files are read by one of json, parquet, csv, text, not by 'a/b'",
        ),
        ({"dataset": {"name": "a/b", "split": "train[:9]", "streaming": True}}, "a stream has no slices"),
    ],
)
def test_settings_that_contradict_themselves(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataSettings.model_validate(settings)
