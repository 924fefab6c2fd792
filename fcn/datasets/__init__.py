"""Data sets of labelled road and street frames, one file each."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from fcn.datasets.frames import VOID, Dataset, Frame, Pixels

if TYPE_CHECKING:  # reading pictures for a prediction needs no config, and so no pydantic
    from fcn.config import Config

__all__ = ["VOID", "Dataset", "Frame", "Pixels", "open_dataset"]


def open_dataset(config: Config) -> Dataset:
    """The data set that a config names: listed and split, but no picture decoded yet.

    Raises InputError that names file, rule, value and fix for whatever is wrong with the folder.
    """
    module = import_module(f"fcn.datasets.{config.dataset}")
    return cast(Dataset, getattr(module, f"open_{config.dataset}")(config))
