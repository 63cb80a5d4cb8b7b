"""Small square patches of images, as whole numbers from 0 to 255."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from einsearch_cli.errors import DataError
from einsearch_cli.lazy import optional_package

# Axes in this file: N images or patches, H height, W width, C channels (3: red, green, blue; 1: grey), P side of a patch.

Pixels = npt.NDArray[np.uint8]

DIGITS: Final = "digits"
"""The name of the 1,797 grey handwritten digits of 8 x 8 pixels in scikit-learn."""
_PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
_SOURCES: Final = "give a folder of images (.jpg, .png, …) or a .npy file of whole numbers from 0 to 255"


def image_files(path: Path) -> list[Path]:
    """The images and arrays at a path, sorted; folders are searched with their subfolders.

    Raises:
        DataError: there is none.
    """
    wanted = _PICTURES | {".npy"}
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in found if file.suffix.lower() in wanted]
    if not files:
        state = "has no image" if path.exists() else "does not exist"
        raise DataError(f"images {path}: it {state}", remedy=_SOURCES)
    return files


def content_digest(files: Sequence[Path]) -> str:
    """SHA-256 over the bytes of files, in their order.

    Raises:
        DataError: one cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}", remedy="check path and permissions") from error
    return digest.hexdigest()


def patch_rows(files: Sequence[Path], size: int, scale: int) -> Iterator[Pixels]:
    """Rows of patches that lie next to each other in an image, (N, P, P, C) each, image after image.

    Args:
        files: images and arrays.
        size: side of a patch.
        scale: side of the square of image pixels whose mean is one pixel of a patch; incomplete squares are cut off.

    Raises:
        DataError: a file is not an image, or not an array of images.
    """
    for file in files:
        for image_HWC in _images_of(file):
            small_HWC = _averaged(image_HWC, scale)
            height, width, channels = small_HWC.shape
            across = width // size
            for top in range(0, height - size + 1 if across else 0, size):
                band = small_HWC[top : top + size, : across * size]
                yield band.reshape(size, across, size, channels).swapaxes(0, 1)


def largest_square(files: Sequence[Path]) -> int:
    """The side in pixels of the largest square that lies within one of the images."""
    return max((min(image_HWC.shape[:2]) for file in files for image_HWC in _images_of(file)), default=0)


def digit_rows() -> Iterator[Pixels]:
    """The digits of scikit-learn, one per row, (1, 8, 8, 1) each.

    Raises:
        DataError: scikit-learn is not installed.
    """
    datasets = optional_package(
        "sklearn.datasets",
        "the handwritten digits need the package scikit-learn",
        "pip install 'einsearch[digits]', or give a folder of images",
        DataError,
    )
    images_NHW = np.rint(datasets.load_digits().images * (255 / 16)).astype(np.uint8)  # values are 0 to 16
    yield from images_NHW[:, None, :, :, None]


def _images_of(file: Path) -> Iterator[Pixels]:
    """The images of a file, (H, W, C) each."""
    if file.suffix.lower() == ".npy":
        yield from _array_of(file)
        return
    pillow = optional_package(
        "PIL.Image", "images need the package Pillow", "pip install 'einsearch[images]', or give a .npy file", DataError
    )
    try:
        with pillow.open(file) as image:
            pixels_HWC: Pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise DataError(
            f"image {file} cannot be read: {str(error)[:160]}", remedy="repair it, or take it out"
        ) from error
    yield pixels_HWC


def _array_of(file: Path) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"array {file} cannot be read: it is not a .npy file of numbers", remedy=_SOURCES) from error
    if array.ndim == 3 and array.shape[2] != 3:
        array = array[..., None]
    elif array.ndim == 3:
        array = array[None]
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3):
        raise DataError(
            f"array {file} has type {array.dtype} and shape {np.shape(array)}: "
            "images are uint8 of shape (images, height, width) or (images, height, width, 3)",
            remedy="save such an array with numpy.save",
        )
    return array


def _averaged(image_HWC: Pixels, scale: int) -> Pixels:
    """The image at 1/scale of its size; every pixel is the mean of a square."""
    if scale == 1:
        return image_HWC
    height, width, channels = image_HWC.shape
    rows, columns = height // scale, width // scale
    squares = image_HWC[: rows * scale, : columns * scale].reshape(rows, scale, columns, scale, channels)
    averaged_HWC: Pixels = np.rint(squares.mean(axis=(1, 3))).astype(np.uint8)
    return averaged_HWC
