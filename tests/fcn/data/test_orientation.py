"""A data set of a phone's images: what is stored turned is trained, shown and predicted upright."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image

from fcn.cli.app import main
from fcn.config import Config
from fcn.data.cache import open_cache
from fcn.data.readers import open_dataset
from fcn.errors import InputError
from fcn.formats.write import Exported
from tests.fcn.command import fcn

Array = npt.NDArray[Any]
STORED: dict[
    int, Callable[[Array], Array]
] = {  # EXIF's number to how a camera that is held so stores what is displayed
    1: lambda shown: shown,
    3: lambda shown: shown[::-1, ::-1],
    6: lambda shown: np.rot90(shown, 1),
    8: lambda shown: np.rot90(shown, -1),
}


def save(path: Path, pixels: Array, orientation: int | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif)


def street() -> tuple[Array, Array]:
    """A portrait image, 40x30: sky above, road below, a little more of it to the left; and its mask."""
    mask = np.zeros((40, 30), dtype=np.uint8)
    mask[24:] = 1
    mask[16:24, :6] = 1
    return np.where(mask[..., None] == 1, [200, 60, 60], [60, 60, 200]).astype(np.uint8), mask


@pytest.fixture
def phones(tmp_path: Path) -> Path:
    """An image of each of STORED, all of one scene, their masks drawn on it as it is displayed."""
    image, mask = street()
    for orientation, stored in STORED.items():
        save(tmp_path / "set/images" / f"walk{orientation}.png", stored(image), orientation)
        save(tmp_path / "set/masks" / f"walk{orientation}.png", mask, None)
    (tmp_path / "set/classes.toml").write_text("[classes]\nsky = 0\nroad = 1\n")
    return tmp_path / "set"


def configure(folder: Path) -> Config:
    return Config(
        dataset="folder", data_dir=folder, classes="all", weights="none", image_size=(32, 32),
        cache_dir=folder.parent / "cache",
    )  # fmt: skip


def test_images_and_masks_of_a_phone_fit_whichever_way_it_was_held(phones: Path) -> None:
    dataset = open_dataset(configure(phones))
    for index in range(4):
        image, label = dataset.read(index)
        np.testing.assert_array_equal(image, street()[0])
        np.testing.assert_array_equal(label, street()[1])


def test_a_mask_that_is_stored_turned_like_its_image_says_so_itself(phones: Path) -> None:
    for orientation, stored in STORED.items():
        save(phones / "masks" / f"walk{orientation}.png", stored(street()[1]), orientation)
    dataset = open_dataset(configure(phones))
    for index in range(4):
        np.testing.assert_array_equal(dataset.read(index)[1], street()[1])


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_mask_drawn_on_the_image_as_it_is_stored_is_refused(phones: Path, orientation: int) -> None:
    path = phones / "masks" / f"walk{orientation}.png"
    save(path, STORED[orientation](street()[1]), None)
    with pytest.raises(InputError) as caught:
        open_cache(configure(phones))
    assert str(caught.value).startswith(
        f"{path}: a label must have its image's size, got 40x30 for walk{orientation}.png with 30x40 (width x "
        f"height), which is stored turned (EXIF orientation {orientation})"
    )


def test_the_cache_holds_upright_pixels_and_each_run_is_told_how_many_were_turned(phones: Path) -> None:
    image, mask = (Image.fromarray(pixels) for pixels in street())
    for _ in range(2):  # built, then found
        cache = open_cache(configure(phones))
        for index in range(4):
            np.testing.assert_array_equal(cache.images[index], image.resize((32, 32), Image.Resampling.BILINEAR))
            np.testing.assert_array_equal(cache.labels[index], mask.resize((32, 32), Image.Resampling.NEAREST))
        turned = [warning for warning in cache.dataset.warnings if "EXIF" in warning]
        assert len(turned) == 1
        assert turned[0].startswith(f"folder: 3 of 4 images (such as {phones}/images/walk3.png): stored turned")


def test_images_of_sixteen_bits_are_warned_of_once_for_the_whole_set(phones: Path) -> None:
    for orientation in (1, 8):
        deep = np.full((40, 30), 0x8000, dtype=np.uint16)
        Image.fromarray(deep).save(phones / "images" / f"walk{orientation}.png")
    for _ in range(2):
        cache = open_cache(configure(phones))
        assert (cache.images[0] == 128).all()
        deep_ones = [warning for warning in cache.dataset.warnings if "16 bits" in warning]
        assert len(deep_ones) == 1
        assert deep_ones[0].startswith(f"folder: 2 of 4 images (such as {phones}/images/walk1.png): grey of 16 bits")


def test_the_contact_sheet_shows_them_upright_and_the_warning_is_printed(
    phones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", str(phones), "--sheet", str(tmp_path / "sheet.png")]) == 0
    out = capsys.readouterr().out
    assert "3 of 4 images" in out
    assert "40x30 (4)" in out
    with Image.open(tmp_path / "sheet.png") as sheet:
        tiles = np.asarray(sheet)
    first = tiles[:533, :400].astype(int)
    for corner in ((0, 400), (0, 800), (533, 0)):
        tile = tiles[corner[0] : corner[0] + 533, corner[1] : corner[1] + 400]
        assert np.abs(tile - first).max() == 0


def test_a_phones_image_is_predicted_as_it_is_displayed(
    phones: Path, tiny_export: tuple[Path, Exported], tmp_path: Path
) -> None:
    arguments = [tiny_export[0], phones / "images", "--output", tmp_path / "out", "--kind", "mask"]
    result = fcn("predict", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    masks = []
    for orientation in STORED:
        with Image.open(tmp_path / "out" / f"walk{orientation}.png") as image:
            masks.append(np.asarray(image))
    assert masks[0].shape == (40, 30)
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


def test_images_of_sixteen_bits_are_predicted_with_one_note(tiny_export: tuple[Path, Exported], tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (40, 30)).astype(np.uint16)
    (tmp_path / "in").mkdir()
    for name in "ab":
        Image.fromarray(grey * 256).save(tmp_path / "in" / f"{name}.png")
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "in" / "c.png")
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "in" / "d.tif")
    arguments = [tiny_export[0], tmp_path / "in", "--output", tmp_path / "out"]
    result = fcn("predict", *arguments)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"error: {tmp_path}/in/d.tif: an image must have 8 or 16 bits")
    assert lines[1].startswith(f"note: 2 images (such as {tmp_path}/in/a.png): grey of 16 bits")
    assert len(lines) == 2
    overlays = [(tmp_path / "out" / f"{name}.png").read_bytes() for name in "abc"]
    assert overlays[0] == overlays[1] == overlays[2]
