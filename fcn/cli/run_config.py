"""A run's config from its command line: from --config, --set and the checkpoint that --resume continues."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn.config import Config
from fcn.errors import InputError
from fcn.formats.read import DESCRIPTION, read_export
from fcn.model import checkpoint
from fcn.model.checkpoint import Checkpoint
from fcn.presets import with_preset


def read_config(fields: Sequence[str], source: Path | None, start: Checkpoint | None) -> tuple[Config, list[str]]:
    """The run's config, and notes on it for a person.

    fields: "KEY=VALUE" each. source: a TOML file, or the folder of a checkpoint or an export, whose config and whose
    sequences of each split are taken. start: the checkpoint to resume. A field's value is taken from the first of these
    that gives it: `fields`, the file, the preset that one of those two names, the folder, `start`, the default.
    Raises InputError, or pydantic's ValidationError.
    """
    given = dict(map(_pair, fields))
    before = {} if start is None else start.config.model_dump()
    notes = []
    if source is not None and source.is_dir():
        trained = _trained(source)
        before |= trained.config | _split(trained, given)
        final = given.get("val_fraction") == 0
        if final:
            before["early_stop_epochs"] = None  # without validation there is no score to stop by
        if final and "epochs" not in given and trained.epoch < trained.config["epochs"]:
            notes.append(
                f"{source} is of epoch {trained.epoch} of {trained.config['epochs']}; without validation the last "
                f"epoch is kept: add --set epochs={trained.epoch} to end there"
            )
    elif source is not None:
        given = _of_file(source) | given
    config = Config.model_validate(before | with_preset(given))
    if start is not None and (start.config.val_fraction > 0) != (config.val_fraction > 0):
        raise InputError(
            f"resume: {start.directory} has val_fraction = {start.config.val_fraction:g}, got {config.val_fraction:g}, "
            "and a run validates from its first epoch or never: keep it, or start a new run in another --output"
        )
    return config, notes


@dataclass(frozen=True)
class _Trained:
    """What a checkpoint or an export says of its run."""

    config: dict[str, Any]
    sequences: dict[str, tuple[str, ...]]  # of each split
    epoch: int


def _trained(directory: Path) -> _Trained:
    if (directory / DESCRIPTION).exists():
        opened = read_export(directory)
        return _Trained(Config.model_validate(opened.config).model_dump(), opened.sequences, opened.epoch)
    loaded = checkpoint.load(directory)
    return _Trained(loaded.config.model_dump(), loaded.sequences, loaded.epoch)


def _split(trained: _Trained, given: dict[str, Any]) -> dict[str, Any]:
    """Config fields that keep the run's sequences in their splits: a new draw could train on tested sequences.

    Where the fields given by the person choose the split, they decide.
    """
    another = bool(given.keys() & {"dataset", "split", "split_seed"})
    if another or trained.config["split"] != "sequence":
        return {"val_sequences": None, "test_sequences": None}
    validation, test = trained.sequences.get("val") or None, trained.sequences.get("test", ())
    return {
        "val_sequences": None if "val_fraction" in given else validation,
        "test_sequences": None if "test_fraction" in given else test,
    }


def _of_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} can't be read as TOML ({error}): fix it or choose another") from error


def _pair(field: str) -> tuple[str, Any]:
    key, equals, text = field.partition("=")
    if not equals:
        raise InputError(f"--set {field}: must be KEY=VALUE, as in --set learning_rate=0.001")
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        # Text without quotes, as in --set dataset=scenes: the shell would remove simple quotes.
        return key.strip(), text
