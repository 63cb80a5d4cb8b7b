"""The pixels task: patches of images, value after value."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from einsearch_cli.data.images import patch_rows
from einsearch_cli.errors import DataError
from einsearch_cli.tasks import AnyTask, open_task
from einsearch_cli.tasks.pixels import PixelTask
from tests.tasks.contract import TaskContract, take

START = 256


def photo(seed: int, height: int = 100, width: int = 70) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def small(cache: Path, images: Path, **settings: object) -> AnyTask:
    given = {"images": str(images), "scale": 2, "batch": 4, "validation_patches": 6} | settings
    return open_task("pixels", given, cache)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos/more").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(photo(number)).save(tmp_path / f"photos/{'more/' * (number > 1)}{number}.png")
    (tmp_path / "photos/README").write_text("no image")
    return tmp_path / "photos"


class TestPixelContract(TaskContract):
    def make(self, cache_folder: Path) -> AnyTask:
        path = cache_folder / "photos.npy"
        if not path.exists():
            np.save(path, np.stack([photo(number) for number in range(3)]))
        return small(cache_folder, path)


class TestDigitContract(TaskContract):
    def make(self, cache_folder: Path) -> AnyTask:
        pytest.importorskip("sklearn")
        return open_task("pixels", {"batch": 4, "validation_patches": 6}, cache_folder)


def reference_patches(images: list[np.ndarray], scale: int) -> list[list[int]]:
    """Patches, cut pixel by pixel."""
    found = []
    for image in images:
        for top in range(image.shape[0] // scale // 8):
            for left in range(image.shape[1] // scale // 8):
                values = []
                for y in range(8 * top, 8 * top + 8):
                    for x in range(8 * left, 8 * left + 8):
                        square = image[scale * y : scale * y + scale, scale * x : scale * x + scale]
                        values += [round(float(square[..., channel].mean())) for channel in range(3)]
                found.append(values)
    return found


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_patches_are_means_of_squares_row_after_row(folder: Path, scale: int) -> None:
    files = [folder / "0.png", folder / "1.png"]
    rows = [row.reshape(len(row), -1).tolist() for row in patch_rows(files, 8, scale)]
    assert [patch for row in rows for patch in row] == reference_patches([photo(0), photo(1)], scale)


def test_every_patch_is_trained_on_once_in_a_pass_or_held_out(folder: Path, tmp_path: Path) -> None:
    task = small(tmp_path, folder, held_out_fraction=0.25, validation_patches=1000)
    held_out = [patch for batch in task.validation() for patch in batch.targets.tolist()]
    wanted = reference_patches([photo(number) for number in range(3)], 2)
    steps = (len(wanted) - len(held_out)) // 4
    seen = [patch for batch in take(task, 0, steps) for patch in batch.targets.tolist()]
    assert len(held_out) == 4 * 4  # every fourth of 18 rows, of 4 patches each
    assert len(seen) == 4 * steps > len(wanted) - len(held_out) - 4
    whole = sorted(held_out + seen)
    assert len({tuple(patch) for patch in whole}) == len(whole)
    assert {tuple(patch) for patch in whole} <= {tuple(patch) for patch in wanted}


def test_a_value_is_predicted_from_those_before_it(folder: Path, tmp_path: Path) -> None:
    (batch,) = take(small(tmp_path, folder), 0, 1)
    assert batch.targets.shape == (4, 192)
    assert (batch.inputs[:, 0] == START).all()
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])


def test_a_kind_of_array_and_a_folder_of_the_same_images_are_one_task(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "all.npy", np.stack([photo(number) for number in range(3)]))
    of_array, of_folder = small(tmp_path, tmp_path / "all.npy"), small(tmp_path, folder)
    assert of_array.fingerprint() == of_folder.fingerprint() != small(tmp_path, folder, scale=1).fingerprint()


def test_more_patches_than_wanted_are_thinned_over_all_images(folder: Path, tmp_path: Path) -> None:
    task = small(tmp_path, folder, most_patches=40, held_out_fraction=0.5, validation_patches=100, batch=1)
    training, held_out = (
        {tuple(patch) for batch in batches for patch in batch.targets.tolist()}
        for batches in (take(task, 0, 60), task.validation())
    )
    assert 20 <= len(training | held_out) <= 40
    for number in range(3):
        of_image = {tuple(patch) for patch in reference_patches([photo(number)], 2)}
        assert of_image & (training | held_out)


def test_copies_of_its_files_are_all_that_another_machine_needs(folder: Path, tmp_path: Path) -> None:
    task = small(tmp_path / "here", folder)
    (tmp_path / "there").mkdir()
    for name, path in task.data_files().items():
        (tmp_path / "there" / name).write_bytes(path.read_bytes())
    other = task.reading_from(tmp_path / "there")
    assert other.fingerprint() == task.fingerprint()
    assert torch.equal(take(other, 1, 1)[0].inputs, take(task, 1, 1)[0].inputs)


def test_a_network_learns_what_neighbours_tell(tmp_path: Path) -> None:
    """On smooth ramps, the loss falls far below that of independent values."""
    ramps = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)[None, :, :, None].repeat(3, axis=3)
    np.save(tmp_path / "ramps.npy", ramps)
    task = small(tmp_path, tmp_path / "ramps.npy", scale=1, held_out_fraction=0.2)
    torch.manual_seed(0)
    from einsearch_cli.structures import parse_structure

    model = task.build_model(parse_structure("dense"), 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for batch in take(task, 0, 30):
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    with torch.no_grad():
        loss = sum(task.loss(model, batch).item() for batch in task.validation()) / len(task.validation())
    assert loss < 0.75 * np.log(256)


def damaged(folder: Path) -> Path:
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:200])
    return folder


def of_one_colour(folder: Path) -> Path:
    np.save(folder.parent / "flat.npy", np.full((4, 64, 64, 3), 7, np.uint8))
    return folder.parent / "flat.npy"


def of_one_colour_in_three_channels(folder: Path) -> Path:
    (folder.parent / "flat").mkdir()
    Image.new("RGB", (320, 320), (10, 20, 30)).save(folder.parent / "flat/flat.png")
    return folder.parent / "flat"


def of_floats(folder: Path) -> Path:
    np.save(folder.parent / "floats.npy", np.zeros((4, 64, 64, 3)))
    return folder.parent / "floats.npy"


def tiny(folder: Path) -> Path:
    np.save(folder.parent / "tiny.npy", photo(0, 20, 20)[None])
    return folder.parent / "tiny.npy"


def too_small(folder: Path) -> Path:
    np.save(folder.parent / "small.npy", photo(0, 15, 40)[None])
    return folder.parent / "small.npy"


def narrow(folder: Path) -> Path:
    np.save(folder.parent / "narrow.npy", photo(0, 200, 10)[None])
    return folder.parent / "narrow.npy"


def without_images(folder: Path) -> Path:
    (folder.parent / "empty").mkdir()
    return folder.parent / "empty"


def no_patches(folder: Path) -> Path:
    np.savez(folder.parent / "other.npz", weights=np.zeros(3))
    return folder.parent / "other.npz"


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (damaged, {}, r"image .*0\.png cannot be read: .*\ntry: repair it, or take it out"),
        (
            of_one_colour,
            {},
            r"have one colour only, 7, 7, 7: there is nothing to predict\n"
            r"try: give photographs, or images of more than one colour",
        ),
        (of_one_colour_in_three_channels, {}, r"have one colour only, 10, 20, 30: there is nothing to predict"),
        (of_floats, {}, r"has type float64 and shape \(4, 64, 64, 3\): images are uint8 of shape"),
        (
            tiny,
            {},
            r"give 1 rows of patches, of 16 pixels of height each: 10 are needed, of which one is held out\n"
            r"try: give images of 160 pixels of height in all, a smaller scale$",
        ),
        (
            tiny,
            {"scale": 1},
            r"give 2 rows of patches, of 8 pixels .*\ntry: .* 80 pixels .*, or a held_out_fraction of 0\.5 or more$",
        ),
        (
            too_small,
            {},
            r"hold no square larger than 15 x 15 pixels: with scale = 2, a patch of 8 x 8 takes 16 x 16\n"
            r"try: give images of 16 x 16 pixels or more, or scale: 1$",
        ),
        (narrow, {}, r"hold no square larger than 10 x 10 pixels"),
        (too_small, {"scale": 4}, r"takes 32 x 32\ntry: give images of 32 x 32 pixels or more, or scale: 1$"),
        (without_images, {}, r"empty: it has no image\ntry: give a folder of images"),
        (lambda folder: folder / "absent", {}, r"absent: it does not exist\ntry: give a folder of images"),
        (lambda folder: folder, {"batch": 100}, r"give \d+ patches to train on: a batch of 100 needs as many at least"),
        (no_patches, {}, r"other\.npz cannot be read: it is not an archive of `training` and `held_out`"),
    ],
)
def test_unusable_images_are_named(
    folder: Path, tmp_path: Path, source: object, settings: dict[str, int], message: str
) -> None:
    task = small(tmp_path / "cache", source(folder), **settings)  # type: ignore[operator]
    assert isinstance(task, PixelTask)
    with pytest.raises(DataError, match=message):
        task.prepare()
