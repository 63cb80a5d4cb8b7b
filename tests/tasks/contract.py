"""The contract of tasks: see `Task`."""

from pathlib import Path

import torch

from einsearch_cli.data import Batch
from einsearch_cli.structures import parse_structure
from einsearch_cli.tasks import AnyTask

WIDTH = 32


def take(task: AnyTask, seed: int, count: int) -> list[Batch]:
    stream = task.batches(seed)
    return [next(stream) for _ in range(count)]


def equal(first: list[Batch], second: list[Batch]) -> bool:
    return all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


class TaskContract:
    """A subclass gives `make(cache_folder)`: a task, not yet prepared, small enough for a test."""

    def make(self, cache_folder: Path) -> AnyTask:
        raise NotImplementedError

    def test_the_same_seed_gives_the_same_batches(self, tmp_path: Path) -> None:
        task, again = self.make(tmp_path), self.make(tmp_path)
        assert equal(take(task, 5, 12), take(again, 5, 12))
        assert not equal(take(task, 5, 12), take(task, 6, 12))

    def test_streams_do_not_disturb_one_another(self, tmp_path: Path) -> None:
        task = self.make(tmp_path)
        first, second = task.batches(1), task.batches(2)
        mixed = [next(stream) for _ in range(4) for stream in (first, second)]
        assert equal(mixed[::2], take(task, 1, 4))

    def test_joint_batches_are_those_of_every_seed(self, tmp_path: Path) -> None:
        task, seeds = self.make(tmp_path), (3, 0, 3)
        joint = task.joint_batches(seeds, torch.device("cpu"))
        found = [next(joint) for _ in range(12)]
        for number, seed in enumerate(seeds):
            assert equal([Batch(*(tensor[number] for tensor in batch)) for batch in found], take(task, seed, 12))

    def test_validation_is_fixed_and_even(self, tmp_path: Path) -> None:
        task = self.make(tmp_path)
        first = task.validation()
        take(task, 3, 2)
        assert equal(list(first), list(self.make(tmp_path).validation()))
        assert len({batch.inputs.shape for batch in first}) == 1

    def test_tokens_per_batch(self, tmp_path: Path) -> None:
        task = self.make(tmp_path)
        (batch,) = take(task, 0, 1)
        tokens = batch.targets.shape[0] if batch.inputs.is_floating_point() else batch.targets.numel()
        assert task.tokens_per_batch == tokens

    def test_a_model_takes_the_batches_and_its_loss_has_gradients(self, tmp_path: Path) -> None:
        task = self.make(tmp_path)
        task.prepare()
        model = task.build_model(parse_structure("monarch"), WIDTH)
        loss = task.loss(model, take(task, 0, 1)[0])
        loss.backward()
        assert loss.shape == ()
        assert loss.item() > 0
        assert model.head.weight.grad is not None
        assert model.head.weight.grad.abs().max() > 0

    def test_the_count_is_that_of_the_network(self, tmp_path: Path) -> None:
        task = self.make(tmp_path)
        for text in ("dense", "monarch"):
            structure = parse_structure(text)
            assert task.count(structure, WIDTH) == task.build_model(structure, WIDTH).count()

    def test_fingerprint(self, tmp_path: Path) -> None:
        task = self.make(tmp_path)
        assert task.fingerprint() == self.make(tmp_path).fingerprint()
        other = type(task)(task.settings.model_copy(update={"learning_rate": 0.123}), tmp_path)
        assert other.fingerprint() != task.fingerprint()

    def test_it_says_in_words_what_is_trained(self, tmp_path: Path) -> None:
        task = self.make(tmp_path)
        said = task.described()
        assert {"Task", "Batch"} <= said.keys()
        assert all(words.strip() for words in said.values())
        assert f"{task.tokens_per_batch:,}" in said["Batch"]
