"""Prediction of the next pixel of small patches of images: Potapczynski et al. 2024, arXiv 2410.02117."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import Field

from einsearch_cli.cache import Arrays, array_file, cached_arrays, cached_for_files
from einsearch_cli.data import Batch
from einsearch_cli.data.images import (
    DIGITS,
    Pixels,
    content_digest,
    digit_rows,
    image_files,
    largest_square,
    patch_rows,
)
from einsearch_cli.data.tokens.block_sampler import largest_divisor
from einsearch_cli.errors import DataError
from einsearch_cli.settings import Whole
from einsearch_cli.tasks import TransformerTask, TransformerTaskSettings, register

if TYPE_CHECKING:
    from torch import Tensor

# Axes in this file: N patches, T values of a patch, B batch.

SIDE: Final = 8
"""Pixels along one side of a patch."""
_START: Final = 256
"""The token before the first value; values themselves are 0 to 255."""
_PATCHES: Final = ".npz"
"""The suffix of files that already hold patches."""


class PixelSettings(TransformerTaskSettings):
    """Settings of the `pixels` task."""

    images: str = Field(default=DIGITS, min_length=1, examples=["photos"])
    """Path of the images, or `digits`.

    A folder of images, one image, or a .npy file of uint8 (images, height, width[, 3]). `digits` are the handwritten
    digits of scikit-learn (extra `digits`), which are grey and 8 x 8.
    """

    scale: Whole = Field(default=4, ge=1, le=1_024)
    """Side of the square of image pixels whose mean is one pixel of a patch; not used for `digits`."""

    most_patches: Whole = Field(default=500_000, ge=2, le=100_000_000)
    """The most patches that are read; if there are more, some are left out evenly over all images."""

    held_out_fraction: float = Field(default=0.1, gt=0, le=0.5)
    """Part held out for validation: every n-th row of patches, counted over all images."""

    batch: Whole = Field(default=8, ge=1, le=65_536)
    """Patches in a training step, of 192 values each in colour and 64 in grey."""

    validation_patches: Whole = Field(default=256, ge=1, le=1_048_576)
    """Held-out patches that the validation loss is averaged over, evenly spaced; fewer if fewer are held out."""

    @classmethod
    def rebased(cls, values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """The settings with a path of images read from the folder of their file."""
        images = values.get("images", DIGITS)
        return {**values, **({"images": str(folder / images)} if images != DIGITS else {})}


@register
class PixelTask(TransformerTask[PixelSettings]):
    """Colours of 8 x 8 patches, value after value, with a small transformer; loss is in nats per colour value.

    A patch is read row by row; red, green and blue of a pixel follow each other. A start token stands before the first
    value, so that every value is predicted. Patches do not overlap. A patch of a single colour adds almost nothing to
    the loss.

    >>> PixelTask(PixelSettings(images="photos.npy")).settings.batch
    8
    """

    name = "pixels"
    settings_type = PixelSettings
    told_by_digest = frozenset({"images", "scale", "most_patches", "held_out_fraction"})
    _data: tuple[Tensor, Tensor] | None = None

    def prepare(self) -> None:
        """Read the images, or the cache."""
        self._training_and_held_out()

    @property
    def vocabulary(self) -> int:
        """The 256 values of a colour, and the start token."""
        return _START + 1

    @property
    def context(self) -> int:
        """Values of a patch."""
        return self._training_and_held_out()[0].shape[1]

    def batches(self, seed: int) -> Iterator[Batch]:
        """Passes over the patches, each in a new order; an incomplete last batch is dropped."""
        import torch

        training_NT = self._training_and_held_out()[0]
        generator, size = torch.Generator().manual_seed(seed), self.settings.batch
        while True:
            order = torch.randperm(len(training_NT), generator=generator)
            for chosen in order[: len(order) // size * size].split(size):
                yield _as_batch(training_NT[chosen])

    def validation(self) -> tuple[Batch, ...]:
        """Held-out patches, evenly spaced."""
        import torch

        held_out_NT = self._training_and_held_out()[1]
        count = min(self.settings.validation_patches, len(held_out_NT))
        chosen = torch.from_numpy(np.linspace(0, len(held_out_NT) - 1, count).round().astype(np.int64))
        return tuple(_as_batch(held_out_NT[part]) for part in chosen.split(largest_divisor(count, self.settings.batch)))

    @property
    def tokens_per_batch(self) -> int:
        """Colour values per training step."""
        return self.settings.batch * self.context

    @property
    def loss_unit(self) -> str:
        """The unit of the loss: nats per colour value."""
        return "nats per colour value"

    def described(self) -> dict[str, str]:
        """The images, how they are read, and the network."""
        settings = self.settings
        training_NT, held_out_NT = self._training_and_held_out()
        digits = settings.images == DIGITS
        source = (
            "handwritten digits of scikit-learn"
            if digits
            else f"images {settings.images}, scaled down {settings.scale}x"
        )
        return {
            "Task": f"Image modelling (task {self.name}): predict the next colour value of a patch.",
            "Data": f"{len(training_NT):,} patches of {SIDE} × {SIDE} pixels of {source}; {len(held_out_NT):,} held out, of "
            f"which {sum(len(batch.inputs) for batch in self.validation()):,} give the loss.",
            "Tokenizer": f"None: a token is a colour value from 0 to 255, or the start; {self.vocabulary} distinct tokens.",
            "Network": self._network(),
            "Context": f"{self.context} tokens: the values of a patch.",
            "Batch": f"{settings.batch:,} patches, {self.tokens_per_batch:,} values, a step.",
        }

    def data_files(self) -> Mapping[str, Path]:
        """The file of patches; the images themselves are not needed elsewhere."""
        self.prepare()
        path = Path(self.settings.images)
        kept = path if path.suffix == _PATCHES else array_file(self.cache_folder, self.name, self._key())
        return {f"patches{_PATCHES}": kept}

    def reading_from(self, folder: Path) -> PixelTask:
        """This task with its patches read from a folder."""
        images = str(folder / f"patches{_PATCHES}")
        return type(self)(self.settings.model_copy(update={"images": images}), self.cache_folder)

    def data_digest(self) -> str:
        """SHA-256 of the patches, training and held-out."""
        digest = hashlib.sha256()
        for patches_NT in self._training_and_held_out():
            digest.update(patches_NT.numpy().data)
        return f"{digest.hexdigest()}-{self.context}"

    def _key(self) -> dict[str, Any]:
        """A key of everything that the patches depend on."""
        settings = self.settings
        cut = settings.model_dump(mode="json", include={"scale", "most_patches", "held_out_fraction"})
        if settings.images == DIGITS:
            return {"images": DIGITS, **cut, "format": 1}
        files = image_files(Path(settings.images))
        found = cached_for_files(self.cache_folder, "images-1", files, lambda: {"digest": content_digest(files)})
        return {"images": found["digest"], **cut, "format": 1}

    def _training_and_held_out(self) -> tuple[Tensor, Tensor]:
        import torch

        if self._data is None:
            path = Path(self.settings.images)
            arrays = (
                _read_patches(path)
                if path.suffix == _PATCHES
                else cached_arrays(self.cache_folder, self.name, self._key(), lambda: _cut(self.settings))
            )
            if len(arrays["training"]) < self.settings.batch:
                raise DataError(
                    f"the images give {len(arrays['training']):,} patches to train on: "
                    f"a batch of {self.settings.batch:,} needs as many at least",
                    remedy="give more images, a smaller scale, or a smaller batch",
                )
            self._data = torch.from_numpy(arrays["training"]), torch.from_numpy(arrays["held_out"])
        return self._data


def _as_batch(patches_BT: Tensor) -> Batch:
    """A batch in which every value is predicted from the values before it."""
    import torch.nn.functional as F

    values_BT = patches_BT.long()
    return Batch(F.pad(values_BT[:, :-1], (1, 0), value=_START), values_BT)


def _cut(settings: PixelSettings) -> Arrays:
    """Cut the images into patches, as rows of values."""
    rows = (
        digit_rows()
        if settings.images == DIGITS
        else patch_rows(image_files(Path(settings.images)), SIDE, settings.scale)
    )
    parts: list[list[Pixels]] = [[], []]
    every = round(1 / settings.held_out_fraction)
    for number, row in enumerate(_thinned(rows, settings.most_patches)):
        parts[number % every == every - 1].append(row.reshape(len(row), -1))
    if not all(parts):
        raise _too_few_rows(settings, len(parts[0]), every)
    lengths = {row.shape[1] for part in parts for row in part}
    if len(lengths) > 1:
        raise DataError(
            f"images {settings.images} are grey and in colour, by {sorted(lengths)} values a patch",
            remedy="keep arrays of one kind",
        )
    training, held_out = map(np.concatenate, parts)
    colours_NC = training.reshape(-1, training.shape[1] // SIDE**2)
    if (colours_NC == colours_NC[0]).all():
        raise DataError(
            f"images {settings.images} have one colour only, {', '.join(map(str, colours_NC[0]))}: "
            "there is nothing to predict",
            remedy="give photographs, or images of more than one colour",
        )
    return {"training": training, "held_out": held_out}


def _too_few_rows(settings: PixelSettings, rows: int, needed: int) -> DataError:
    """The refusal of images that give no patch, or no row of patches to hold out, with a size or setting that is enough."""
    side = SIDE * (1 if settings.images == DIGITS else settings.scale)
    if rows:
        return DataError(
            f"images {settings.images} give {rows} rows of patches, of {side} pixels of height each: {needed} are needed, "
            f"of which one is held out",
            remedy=f"give images of {needed * side} pixels of height in all, a smaller scale"
            + (f", or a held_out_fraction of {math.ceil(1000 / rows) / 1000} or more" if rows > 1 else ""),
        )
    largest = largest_square(image_files(Path(settings.images)))
    fits = f", or scale: {largest // SIDE}" if largest >= SIDE else ""
    return DataError(
        f"images {settings.images} hold no square larger than {largest} x {largest} pixels: with scale = {settings.scale}, "
        f"a patch of {SIDE} x {SIDE} takes {side} x {side}",
        remedy=f"give images of {side} x {side} pixels or more{fits}",
    )


def _thinned(rows: Iterable[Pixels], most: int) -> list[Pixels]:
    """At most `most` patches, from every n-th row."""
    kept: list[Pixels] = []
    step = count = 1
    for number, row in enumerate(rows):
        if number % step == 0:
            kept.append(row)
            count += len(row)
        if count > most:  # every other row of those kept so far stays
            kept, step = kept[::2], 2 * step
            count = sum(map(len, kept))
    return kept


def _read_patches(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("training", "held_out")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"patches {path} cannot be read: it is not an archive of `training` and `held_out`",
            remedy="give the folder of images that it was made from, as images: FOLDER",
        ) from error
    return arrays
