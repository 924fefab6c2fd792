"""Images of cameras, phones and labelling tools are read as they are displayed, or refused in a sentence."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image

from fcn.data.dataset import SIXTEEN_BITS, TURNED
from fcn.data.image_files import decode_image, read_colours, read_image, read_indices
from fcn.errors import InputError

Array = npt.NDArray[Any]

# Exif 2.32, 4.6.4: the sides of the scene at which a file's first row and its first column lie.
SIDES = {
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


def as_stored(displayed: Array, orientation: int) -> Array:
    """What a camera that is held so writes of a scene."""
    rows, columns = SIDES[orientation]
    stored = displayed if rows in ("top", "bottom") else displayed.swapaxes(0, 1)
    stored = stored[::-1] if rows in ("bottom", "right") else stored
    return np.ascontiguousarray(stored[:, ::-1] if columns in ("bottom", "right") else stored)


def save_turned(path: Path, displayed: Array, orientation: int, **options: Any) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(as_stored(displayed, orientation)).save(path, exif=exif, **options)


def scene() -> Array:
    """24x40 RGB, different at each corner, coarse enough for JPEG."""
    blocks = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


LOSSLESS: dict[str, dict[str, Any]] = {
    ".png": {}, ".tif": {}, ".tiff": {"compression": "tiff_lzw"}, ".webp": {"lossless": True}
}  # fmt: skip


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".jpg"])
@pytest.mark.parametrize("orientation", SIDES)
def test_an_image_is_read_as_it_is_displayed(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"phone{suffix}"
    save_turned(path, scene(), orientation, **LOSSLESS.get(suffix, {"quality": 100, "subsampling": 0}))
    image = decode_image(path)
    assert image.pixels.shape == (24, 40, 3)
    assert np.abs(image.pixels.astype(int) - scene()).max() <= (0 if suffix in LOSSLESS else 6)
    assert image.orientation == orientation
    assert (TURNED in image.remarks) == (orientation != 1)


@pytest.mark.parametrize("orientation", SIDES)
def test_a_label_with_an_orientation_of_its_own_is_turned_by_it(tmp_path: Path, orientation: int) -> None:
    indices = np.arange(24 * 40, dtype=np.uint8).reshape(24, 40)
    save_turned(tmp_path / "indices.png", indices, orientation)
    save_turned(tmp_path / "colours.png", scene(), orientation)
    np.testing.assert_array_equal(read_indices(tmp_path / "indices.png"), indices)
    np.testing.assert_array_equal(read_colours(tmp_path / "colours.png"), scene())


DAMAGED_NOTES = [
    b"Exif\0\0II*\0\xff\xff\xff\x7f",
    b"Exif\0\0MM\0*\0\0",
    b"Exif\0\0",
    b"Exif\0\0nonsense" * 9,
    b"\0" * 400,
]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("notes", DAMAGED_NOTES)
def test_an_image_with_damaged_notes_is_read_as_it_is_stored(tmp_path: Path, notes: bytes) -> None:
    Image.fromarray(scene()).save(tmp_path / "phone.jpg", exif=notes)
    assert read_image(tmp_path / "phone.jpg").shape == (24, 40, 3)


def test_an_orientation_that_exif_does_not_have_turns_nothing(tmp_path: Path) -> None:
    for orientation in (0, 9, 65535):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        Image.fromarray(scene()).save(tmp_path / "phone.png", exif=exif)
        np.testing.assert_array_equal(read_image(tmp_path / "phone.png"), scene())


# Modes

RAMP = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)


def grey(image: Array) -> Array:
    assert (image == image[..., :1]).all()
    return image[..., 0]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
def test_grey_of_sixteen_bits_keeps_its_upper_eight_and_is_remarked_on(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(RAMP).save(tmp_path / f"deep{suffix}")
    image = decode_image(tmp_path / f"deep{suffix}")
    np.testing.assert_array_equal(grey(image.pixels), RAMP // 256)
    assert image.remarks == (SIXTEEN_BITS,)


def test_grey_of_sixteen_bits_with_the_upper_byte_first_is_read_alike(tmp_path: Path) -> None:
    Image.frombytes("I;16B", RAMP.shape, RAMP.astype(">u2").tobytes()).save(tmp_path / "deep.tif")
    with Image.open(tmp_path / "deep.tif") as image:
        assert image.mode == "I;16B"
    np.testing.assert_array_equal(grey(read_image(tmp_path / "deep.tif")), RAMP // 256)


def save_tiff(path: Path, data: bytes, size: tuple[int, int], bits: int, photometric: int) -> None:
    """A TIFF of one strip of grey, as a microscope or an industrial camera writes it; size: width, height."""
    tags = [(256, size[0]), (257, size[1]), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1)]
    tags += [(278, size[1]), (279, len(data))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(
        struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + directory + bytes(4)
    )


def test_grey_of_twelve_bits_and_grey_with_a_white_nought_are_read_by_their_tags(tmp_path: Path) -> None:
    levels = np.arange(0, 4096, 64, dtype=np.uint16)
    first, second = levels[0::2], levels[1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8)
    save_tiff(tmp_path / "twelve.tif", packed.tobytes(), (64, 1), 12, 1)
    save_tiff(tmp_path / "inverse.tif", (levels << 4).tobytes(), (64, 1), 16, 0)
    assert grey(read_image(tmp_path / "twelve.tif"))[0].tolist() == (levels // 16).tolist()
    assert grey(read_image(tmp_path / "inverse.tif"))[0].tolist() == (255 - levels // 16).tolist()


def test_colours_of_sixteen_bits_keep_their_upper_eight(tmp_path: Path) -> None:
    levels = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    (tmp_path / "deep.png").write_bytes(png(64, 64, 16, 2, rows))
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), levels // 256)


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG by its standard: what Pillow reads, but can't write."""
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("kind", "says"), [(np.int32, "got 32-bit integers"), (np.float32, "got fractions")])
def test_levels_that_do_not_say_what_is_white_are_refused(tmp_path: Path, kind: type, says: str) -> None:
    Image.fromarray(RAMP.astype(kind)).save(tmp_path / "measured.tif")
    with pytest.raises(InputError, match=rf"measured.tif: an image must have 8 or 16 bits a channel, {says}"):
        read_image(tmp_path / "measured.tif")


def test_grey_palettes_and_transparency_give_the_colours_that_are_stored(tmp_path: Path) -> None:
    levels = RAMP.astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    Image.merge("LA", [Image.fromarray(levels)] * 2).save(tmp_path / "grey_alpha.png")
    Image.fromarray(np.dstack([scene(), np.full((24, 40), 9, np.uint8)])).save(tmp_path / "alpha.png")
    palette = Image.fromarray(levels)
    palette.putpalette([level ^ 255 for level in range(256) for _ in range(3)])
    palette.save(tmp_path / "palette.png", transparency=bytes(range(256)))
    Image.fromarray(levels > 127).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(grey(read_image(tmp_path / "grey.png")), levels)
    np.testing.assert_array_equal(grey(read_image(tmp_path / "grey_alpha.png")), levels)
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), scene())
    np.testing.assert_array_equal(grey(read_image(tmp_path / "palette.png")), 255 - levels)
    np.testing.assert_array_equal(grey(read_image(tmp_path / "bits.png")), np.where(levels > 127, 255, 0))


def test_a_printers_jpeg_is_read_in_its_colours(tmp_path: Path) -> None:
    Image.fromarray(scene()).convert("CMYK").save(tmp_path / "print.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "print.jpg").astype(int) - scene()).max() <= 8


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_an_animation_or_several_pages_are_refused_with_their_number(tmp_path: Path, suffix: str) -> None:
    pages = [Image.fromarray(scene() // n) for n in (1, 2, 3)]
    pages[0].save(tmp_path / f"many{suffix}", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=rf"many{suffix}: must hold one image, got 3"):
        read_image(tmp_path / f"many{suffix}")


def test_a_single_gif_a_tiff_with_its_thumbnail_and_a_phones_double_jpeg_are_one_image(tmp_path: Path) -> None:
    palette = Image.fromarray(scene()).quantize(16)
    palette.save(tmp_path / "still.gif")
    large, small = Image.fromarray(scene()), Image.fromarray(scene()[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    large.save(tmp_path / "camera.tif", save_all=True, append_images=[small], tiffinfo={254: 0})
    large.save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[small], quality=100)
    np.testing.assert_array_equal(read_image(tmp_path / "still.gif"), np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(read_image(tmp_path / "camera.tif"), scene())
    assert read_image(tmp_path / "phone.jpg").shape == (24, 40, 3)


def test_a_file_of_a_format_that_runs_programs_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n")
    with pytest.raises(InputError, match=r"page.png: damaged, or no image"):
        read_image(tmp_path / "page.png")


def test_transparent_palettes_and_damaged_notes_are_read_without_a_word_on_stderr(tmp_path: Path) -> None:
    palette = Image.fromarray(RAMP.astype(np.uint8))
    palette.putpalette([level for level in range(256) for _ in range(3)])
    palette.save(tmp_path / "palette.png", transparency=bytes(range(256)))
    Image.fromarray(scene()).save(tmp_path / "phone.jpg", exif=DAMAGED_NOTES[0])
    code = "import pathlib, sys, fcn.data.image_files as p; [p.read_image(pathlib.Path(a)) for a in sys.argv[1:]]"
    command = [sys.executable, "-c", code, str(tmp_path / "palette.png"), str(tmp_path / "phone.jpg")]
    assert subprocess.run(command, capture_output=True, check=True).stderr == b""


def test_a_page_without_its_height_is_damaged(tmp_path: Path) -> None:
    save_tiff(tmp_path / "cut.tif", bytes(64), (64, 1), 8, 1)
    page = (tmp_path / "cut.tif").read_bytes()
    directory = page[72:-4]
    # A second directory, in which the tag of the height is one that nobody knows.
    second = directory.replace(struct.pack("<HH", 257, 4), struct.pack("<HH", 65000, 4)) + bytes(4)
    (tmp_path / "cut.tif").write_bytes(page[:-4] + struct.pack("<I", len(page)) + second)
    with pytest.raises(InputError, match=r"cut.tif: damaged image"):
        read_image(tmp_path / "cut.tif")


# Labels


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_indices_are_read_alike_however_wide_they_are_stored(tmp_path: Path, kind: type) -> None:
    indices = np.arange(256, dtype=np.uint8).reshape(16, 16)
    suffix = ".png" if kind is np.uint16 else ".tif"
    Image.fromarray(indices.astype(kind)).save(tmp_path / f"label{suffix}")
    np.testing.assert_array_equal(read_indices(tmp_path / f"label{suffix}"), indices)


@pytest.mark.parametrize(("kind", "value"), [(np.uint16, 256), (np.uint16, 65535), (np.int32, -1)])
def test_a_value_that_is_no_index_is_named_with_its_place(tmp_path: Path, kind: type, value: int) -> None:
    indices: Array = np.zeros((6, 8), dtype=kind)
    indices[2, 5] = value
    path = tmp_path / ("label.png" if kind is np.uint16 else "label.tif")
    Image.fromarray(indices).save(path)
    with pytest.raises(
        InputError, match=rf"{path.name}: an index must be from 0 to 255, got {value} at row 2, column 5"
    ):
        read_indices(path)


def test_fractions_and_transparent_grey_are_no_indices(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((6, 8), np.float32)).save(tmp_path / "label.tif")
    Image.new("LA", (8, 6)).save(tmp_path / "label.png")
    for name, mode in (("label.tif", "F"), ("label.png", "LA")):
        with pytest.raises(
            InputError, match=rf"{name}: an index label must be grey or have a palette, got mode {mode}"
        ):
            read_indices(tmp_path / name)
