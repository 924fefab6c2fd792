"""Reads files of weights, .safetensors and .pth, as tensors by name, and says what is wrong with a file that isn't one.

Only tensors and plain containers of them are unpickled (torch.load's weights_only).
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fcn.errors import InputError

IMAGENET_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
IMAGENET_HASH = "397923af"  # the first digits of the file's SHA-256
SUFFIXES = (".safetensors", ".pth")
# What a server or git may have stored in place of the file, by its first bytes.
_NOT_WEIGHTS = {
    b"<": "it is a web page: the download failed",
    b"version https://git-lfs": "it is a pointer of Git LFS: `git lfs pull` fetches the file itself",
}


def weights_file(weights: str) -> Path:
    """The file for config.weights, a path: not "imagenet" or "none". Raises InputError if there is no such file."""
    path = Path(weights).expanduser()
    if path.is_dir():
        path = path / "weights.safetensors"
    if not path.is_file():
        raise InputError(
            f"weights: {path} is no file; give imagenet, none, a directory of an export or a checkpoint, "
            "a .safetensors file or a .pth file"
        )
    if path.suffix not in SUFFIXES:
        raise InputError(f"weights: {path} must end in .safetensors or .pth, got {path.suffix or 'no suffix'!r}")
    return path


def imagenet_file() -> Path:
    """torchvision's VGG16 (IMAGENET1K_V1, 528 MB), downloaded once a machine. Raises InputError."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / IMAGENET_URL.rsplit("/", 1)[1]
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two runs may do this at once: the download has a random temporary name and is renamed at the end.
        torch.hub.download_url_to_file(IMAGENET_URL, str(path), IMAGENET_HASH, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"weights = imagenet need {IMAGENET_URL}, which can't be downloaded ({error}): "
            f"fetch it on a machine with network and put it at {path}, or set weights = none"
        ) from error
    return path


def check_imagenet_file() -> None:
    """Raises InputError if the file at imagenet_file()'s path is another file or only a part of it.

    torch checks its own download; this also checks a file that a person or another program put there.
    """
    path = imagenet_file()
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"weights: {path} can't be read ({error.strerror})") from error
    if not found.startswith(IMAGENET_HASH):
        raise InputError(
            f"weights: {path} must have a SHA-256 that begins with {IMAGENET_HASH}, got {found[:8]} "
            f"({_what_instead(path) or f'{path.stat().st_size:,} bytes: a part of it, or another file'}): "
            f"remove it, and it is downloaded again, or put {IMAGENET_URL} there"
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU; mapped from the file instead of copied if its format allows it.

    A .pth may hold a state_dict, or a dictionary with one in it, as many trainers save it ({"state_dict": ...}).
    Raises InputError that says what is wrong with the file.
    """
    if instead := _what_instead(path):
        raise InputError(f"weights: {path} holds no weights; {instead}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # torch's older format, in which torchvision's VGG16 is stored, is no zip file and can't be mapped.
        zipped = zipfile.is_zipfile(path)
        if zipped and not _is_of_torch_save(path):
            raise InputError(
                f"weights: {path} is a zip file, but not one of torch.save (or one of TorchScript): "
                "save the network's tensors with torch.save(model.state_dict(), ...)"
            )
        found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except InputError:
        raise
    except SafetensorError as error:
        raise InputError(
            f"weights: {path} is torn or no safetensors file ({error}): fetch or export it again"
        ) from error
    except Exception as error:  # bytes that are no pickle raise errors of all kinds
        raise _no_state_dict(path, error) from error
    return _state_dict(found, path)


def _what_instead(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            head = file.read(512).lstrip()
    except OSError as error:
        raise InputError(f"weights: {path} can't be read ({error.strerror})") from error
    if not head:
        return "it is empty: fetch or export it again"
    return next((instead for start, instead in _NOT_WEIGHTS.items() if head.startswith(start)), None)


def _is_of_torch_save(path: Path) -> bool:
    with zipfile.ZipFile(path) as opened:
        names = {name.rsplit("/", 1)[-1] for name in opened.namelist()}
    return "data.pkl" in names and "constants.pkl" not in names


def _no_state_dict(path: Path, error: Exception) -> InputError:
    if "Unsupported global" in str(error):
        return InputError(
            f"weights: {path} holds more than tensors, and Python objects are not unpickled here: where you "
            "trust it, load it and save its tensors alone with torch.save(model.state_dict(), ...)"
        )
    # An UnpicklingError's message is left out: it advises to unpickle anyway.
    reason = "" if isinstance(error, UnpicklingError) else f": {str(error).partition('. ')[0] or type(error).__name__}"
    return InputError(
        f"weights: {path} can't be read: torn, or not written by torch.save "
        f"({path.stat().st_size:,} bytes{reason}); fetch or export it again"
    )


def _state_dict(found: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(found, dict) and not _all_tensors(found):
        within = {name: value for name, value in found.items() if _all_tensors(value)}
        if "state_dict" in within or len(within) == 1:
            found = within.get("state_dict", next(iter(within.values())))
    if _all_tensors(found):
        return dict(found)
    keys = f" with {some_names(found)}" if isinstance(found, dict) else ""
    raise InputError(
        f"weights: {path} must hold tensors by name, as torch.save(model.state_dict(), ...) writes them, "
        f"got {type(found).__name__}{keys}"
    )


def _all_tensors(found: Any) -> bool:
    return isinstance(found, dict) and bool(found) and all(isinstance(value, Tensor) for value in found.values())


def some_names(names: Any, most: int = 4) -> str:
    """The first `most` names, and how many more there are."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
