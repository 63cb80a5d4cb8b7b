"""Regression on a fixed random ReLU network: Potapczynski et al. 2024, "Scaling Laws of Einsums"."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from einsearch_cli.cache import Arrays, array_file, cached_arrays
from einsearch_cli.data import Batch
from einsearch_cli.errors import SpecError
from einsearch_cli.models.counts import NetworkCount, mlp_count
from einsearch_cli.settings import Whole
from einsearch_cli.structures import LayerSpec, MixtureOfExperts
from einsearch_cli.tasks import Task, TaskSettings, register, sent

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from einsearch_cli.models import StructuredNetwork

# Axes in this file: B batch, I input.

_LOOKED_UP = 32_768
"""Samples that are looked up in the pool at once, for several steps.

Samples are scattered in memory: one step at a time, the look-up took 0.5 of the 2.4 ms of a step of three narrow runs;
this way it takes 0.2 ms.
"""
LABELLING_CHUNK = 4096
"""Samples labelled at once: 16 MiB of activations at width 1024."""


class TeacherSettings(TaskSettings):
    """Settings of the `teacher` task."""

    input_size: Whole = Field(default=8, ge=1, le=65_536)
    """Numbers per sample, drawn from the standard normal distribution."""

    teacher_layers: Whole = Field(default=6, ge=2, le=100)
    """Linear layers of the teacher, including its output layer."""

    teacher_width: Whole = Field(default=1024, ge=1, le=16_384)
    """Size of the teacher's hidden layers."""

    teacher_bias: float = Field(default=0.3, ge=0)
    """Standard deviation of the teacher's biases; its weights have sqrt(2 / fan-in)."""

    teacher_seed: Whole = Field(default=0, ge=0, lt=1 << 63)
    """Seed of the teacher and of the samples; not the seed of a trial."""

    pool_size: Whole = Field(default=262_144, ge=1, le=16_777_216)
    """Labelled samples that training draws from, each once per pass; their labels are computed once and cached."""

    validation_size: Whole = Field(default=8_192, ge=1, le=1_048_576)
    """Labelled samples held out from training."""

    batch_size: Whole = Field(default=512, ge=1, le=1_048_576)
    """Samples per training step."""

    depth: Whole = Field(default=5, ge=2, le=200)
    """Linear layers of the student: input, hidden ones and the dense head; `depth - 2` matrices are width x width."""

    dense_input: bool = True
    """Whether the student's input layer is dense for every structure, as an embedding is.

    With 8 inputs, a structured low-rank layer of rank sqrt(8) loses most of the sample before any learning.
    """

    base_width: Whole = Field(default=64, ge=1, le=1_000_000)
    """Student width at which the learning rate applies unchanged; muP scales it for other widths."""

    learning_rate: float = Field(default=2e-2, gt=0)
    """Base learning rate of AdamW at `base_width`."""


@register
class TeacherTask(Task[TeacherSettings]):
    """Regression on the outputs of a fixed random network; loss is the mean squared error.

    Targets are centred and scaled to variance 1 over the pool, so that predicting a constant costs 1. Samples are
    independent; a run that needs more than `pool_size` sees them again, in a new order.

    >>> from einsearch_cli.structures import parse_structure
    >>> task = TeacherTask(TeacherSettings())
    >>> task.build_model(parse_structure("dense"), 64).flops_per_token().linears == 2 * (8 * 64 + 3 * 64 * 64)
    True
    """

    name = "teacher"
    settings_type = TeacherSettings
    _data: tuple[Batch, Batch] | None = None

    def prepare(self) -> None:
        """Label the pool and the held-out samples, or read them from the cache."""
        self._pool_and_held_out()

    def build_model(self, structure: LayerSpec, width: int) -> StructuredNetwork:
        """Build an MLP of the given width."""
        from einsearch_cli.models import MLP, structured_linear

        self._refuse_networks(structure)
        return MLP(
            self.settings.input_size,
            width,
            1,
            depth=self.settings.depth,
            make_linear=structured_linear(structure),
            dense_input=self.settings.dense_input,
        )

    def count(self, structure: LayerSpec, width: int) -> NetworkCount:
        """Parameters and FLOPs of the MLP that `build_model` builds, by arithmetic."""
        self._refuse_networks(structure)
        settings = self.settings
        return mlp_count(
            settings.input_size, width, 1, depth=settings.depth, layer=structure, dense_input=settings.dense_input
        )

    def _refuse_networks(self, structure: LayerSpec) -> None:
        if isinstance(structure, MixtureOfExperts) and structure.feed_forward:
            raise SpecError(
                f"{structure} on the teacher task: its experts are feed-forward networks of a transformer, "
                "and the task's network is not a transformer",
                remedy=f"use the text task, or dense-moe:experts={structure.experts},top={structure.top}",
            )

    def batches(self, seed: int) -> Iterator[Batch]:
        """Passes over the pool, each in a new order; an incomplete last batch is dropped."""
        pool, _ = self._pool_and_held_out()
        for chosen in self._draws(seed):
            yield Batch(pool.inputs[chosen], pool.targets[chosen])

    def joint_batches(self, seeds: Sequence[int], device: torch.device) -> Iterator[Batch]:
        """Batches of several runs, with the pool on the device unless a subclass has batches of its own."""
        import torch

        if type(self).batches is not TeacherTask.batches:
            yield from super().joint_batches(seeds, device)
        pool, size = self._pool_and_held_out()[0], self.tokens_per_batch
        tensors = [tensor.to(device) for tensor in pool]
        draws = zip(*map(self._draws, seeds), strict=True)
        steps = max(1, _LOOKED_UP // (len(seeds) * size))
        while True:
            chosen = sent(torch.cat([part for _ in range(steps) for part in next(draws)]), device)
            found = [tensor.index_select(0, chosen) for tensor in tensors]
            shaped = [part.view(steps, len(seeds), size, *part.shape[1:]) for part in found]
            for batch in zip(*shaped, strict=True):
                yield Batch(*(part.clone() for part in batch))  # products round by where a matrix begins in memory

    def _draws(self, seed: int) -> Iterator[Tensor]:
        """The numbers of the samples of each batch."""
        import torch

        generator, size = torch.Generator().manual_seed(seed), self.tokens_per_batch
        while True:
            order = torch.randperm(self.settings.pool_size, generator=generator)
            yield from (chosen for chosen in order.split(size) if len(chosen) == size)

    def validation(self) -> tuple[Batch, ...]:
        """The held-out samples as one batch."""
        return (self._pool_and_held_out()[1],)

    def loss(self, model: StructuredNetwork, batch: Batch) -> Tensor:
        """Mean squared error."""
        import torch.nn.functional as F

        return F.mse_loss(model(batch.inputs), batch.targets)

    @property
    def tokens_per_batch(self) -> int:
        """Samples per training step."""
        return min(self.settings.batch_size, self.settings.pool_size)

    @property
    def loss_unit(self) -> str:
        """The unit of the loss: the mean squared error divided by the target's variance."""
        return "mean squared error / target variance"

    def described(self) -> dict[str, str]:
        """The regression, its data and the student."""
        settings = self.settings
        inside = settings.depth - 2
        layers = f"the {inside} hidden one{'s' * (inside != 1)}, width × width"
        dense = "input layer and head are" if settings.dense_input else "the head is"
        return {
            "Task": f"Regression (task {self.name}): predict the output of a fixed random network, the teacher, from "
            f"{settings.input_size} normal numbers. A constant prediction has a loss of 1.",
            "Teacher": f"{settings.teacher_layers} linear layers with ReLU between them, {settings.teacher_width:,} wide, "
            f"random weights and biases (seed {settings.teacher_seed}).",
            "Data": f"{settings.pool_size:,} labelled samples in a new order on every pass; {settings.validation_size:,} "
            "others are held out.",
            "Network": f"An MLP (the student) of {settings.depth} linear layers with ReLU. The structure is in {layers}"
            f"{'' if settings.dense_input else ', and in the input layer'}; {dense} dense.",
            "Batch": f"{self.tokens_per_batch:,} samples a step.",
        }

    def data_files(self) -> Mapping[str, Path]:
        """The file of labels; another processor may compute labels that differ in the last digits."""
        self.prepare()
        path = array_file(self.cache_folder, "teacher", self._key())
        return {path.name: path}

    def reading_from(self, folder: Path) -> TeacherTask:
        """This task with its labels read from a folder."""
        return type(self)(self.settings, folder)

    def _key(self) -> dict[str, Any]:
        return self.settings.model_dump(mode="json", include=_LABEL_FIELDS) | {"format": 1}

    def _pool_and_held_out(self) -> tuple[Batch, Batch]:
        import torch

        if self._data is None:
            settings = self.settings
            arrays = cached_arrays(self.cache_folder, "teacher", self._key(), lambda: _label(settings))
            inputs, targets = torch.from_numpy(arrays["inputs"]), torch.from_numpy(arrays["targets"])
            cut = settings.pool_size
            self._data = Batch(inputs[:cut], targets[:cut]), Batch(inputs[cut:], targets[cut:])
        return self._data


_LABEL_FIELDS = {
    "input_size",
    "teacher_layers",
    "teacher_width",
    "teacher_bias",
    "teacher_seed",
    "pool_size",
    "validation_size",
}


def _label(settings: TeacherSettings) -> Arrays:
    """Draw the teacher and the samples and label them; the held-out samples follow the pool."""
    import torch

    generator = torch.Generator().manual_seed(settings.teacher_seed)
    hidden = [settings.teacher_width] * (settings.teacher_layers - 1)
    sizes = [settings.input_size, *hidden, 1]
    layers = [
        (
            torch.randn(fan_in, fan_out, generator=generator) * math.sqrt(2 / fan_in),
            torch.randn(fan_out, generator=generator) * settings.teacher_bias,
        )
        for fan_in, fan_out in itertools.pairwise(sizes)
    ]
    count = settings.pool_size + settings.validation_size
    inputs = torch.randn(count, settings.input_size, generator=generator)
    targets = torch.cat([_teach(layers, chunk) for chunk in inputs.split(LABELLING_CHUNK)])
    pool = targets[: settings.pool_size].double()
    scale = pool.std(correction=0).clamp_min(torch.finfo(torch.float32).tiny)
    standardised = ((targets.double() - pool.mean()) / scale).float()
    return {"inputs": inputs.numpy(), "targets": standardised.numpy()}


def _teach(layers: list[tuple[Tensor, Tensor]], x_BI: Tensor) -> Tensor:
    import torch

    *hidden, (weight, bias) = layers
    for hidden_weight, hidden_bias in hidden:
        x_BI = torch.addmm(hidden_bias, x_BI, hidden_weight).relu_()
    return torch.addmm(bias, x_BI, weight)
