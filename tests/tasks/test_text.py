"""The text task reads the same as a full training run."""

import itertools
from pathlib import Path

import pytest
import torch

from einsearch_cli.data.tokens import open_tokens
from einsearch_cli.errors import DataError, SpecError
from einsearch_cli.search.spec import load_study_spec
from einsearch_cli.tasks import AnyTask, open_task
from einsearch_cli.tasks.text import FEW_HELD_OUT, TextSettings, TextTask
from einsearch_cli.training.full import TrainSpec, train_full
from einsearch_cli.training.full.loading import load_model
from tests.tasks.contract import TaskContract, take
from tests.training.full.runs import CPU, TINY

BOOK = "".join(
    f"line {number}: the cat sat on the mat, then the {'other ' * (number % 3)}cat ate it\n" for number in range(400)
)
SMALL = {"context": 16, "batch": 4, "validation_blocks": 6}
TOKENIZERS = ["bytes", "characters", "bpe:280"]


def small(path: Path, cache: Path, **data: object) -> TextTask:
    settings = TextSettings.model_validate({"data": {"text": path, **data}, **SMALL})
    return TextTask(settings, cache)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book"
    path.write_text(BOOK, encoding="utf-8")
    return path


def test_a_short_held_out_part_is_named_with_a_remedy_that_is_enough(tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text("abcdefg " * 5000)

    def made(**settings: object) -> TextTask:
        data = {"text": text, **settings.pop("data", {})}  # type: ignore[dict-item]
        return TextTask(TextSettings.model_validate({"data": data, **settings}), tmp_path)

    problem, remedy = made().caution() or ("", "")
    assert problem.startswith("only 1,920 held-out bytes give the loss: differences of about 1%")
    assert remedy == (
        "a text 5 times as long, or in a study file task_settings: {data: {held_out_fraction: 0.21}}"
    )  # 2,000 bytes are held out, of which 15 rows of 128 can be cut
    assert made(data={"held_out_fraction": 0.21}).caution() is None
    assert made(validation_blocks=15).caution() is None, "the user asked for as few"
    text.write_text("abcdefg " * 1000)
    assert (made().caution() or ("", ""))[1] == "a text 21 times as long", "half of the text would not be enough"
    text.write_text("abcdefg " * 5 * 5000)
    enough = made()
    assert sum(batch.targets.numel() for batch in enough.validation()) >= FEW_HELD_OUT
    assert enough.caution() is None


class TestTextContract(TaskContract):
    def make(self, cache_folder: Path) -> AnyTask:
        path = cache_folder / "book"
        path.write_text(BOOK, encoding="utf-8")
        return small(path, cache_folder)


class TestSubwordContract(TaskContract):
    def make(self, cache_folder: Path) -> AnyTask:
        path = cache_folder / "book"
        path.write_text(BOOK, encoding="utf-8")
        return small(path, cache_folder, tokenizer="bpe:280")


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_rank_and_train_read_the_same_and_agree_on_the_loss(book: Path, tmp_path: Path, tokenizer: str) -> None:
    """Vocabulary, split, tokens and rows are equal, and so is the held-out loss of one network, to the last bit."""
    task = small(book, tmp_path, tokenizer=tokenizer, held_out_fraction=0.1)
    spec = TrainSpec.model_validate(
        {
            "model": TINY,
            "data": {"text": book, "tokenizer": tokenizer, "held_out_fraction": 0.1},
            "batch": 4,
            "steps": 3,
            "seed": 5,
            "validation": {"points": 1, "blocks": 6},
        }
    )
    data = open_tokens(spec.data, tmp_path)
    assert (task.data.vocabulary, task.data.digest) == (data.vocabulary, data.digest)
    assert task.settings.context == spec.context
    sampler = data.sampler(block=spec.context, batch=spec.batch, seed=spec.seed)
    for step, batch in enumerate(itertools.islice(task.batches(spec.seed), 40)):
        assert torch.equal(batch.inputs, sampler.batch_at(step).inputs)
    trained = train_full(spec, data, tmp_path / "run", CPU)
    model, _ = load_model(tmp_path / "run")
    with torch.no_grad():
        losses = [task.loss(model, batch).item() for batch in task.validation()]
    assert sum(losses) / len(losses) == trained.loss
    assert sum(len(batch.inputs) for batch in task.validation()) == 6


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_targets_are_the_next_tokens_of_the_text(book: Path, tmp_path: Path, tokenizer: str) -> None:
    task = small(book, tmp_path, tokenizer=tokenizer)
    assert task.data.tokenizer is not None
    for batch in [*take(task, 0, 3), *task.validation()]:
        for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
            assert torch.equal(inputs[1:], targets[:-1])
            assert task.data.tokenizer.decode(inputs.tolist()) in BOOK


def test_token_files_are_accepted(book: Path, tmp_path: Path) -> None:
    """The output of `einsearch tokenize` counts as the same data, so a study can continue with it."""
    of_text = small(book, tmp_path)
    folder = tmp_path / "tokens" / of_text.data.training.base.filename.parent.name  # type: ignore[union-attr]
    of_files = open_task("text", {"data": {"tokens": str(folder)}, **SMALL}, tmp_path)
    assert of_files.fingerprint() == of_text.fingerprint()
    assert of_files.loss_unit == of_text.loss_unit == "nats per byte"


def test_the_fingerprint_follows_the_tokens_and_not_the_path(book: Path, tmp_path: Path) -> None:
    before = small(book, tmp_path).fingerprint()
    (tmp_path / "copy").write_text(BOOK)
    assert small(tmp_path / "copy", tmp_path).fingerprint() == before
    others = [
        small(book, tmp_path, held_out_fraction=0.1),
        small(book, tmp_path, vocabulary=300),
        *(small(book, tmp_path, tokenizer=name) for name in ("characters", "bpe:256", "bpe:280", "bpe:300")),
    ]
    book.write_text(BOOK.replace("cat", "fox"))
    others.append(small(book, tmp_path))
    assert len({before, *(task.fingerprint() for task in others)}) == 8


def test_a_format_has_a_fingerprint_of_its_own(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = small(book, tmp_path).fingerprint()
    monkeypatch.setattr(TextTask, "format", TextTask.format + 1)
    assert small(book, tmp_path).fingerprint() != before


def test_a_teacher_from_before_formats_keeps_its_fingerprint() -> None:
    expected = "8517"
    assert open_task("teacher", {"pool_size": 64}).fingerprint()[:4] == expected


def test_the_unit_says_what_a_token_is(book: Path, tmp_path: Path) -> None:
    units = [small(book, tmp_path, tokenizer=name).loss_unit for name in (None, *TOKENIZERS)]
    assert units == ["nats per byte", "nats per byte", "nats per character", "nats per token"]


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("path", "books", "data: {text: books}"),
        ("vocabulary", 512, "data: {tokenizer: bpe:512}"),
        ("held_out_fraction", 0.1, "data: {held_out_fraction: 0.1}"),
        ("block_size", 64, "context: 64"),
        ("batch_size", 16, "batch: 16"),
    ],
)
def test_keys_of_earlier_versions_say_what_they_became(tmp_path: Path, key: str, value: object, remedy: str) -> None:
    study = tmp_path / "old.yaml"
    study.write_text(f"task: text\nstructures: [monarch]\ntask_settings:\n  layers: 1\n  {key}: {value}\n")
    with pytest.raises(SpecError) as caught:
        load_study_spec(study)
    assert caught.value.problem == (
        f"{study}:5: {key} is a key of an earlier version, which read texts differently from training runs"
    )
    assert caught.value.remedy == remedy


def test_paths_of_a_study_file_are_relative_to_it(book: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("task: text\nstructures: [monarch]\ntask_settings: {data: {text: book}}\n")
    task = load_study_spec(study).open_task()
    assert task.settings.data.text == book


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (160, "the held-out part of the corpus has 16 tokens: a block of 16 needs 17"),
        (12, "the training part of the corpus has 11 tokens: a block of 16 needs 17"),
    ],
)
def test_a_text_too_short_for_a_row_is_refused(tmp_path: Path, length: int, message: str) -> None:
    path = tmp_path / "short"
    path.write_text(("xyz" * length)[:length])
    with pytest.raises(DataError) as caught:
        small(path, tmp_path, held_out_fraction=0.1).prepare()
    assert str(caught.value) == f"{message}\ntry: give more text, or a shorter block"


def test_validation_rows_do_not_overlap(book: Path, tmp_path: Path) -> None:
    settings = TextSettings.model_validate({**SMALL, "data": {"text": book}, "validation_blocks": 10_000})
    task = TextTask(settings, tmp_path)
    rows = sum(len(batch.inputs) for batch in task.validation())
    assert rows == (len(task.data.held_out) - 1) // 16


def test_the_words_name_the_text_its_tokens_and_the_network(book: Path, tmp_path: Path) -> None:
    said = small(book, tmp_path, tokenizer="bpe:280").described()
    assert str(book) in said["Data"]
    assert said["Tokenizer"] == "bpe:280, 280 distinct tokens."
    assert "predict the next token" in said["Task"]
    assert "decoder-only transformer" in said["Network"]
    assert "predict the next character" in small(book, tmp_path, tokenizer="characters").described()["Task"]
