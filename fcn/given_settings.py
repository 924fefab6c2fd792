"""A run's settings as its command line gives them: a file, --set, and a checkpoint that they go on from."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fcn.checkpoint import Checkpoint
from fcn.config import Config
from fcn.errors import InputError
from fcn.presets import with_preset


def read_settings(settings: Sequence[str], file: Path | None, start: Checkpoint | None) -> Config:
    """settings: "KEY=VALUE", before file, before those of the checkpoint `start`.

    A preset among settings and file fills in before the checkpoint does: the checkpoint has a value for everything.
    Raises InputError, or pydantic's ValidationError.
    """
    given = ({} if file is None else _of_file(file)) | dict(map(_pair, settings))
    before = {} if start is None else start.config.model_dump()
    return Config.model_validate(before | with_preset(given))


def _of_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} can't be read as TOML ({error}): mend it or choose another") from error


def _pair(setting: str) -> tuple[str, Any]:
    key, equals, text = setting.partition("=")
    if not equals:
        raise InputError(f"--set {setting}: must be KEY=VALUE, as in --set learning_rate=0.001")
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        # --set dataset=scenes: quotes would have to be quoted again for the shell.
        return key.strip(), text
