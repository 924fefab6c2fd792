"""Which labelled frames an export is scored on: a split of its own run, or every frame of a folder."""

from typing import Any, Literal

from pydantic import ValidationError

from fcn.config import Config, DatasetName, validation_sentences
from fcn.data.dataset import Dataset
from fcn.data.layout import check_folder
from fcn.data.readers import dataset_at, open_dataset, open_unsplit
from fcn.errors import InputError
from fcn.formats.read import Export
from fcn.formats.verify import with_normalisation_of

Split = Literal["val", "test", "train", "all"]
NOTHING_HELD_OUT = {
    "split": "sequence",
    "val_fraction": 0,
    "test_fraction": 0,
    "val_sequences": None,
    "test_sequences": None,
    "early_stop_epochs": None,
}


def frames_to_score(
    opened: Export, data: str | None, split: Split, dataset: DatasetName | None = None
) -> tuple[Config, Dataset]:
    """The config to read the frames with, and the data set with the split.

    data: the folder or URL; None for drawn scenes. dataset: which data set is in it, for the split "all"; None: guessed
    from the folder's layout. Raises InputError, also if the export's config is invalid.
    """
    if split == "all":
        config = config_for_all(opened, data, dataset)
        found = _open_any(opened, config)
    else:
        config = _config_for_own_split(opened, data, split, dataset)
        found = _open_own(config, split)
    if found.classes != opened.classes:
        raise InputError(
            f"{data or found.name}: its classes must be those of the export in their order, "
            f"{', '.join(opened.classes)}, got {', '.join(found.classes)}: score it on a data set that has them"
        )
    if not found.splits[split]:
        raise InputError(f"{found.name}: the run has no {split} split: choose another --split")
    return config, found


def notes(opened: Export, dataset: Dataset, split: Split) -> list[str]:
    """Notes for a person on the frames that are scored."""
    frames = [dataset.frames[index] for index in dataset.splits[split]]
    sentences = list(dataset.warnings)
    before = opened.frames.get(split)
    if before is not None and before != len(frames):
        sentences.append(f"{split} had {before} frames in the run and has {len(frames)} here")
    trained = set(opened.sequences.get("train", ()))
    known = sum(frame.sequence in trained for frame in frames)
    if split == "all" and known and dataset.name == opened.config.get("dataset"):
        sentences.append(f"{known} of {len(frames)} frames have the names of sequences that the export was trained on")
    return sentences


def config_for(opened: Export, data: str | None) -> Config:
    """The run's config with the data set at `data`, split by the sequences that the export lists for each split.

    Raises InputError if the export's config is invalid.
    """
    fields = _fields(opened, data)
    if fields.get("split") == "sequence" and opened.sequences.get("train"):
        # Not drawn by the seed again: frames added since then would change the draw, and training frames could be
        # scored as test frames.
        fields["val_sequences"] = opened.sequences.get("val") or None
        fields["test_sequences"] = opened.sequences.get("test", ())
    return _config(opened, fields)


def config_for_all(opened: Export, data: str | None, dataset: DatasetName | None) -> Config:
    """The run's config with every frame of the data set at `data`, which may be another than the run's."""
    trained_on = opened.config.get("dataset", "")
    name = dataset or (trained_on if data is None else dataset_at(data))
    check_folder(name, data)
    fields = _fields(opened, data) | NOTHING_HELD_OUT | {"dataset": name}
    if data is not None or name != trained_on:  # else the run's own drawn frames
        fields["frames"] = None
    # The export's one class by its name, since another data set may have more classes.
    fields["classes"] = opened.classes[1] if opened.positive == 1 else "all"
    return _config(opened, fields)


def _config(opened: Export, fields: dict[str, Any]) -> Config:
    try:
        config = Config.model_validate(fields)
    except ValidationError as error:
        raise InputError(
            "\n".join(f"{opened.directory}: {sentence}" for sentence in validation_sentences(error))
        ) from error
    return with_normalisation_of(opened.directory, config)


def _config_for_own_split(opened: Export, data: str | None, split: Split, dataset: DatasetName | None) -> Config:
    trained_on = str(opened.config.get("dataset"))
    if dataset not in (None, trained_on):
        raise InputError(
            f"--dataset {dataset}: the {split} split is one of {trained_on}, which the export was trained on: "
            "add --split all to score every frame of another data set"
        )
    if trained_on == "scenes" and data is not None:
        raise InputError(
            f"{data}: the {split} split is one of drawn scenes, which the export was trained on, and would not be read "
            f"from a folder: add --split all to score every frame of {data}, or leave it out"
        )
    check_folder(trained_on, data)
    return config_for(opened, data)


def _fields(opened: Export, data: str | None) -> dict[str, Any]:
    fields = opened.config | {"data_dir": data}
    if fields.get("weights") not in ("imagenet", "none"):
        # Scoring doesn't need the file that the run's weights started from, and it may be gone.
        fields |= {"weights": "none", "weights_normalisation": "auto"}
    return fields


def _open_own(config: Config, split: Split) -> Dataset:
    try:
        return open_dataset(config)
    except InputError as error:
        if not str(error).startswith(("val_sequences: ", "test_sequences: ")):
            raise
        raise InputError(
            f"{config.data_dir}: is not what the export was trained on ({error}): the {split} split is the run's own; "
            "add --split all to score every frame of another folder"
        ) from error


def _open_any(opened: Export, config: Config) -> Dataset:
    try:
        return open_unsplit(config)
    except InputError as error:
        if not str(error).startswith("classes: "):
            raise
        raise InputError(
            f"{config.data_dir or config.dataset}: must have the classes of the export, {', '.join(opened.classes)} "
            f"({str(error).removeprefix('classes: ')})"
        ) from error
