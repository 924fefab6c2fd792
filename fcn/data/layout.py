"""Recognises from a folder's layout which data set it holds."""

from contextlib import suppress
from pathlib import Path

from fcn.data.listing import is_hidden
from fcn.data.remote.archives import RECORD
from fcn.errors import InputError


def guess_dataset(folder: Path) -> str:
    """The name of the data set with this folder's layout. Raises InputError if there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    if (folder / "classes.toml").is_file():
        return "folder"
    if (folder / "training" / "image_2").is_dir() or (folder / "image_2").is_dir():
        return "kitti_road"
    if (folder / "leftImg8bit").is_dir():
        return "cityscapes"
    if (folder / "trainannot").is_dir() or ((folder / "images").is_dir() and (folder / "labels").is_dir()):
        return "camvid"
    raise InputError(
        f"{folder}: looks like none of kitti_road (training/image_2), camvid (images/ and labels/, or "
        "trainannot/), "
        "cityscapes (leftImg8bit/) and folder (classes.toml): give --dataset, or the right folder"
    )


def folder_within(folder: Path) -> Path:
    """The folder in an unpacked archive that has a data set's layout: many archives have one folder around it all."""
    inner = folder
    while True:
        with suppress(InputError):
            guess_dataset(inner)
            return inner
        visible = [path for path in inner.iterdir() if not is_hidden(path.name) and path.name != RECORD]
        if len(visible) != 1 or not visible[0].is_dir():
            return inner
        inner = visible[0]


def check_folder(dataset: str, folder: str | None) -> None:
    """Raises InputError if a folder is given for drawn scenes, or none for another data set."""
    if dataset == "scenes" and folder is not None:
        raise InputError(f"{folder}: scenes are drawn, and no folder is read for them: leave it out, or give --dataset")
    if dataset != "scenes" and folder is None:
        raise InputError(f"DIR: give the folder of {dataset}: only scenes are drawn")
