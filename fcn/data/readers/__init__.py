"""Readers of data sets of labelled road and street frames, one file each, and how a data set is opened."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, cast

from fcn.data.dataset import Dataset, Decoded, Frame, part_of
from fcn.data.layout import guess_dataset
from fcn.data.remote.local_copy import folder_of, named_by_source, told_by_source
from fcn.errors import InputError

if TYPE_CHECKING:  # reading images for a prediction needs no config, and so no pydantic
    from fcn.config import Config


def open_dataset(config: Config) -> Dataset:
    """The data set of a config, listed and split; no image is decoded.

    With val_fraction = 0 its "val" is empty, and its validation frames are trained on. With train_fraction below 1 its
    "train" is a part of the training frames.
    Raises InputError with file, rule, value and fix if something is wrong with the folder.
    """
    dataset = _open(config)
    dataset = dataset if config.val_fraction > 0 else _without_validation(dataset)
    train = part_of(dataset.splits["train"], config.train_fraction, config.split_seed)
    return replace(dataset, splits=dataset.splits | {"train": train})


def open_unsplit(config: Config) -> Dataset:
    """The data set of a config with a single split, "all", of every frame.

    config: with val_fraction = test_fraction = 0, since otherwise a data set of one sequence is refused.
    Raises InputError as open_dataset() does.
    """
    dataset = _open(config)
    return replace(dataset, splits={"all": tuple(range(len(dataset.frames)))})


def dataset_at(data_dir: str) -> str:
    """The name of the data set whose layout the folder or URL has. Raises InputError if there is none."""
    from fcn.config import Config

    config = Config(data_dir=data_dir)
    folder = folder_of(config)
    assert folder is not None
    with named_by_source(config, folder):
        return guess_dataset(folder)


def _open(config: Config) -> Dataset:
    module = import_module(f"fcn.data.readers.{config.dataset}")
    if config.dataset == "scenes":
        return cast(Dataset, module.open_scenes(config))
    folder = folder_of(config)
    if folder is None:
        raise InputError(f"data_dir: {config.dataset} is read from files, got none: set data_dir to its folder or URL")
    with named_by_source(config, folder):
        dataset = cast(Dataset, getattr(module, f"open_{config.dataset}")(config, folder))

    def decode(frame: Frame) -> Decoded:
        with named_by_source(config, folder):
            return dataset.decode(frame)

    warnings = tuple(told_by_source(warning, config, folder) for warning in dataset.warnings)
    return replace(dataset, decode=decode, warnings=warnings)


def _without_validation(dataset: Dataset) -> Dataset:
    train = tuple(sorted(dataset.splits["train"] + dataset.splits["val"]))
    warning = (
        f"{dataset.name}: val_fraction = 0, so no frames are held out for validation: there are no val/ metrics, "
        "and the last epoch is the one that is kept"
    )
    return replace(dataset, splits=dataset.splits | {"train": train, "val": ()}, warnings=(*dataset.warnings, warning))
