"""What is in a folder of frames, and data sets from the web.

python -m fcn.data DIR
python -m fcn.data download kitti_road --to DIR
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image as PillowImage
from pydantic import ValidationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from fcn import masks
from fcn.config import Config, validation_sentences
from fcn.datasets import VOID, Dataset, open_dataset
from fcn.datasets.frames import MOST_PROBLEMS_SHOWN, refuse
from fcn.datasets.layout import check_folder, guess_dataset
from fcn.datasets.pictures import resize_image, resize_label
from fcn.download import ARCHIVES, Archive, download
from fcn.errors import InputError

SHEET_FRAMES, SHEET_COLUMNS, SHEET_WIDTH = 12, 3, 400  # pictures, a row, pixels each

show_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
download_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@show_app.command(epilog="`python -m fcn.data download kitti_road|camvid --to DIR` fetches a data set.")
def show(
    folder: Annotated[Path | None, typer.Argument(help="Folder of the data set; scenes needs none.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set; told by the folder's layout if left out.")] = None,
    classes: Annotated[str, typer.Option(help='"all", or the one class that is scored.')] = "all",
    split: Annotated[str, typer.Option(help="sequence or published.")] = "sequence",
    split_seed: Annotated[int, typer.Option(help="Chooses the sequences of each split.")] = 0,
    frames: Annotated[int | None, typer.Option(help="Look at so many frames only.")] = None,
    sheet: Annotated[Path, typer.Option(help="Where the contact sheet is written.")] = Path("contact_sheet.png"),
) -> None:
    """Print frames, sizes, classes with their share, sequences and the split; draw a contact sheet."""
    settings: dict[str, Any] = {
        "split": split,
        "split_seed": split_seed,
        "classes": classes,
        "frames": frames,
    }
    name = dataset or (guess_dataset(folder) if folder is not None else None)
    if name is None:
        raise InputError("DIR: give a folder, or --dataset scenes for generated ones")
    check_folder(name, folder)
    config = Config(dataset=name, data_dir=folder, weights="none", **settings)
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


@download_app.command("download")
def fetch(
    dataset: Annotated[str, typer.Argument(help=" or ".join(ARCHIVES))],
    to: Annotated[Path, typer.Option(help="New folder that it is unpacked into.")],
    sha256: Annotated[str | None, typer.Option(help="Checksum that the archive must have.")] = None,
    url: Annotated[str | None, typer.Option(help="A mirror of the same archive.")] = None,
) -> None:
    """Fetch a public data set; run the same command again to go on after a break."""
    if dataset not in ARCHIVES:
        raise InputError(f"data set: must be one of {', '.join(ARCHIVES)}, got {dataset!r}")
    archive = ARCHIVES[dataset] if url is None else Archive(url, ARCHIVES[dataset].root)
    with _progress(download_columns=True) as advance:
        found = download(archive, to, sha256=sha256, progress=advance)
    console = Console(highlight=False, markup=False)
    console.print(f"{to}: {dataset}, archive sha256 {found}", markup=False, soft_wrap=True)
    if sha256 is None:
        console.print(
            "Its publisher states no checksum: to hold another machine to the same bytes, pass --sha256 there.",
            markup=False,
        )


class _Survey:
    """sizes: frames by (height, width). pixels: frames x (classes + void), int64. remarks: what reading the
    images remarked on, and on which frames."""

    def __init__(
        self, sizes: Counter[tuple[int, int]], pixels: npt.NDArray[np.int64], remarks: dict[str, list[int]]
    ) -> None:
        self.sizes, self.pixels, self.remarks = sizes, pixels, remarks


def _survey(dataset: Dataset) -> _Survey:
    """Reads every frame. Raises one InputError for all that can't be read."""
    sizes: Counter[tuple[int, int]] = Counter()
    pixels = np.zeros((len(dataset.frames), len(dataset.classes) + 1), dtype=np.int64)
    remarks: dict[str, list[int]] = {}
    problems: list[str] = []
    with _progress(download_columns=False) as advance:
        for index in range(len(dataset.frames)):
            try:
                image, label, said = dataset.decoded(index)
            except InputError as error:
                problems.append(str(error))
                if len(problems) > MOST_PROBLEMS_SHOWN:
                    break
                continue
            sizes[(image.shape[0], image.shape[1])] += 1
            counts = np.bincount(label.ravel(), minlength=256)
            pixels[index] = [*counts[: len(dataset.classes)], counts[VOID]]
            for remark in said:
                remarks.setdefault(remark, []).append(index)
            advance(index + 1, len(dataset.frames))
    refuse(problems)
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
    shares = Table(title="classes: share of the labelled pixels", title_justify="left")
    for heading in ("class", "all", *columns):
        shares.add_column(heading, justify="left" if heading == "class" else "right")
    groups = [survey.pixels, *(survey.pixels[list(dataset.splits[split])] for split in columns)]
    for position, name in enumerate((*dataset.classes, "void (of all pixels)")):
        cells = []
        for group in groups:
            void = position == len(dataset.classes)
            whole = group.sum() if void else group[:, :-1].sum()
            cells.append(f"{group[:, position].sum() / max(1, whole):.2%}")
        shares.add_row(name, *cells)
    yield shares

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
    """Overlays of frames spread over the whole set, SHEET_COLUMNS a row."""
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


@contextmanager
def _progress(download_columns: bool) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal's stderr, and nothing elsewhere; yields what moves it."""
    console = Console(stderr=True, markup=False)
    columns = (DownloadColumn(), TransferSpeedColumn()) if download_columns else (MofNCompleteColumn(),)
    label = "fetching" if download_columns else "reading"
    with Progress(
        TextColumn(label),
        BarColumn(),
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, or 2 for what a person can mend."""
    words = sys.argv[1:] if arguments is None else arguments
    app, words = (download_app, words[1:]) if words[:1] == ["download"] else (show_app, words)
    program = "python -m fcn.data" + (" download" if app is download_app else "")
    try:
        app(words, prog_name=program, standalone_mode=True)
    except ValidationError as error:
        sentences = validation_sentences(error)
    except InputError as error:
        sentences = str(error).splitlines()
    except SystemExit as end:
        return int(end.code or 0)
    else:
        return 0
    for sentence in sentences:
        print(f"error: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
