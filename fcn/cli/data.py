"""python -m fcn data: what is in a folder of frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image as PillowImage
from rich.console import Console
from rich.table import Table

from fcn.cli.progress import progress_bar
from fcn.config import Config
from fcn.data import overlays as masks
from fcn.data.dataset import MOST_PROBLEMS_SHOWN, VOID, Dataset, raise_problems
from fcn.data.image_files import resize_image, resize_label
from fcn.data.layout import check_folder
from fcn.data.readers import dataset_at, open_dataset
from fcn.data.remote.local_copy import fetch
from fcn.errors import InputError

SHEET_FRAMES, SHEET_COLUMNS, SHEET_WIDTH = 12, 3, 400  # images in all, images in a row, width of each in pixels

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="`python -m fcn download kitti_road|camvid --to DIR` fetches a data set.")
def show(
    folder: Annotated[
        str | None, typer.Argument(metavar="DIR", help="Folder or URL of the data set; scenes needs none.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set; guessed from the folder's layout if left out.")] = None,
    classes: Annotated[str, typer.Option(help='"all", or the one class that is scored.')] = "all",
    split: Annotated[str, typer.Option(help="sequence or published.")] = "sequence",
    split_seed: Annotated[int, typer.Option(help="Chooses the sequences of each split.")] = 0,
    frames: Annotated[int | None, typer.Option(help="Look at so many frames only.")] = None,
    sheet: Annotated[Path, typer.Option(help="Where the contact sheet is written.")] = Path("contact_sheet.png"),
) -> None:
    """Print frames, sizes, how common each class is, sequences and the split; draw a contact sheet."""
    fields: dict[str, Any] = {
        "split": split,
        "split_seed": split_seed,
        "classes": classes,
        "frames": frames,
    }
    if folder is not None:
        fetch(Config(data_dir=folder))
    name = dataset or (dataset_at(folder) if folder is not None else None)
    if name is None:
        raise InputError("DIR: give a folder or a URL, or --dataset scenes for generated ones")
    check_folder(name, folder)
    config = Config(dataset=name, data_dir=folder, weights="none", **fields)
    console = Console(highlight=False, markup=False)
    opened = open_dataset(config)
    survey = _survey(opened)
    opened = opened.with_remarks(survey.remarks)
    for table in _tables(opened, survey):
        console.print(table)
    for warning in opened.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    try:
        _contact_sheet(opened).save(sheet)
    except (OSError, ValueError) as error:
        raise InputError(f"{sheet}: the contact sheet can't be written ({error}): set --sheet elsewhere") from None
    console.print(f"contact sheet: {sheet}", markup=False, soft_wrap=True)


class _Survey:
    """What was found in the frames.

    sizes: number of frames by (height, width). pixels: int64 (frames, classes + 1), pixels of each class and, last, of
    void. remarks: what a person should know of how images were read, with the indices of their frames.
    """

    def __init__(
        self, sizes: Counter[tuple[int, int]], pixels: npt.NDArray[np.int64], remarks: dict[str, list[int]]
    ) -> None:
        self.sizes, self.pixels, self.remarks = sizes, pixels, remarks


def _survey(dataset: Dataset) -> _Survey:
    """Reads every frame. Raises one InputError that names the frames that can't be read."""
    sizes: Counter[tuple[int, int]] = Counter()
    pixels = np.zeros((len(dataset.frames), len(dataset.classes) + 1), dtype=np.int64)
    remarks: dict[str, list[int]] = {}
    problems: list[str] = []
    with progress_bar("reading") as advance:
        for index in range(len(dataset.frames)):
            try:
                image, label, found = dataset.decoded(index)
            except InputError as error:
                problems.append(str(error))
                if len(problems) > MOST_PROBLEMS_SHOWN:
                    break
                continue
            sizes[(image.shape[0], image.shape[1])] += 1
            counts = np.bincount(label.ravel(), minlength=256)
            pixels[index] = [*counts[: len(dataset.classes)], counts[VOID]]
            for remark in found:
                remarks.setdefault(remark, []).append(index)
            advance(index + 1, len(dataset.frames))
    raise_problems(problems)
    return _Survey(sizes, pixels, remarks)


def _tables(dataset: Dataset, survey: _Survey) -> Iterator[Table]:
    sizes = ", ".join(f"{h}x{w} ({n})" for (h, w), n in survey.sizes.most_common(6))
    more = len(survey.sizes) - 6
    overview = Table(title=f"{dataset.name}: {len(dataset.frames)} frames", show_header=False, title_justify="left")
    overview.add_row("height x width (frames)", sizes + (f" and {more} more sizes" if more > 0 else ""))
    for split, indices in dataset.splits.items():
        overview.add_row(split, f"{len(indices)} frames, {len(dataset.sequences(split))} sequences")
    yield overview

    columns = [split for split, indices in dataset.splits.items() if indices]
    classes = Table(title="classes: share of the labelled pixels", title_justify="left")
    for heading in ("class", "all", *columns):
        classes.add_column(heading, justify="left" if heading == "class" else "right")
    groups = [survey.pixels, *(survey.pixels[list(dataset.splits[split])] for split in columns)]
    for position, name in enumerate((*dataset.classes, "void (of all pixels)")):
        cells = []
        for group in groups:
            void = position == len(dataset.classes)
            whole = group.sum() if void else group[:, :-1].sum()
            cells.append(f"{group[:, position].sum() / max(1, whole):.2%}")
        classes.add_row(name, *cells)
    yield classes

    where = {index: split for split, indices in dataset.splits.items() for index in indices}
    counts = Counter((frame.sequence, where.get(index, "-")) for index, frame in enumerate(dataset.frames))
    sequences = Table(title="sequences", title_justify="left")
    for heading in ("sequence", "split", "frames"):
        sequences.add_column(heading, justify="right" if heading == "frames" else "left")
    for (sequence, split), count in sorted(counts.items())[:60]:
        sequences.add_row(sequence, split, str(count))
    if len(counts) > 60:
        sequences.add_row(f"and {len(counts) - 60} more", "", "")
    yield sequences


def _contact_sheet(dataset: Dataset) -> PillowImage.Image:
    """Overlays of frames that are spread evenly over the data set, SHEET_COLUMNS in a row."""
    chosen = np.linspace(0, len(dataset.frames) - 1, min(SHEET_FRAMES, len(dataset.frames))).round().astype(int)
    tiles = []
    for index in chosen.tolist():
        image, label = dataset.read(index)
        size = (max(1, round(SHEET_WIDTH * image.shape[0] / image.shape[1])), SHEET_WIDTH)
        tiles.append(masks.overlay(resize_image(image, size), resize_label(label, size), dataset.classes))
    columns = min(SHEET_COLUMNS, len(tiles))
    height = max(tile.height for tile in tiles)
    rows = -(-len(tiles) // columns)
    sheet = PillowImage.new("RGB", (columns * SHEET_WIDTH, rows * height), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * SHEET_WIDTH, number // columns * height))
    return sheet
