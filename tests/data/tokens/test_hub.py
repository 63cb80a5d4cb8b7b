"""Hugging Face datasets from local files; nothing is downloaded."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from einsearch_cli.data.tokens import DatasetSettings, DataSettings, TokenData, open_tokens, opening as opening_module
from einsearch_cli.data.tokens.streaming import StreamSampler, TokenStream
from einsearch_cli.errors import DataError

ROWS = [f"document {number} " + chr(ord("a") + number % 26) * (number % 7) for number in range(100)]


@pytest.fixture(autouse=True)
def quiet() -> None:
    import datasets

    datasets.disable_progress_bars()


def write(folder: Path, reader: str, rows: list[str] = ROWS) -> Path:
    path = folder / f"rows.{reader}"
    if reader == "json":
        path.write_text("".join(json.dumps({"number": n, "text": row}) + "\n" for n, row in enumerate(rows)))
    elif reader == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": rows, "number": list(range(len(rows)))}), path)
    elif reader == "csv":
        path.write_text("text,number\n" + "".join(f"{row},{number}\n" for number, row in enumerate(rows)))
    else:
        path.write_text("\n".join(rows) + "\n")
    return path


def settings(path: Path, reader: str = "json", **more: Any) -> DataSettings:
    return DataSettings(dataset=DatasetSettings(name=reader, files=(path,), **more))


def read_back(data: TokenData, tokens: Any) -> str:
    assert data.tokenizer is not None
    return data.tokenizer.decode(tokens.tolist())


@pytest.mark.parametrize("reader", ["json", "parquet", "csv", "text"])
def test_local_files(tmp_path: Path, reader: str) -> None:
    path = write(tmp_path, reader)
    data = open_tokens(settings(path, reader), tmp_path / "cache")
    held_out = ROWS[19::20]
    assert read_back(data, data.held_out) == "".join(f"{row}\n" for row in held_out)
    assert read_back(data, data.training) == "".join(f"{row}\n" for row in ROWS if row not in held_out)
    assert data.described == f"dataset {reader} of {path} as bytes"


@pytest.mark.parametrize(("fraction", "count"), [(0.05, 5), (0.3, 30), (0.07, 7), (0.5, 50)])
def test_the_fraction_is_one_of_documents(tmp_path: Path, fraction: float, count: int) -> None:
    given = settings(write(tmp_path, "json")).model_copy(update={"held_out_fraction": fraction})
    data = open_tokens(given, tmp_path / "cache")
    assert read_back(data, data.held_out).count("document") == count


def test_a_split_of_its_own_is_held_out(tmp_path: Path) -> None:
    given = settings(write(tmp_path, "json"), split="train[:40]", held_out_split="train[90:]")
    data = open_tokens(given, tmp_path / "cache")
    assert read_back(data, data.training) == "".join(f"{row}\n" for row in ROWS[:40])
    assert read_back(data, data.held_out) == "".join(f"{row}\n" for row in ROWS[90:])
    other = settings(write(tmp_path, "json"), split="train[:50]", held_out_split="train[90:]")
    assert len(open_tokens(other, tmp_path / "cache").training) > len(data.training)


def test_documents_are_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(write(tmp_path, "json"))
    first = open_tokens(given, tmp_path / "cache")
    monkeypatch.setattr(opening_module, "write_token_folder", None)
    assert open_tokens(given, tmp_path / "cache").digest == first.digest


def streamed(tmp_path: Path, reader: str = "json", **more: Any) -> TokenData:
    options = {"streaming": True, "held_out_documents": 10} | more
    return open_tokens(settings(write(tmp_path, reader), reader, **options), tmp_path / "cache")


@pytest.mark.parametrize("reader", ["json", "parquet", "text"])
def test_a_stream_gives_the_documents_in_order(tmp_path: Path, reader: str) -> None:
    data = streamed(tmp_path, reader, shuffle_buffer=0)
    assert isinstance(data.training, TokenStream)
    assert read_back(data, data.held_out) == "".join(f"{row}\n" for row in ROWS[:10])
    expected = "".join(f"{row}\n" for row in ROWS[10:] * 2)  # two epochs
    sampler = data.sampler(block=8, batch=16, seed=0)
    steps = [sampler.batch_at(step) for step in range(20)]
    assert read_back(data, torch.cat([step.inputs.flatten() for step in steps])) == expected[: 20 * 128]
    assert read_back(data, torch.cat([step.targets.flatten() for step in steps])) == expected[1 : 20 * 128 + 1]


def test_a_step_is_the_same_whatever_came_before(tmp_path: Path) -> None:
    data = streamed(tmp_path, shuffle_buffer=16)
    straight = data.sampler(block=8, batch=16, seed=1)
    seen = [straight.batch_at(step) for step in range(20)]
    jumping = data.sampler(block=8, batch=16, seed=1)
    for step in (19, 3, 4, 4, 12):
        assert torch.equal(jumping.batch_at(step).inputs, seen[step].inputs)
        assert torch.equal(jumping.batch_at(step).targets, seen[step].targets)


def test_epochs_and_seeds_shuffle_documents(tmp_path: Path) -> None:
    data = streamed(tmp_path, shuffle_buffer=100)
    stream = data.training
    assert isinstance(stream, TokenStream)

    def epoch(number: int, seed: int) -> list[str]:
        return read_back(data, np.concatenate(list(stream.epoch(number, seed)))).splitlines()

    orders = [epoch(0, 0), epoch(1, 0), epoch(0, 1)]
    assert all(sorted(order) == sorted(ROWS[10:]) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert epoch(1, 0) == orders[1]


def test_processes_share_one_batch_of_a_stream(tmp_path: Path) -> None:
    data = streamed(tmp_path)
    whole = data.sampler(block=8, batch=4, seed=0).batch_at(3)
    parts = [data.sampler(block=8, batch=4, seed=0, rank=rank, world_size=2).batch_at(3) for rank in range(2)]
    assert torch.equal(torch.cat([part.inputs for part in parts]), whole.inputs)


def test_the_digest_of_a_stream_follows_its_settings(tmp_path: Path) -> None:
    first = streamed(tmp_path).digest
    assert streamed(tmp_path).digest == first
    assert streamed(tmp_path, shuffle_buffer=3).digest != first
    write(tmp_path, "json", ["changed", *ROWS])
    changed = settings(tmp_path / "rows.json", streaming=True, held_out_documents=10)
    assert open_tokens(changed, tmp_path / "cache").digest != first


def test_a_stream_shorter_than_a_batch(tmp_path: Path) -> None:
    sampler = streamed(tmp_path).sampler(block=1024, batch=4, seed=0)
    assert isinstance(sampler, StreamSampler)
    with pytest.raises(DataError) as caught:
        sampler.batch_at(0)
    length = sum(len(row) + 1 for row in ROWS[10:])
    assert str(caught.value) == (
        f"dataset json of {tmp_path / 'rows.json'} has {length:,} tokens to train on: a batch takes 4,096\n"
        "try: give more text, a smaller batch or a shorter block, or turn streaming off"
    )


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        make()
    return str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_that_cannot_be_loaded_are_refused(tmp_path: Path, streaming: bool) -> None:
    good = write(tmp_path, "json")
    broken = tmp_path / "broken.json"
    broken.write_text("not json\n")
    cache = tmp_path / "cache"
    for given, message in (
        (
            settings(tmp_path / "missing.json", streaming=streaming),
            "cannot be loaded: FileNotFoundError: Unable to find",
        ),
        (settings(broken, streaming=streaming), "cannot be loaded: "),
        (settings(good, split="test", streaming=streaming), "split 'test', cannot be loaded: ValueError: "),
    ):
        text = refusal(lambda given=given: open_tokens(given, cache))
        assert text.startswith("dataset json of ")
        assert message in text
        assert text.endswith(
            "try: check name, split and files; a dataset of the hub has to be fetched once with a network"
        )
    text = refusal(lambda: open_tokens(settings(good, column="body", streaming=streaming), cache))
    assert text == f"dataset json of {good} has no column 'body'\ntry: give as column one of: number, text"
    text = refusal(lambda: open_tokens(settings(good, column="number", streaming=streaming), cache))
    assert text.startswith(f"dataset json of {good}, row 0: number is int, not text\ntry: ")


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        assert arguments == ("owner/name", "plain")
        assert options == {"split": "train", "revision": "abc", "streaming": False}
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub\nmore")

    monkeypatch.setattr("datasets.load_dataset", fail)
    given = DataSettings(dataset=DatasetSettings(name="owner/name", configuration="plain", revision="abc"))
    assert refusal(lambda: open_tokens(given, tmp_path)).startswith(
        "dataset owner/name, split 'train', cannot be loaded: ConnectionError: Couldn't reach 'owner/name' on the Hub\n"
    )


def test_a_stream_has_no_characters_to_take(tmp_path: Path) -> None:
    given = settings(write(tmp_path, "json"), streaming=True).model_copy(update={"tokenizer": "characters"})
    assert refusal(lambda: open_tokens(given, tmp_path)).startswith(
        "tokenizer characters is made from the training text"
    )


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refusal(lambda: open_tokens(settings(write(tmp_path, "json")), tmp_path)) == (
        "Hugging Face datasets need the package datasets, which is not installed\ntry: pip install 'einsearch[datasets]'"
    )
