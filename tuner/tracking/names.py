"""What MLflow takes as names and values, and how others are made fit.

A name that MLflow takes stays as it is. Of another the foreign characters become '_' and a few hexadecimal digits, made
of the whole name, are appended: distinct names stay distinct, and a name is made fit alike each time.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from tuner.storage.address import without_secrets_in

_KEY_LENGTH = 250
_PARAM_LENGTH = 6000
TAG_LENGTH = 8000
BEST_IMAGE = "best "
"""How the key of an image of a trial's best epoch begins. Its step is 0: trials then stand side by side."""
_IMAGE_KEY_LENGTH = 100  # with step, time and MLflow's suffix it becomes a file's name, of at most 255 bytes


def fit_name(name: str) -> str:
    """The name of a metric, parameter or tag. It must also be a path that means only itself."""
    clean = re.sub(r"[^/\w.\- :]", "_", name)
    clean = "/".join(part for part in clean.split("/") if part not in ("", ".", "..")) or "_"
    if clean.startswith(".."):
        clean = f"_{clean}"
    return _distinct(name, clean, _KEY_LENGTH)


def fit_image_key(name: str) -> str:
    """The name under which the UI shows a picture's steps."""
    return _distinct(name, re.sub(r"[^a-zA-Z0-9_\-. ]", "_", name) or "_", _IMAGE_KEY_LENGTH)


def fit_param(value: Any) -> str:
    return _text(value, _PARAM_LENGTH)


def fit_tag(value: Any) -> str:
    return _text(value, TAG_LENGTH)


def best_metric(metric: str) -> str:
    """The metric that a trial's best value of another has; a comparison of runs wants it, and not the last epoch's."""
    return f"best/{metric.removeprefix('best/')}"


def logarithm_of(param: str) -> str:
    """The parameter beside one whose space is logarithmic."""
    return f"log10 {param}"


def _distinct(name: str, clean: str, length: int) -> str:
    if clean == name and len(name) <= length:
        return name
    digits = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{clean[: length - 9]}-{digits}"


def _text(value: Any, length: int) -> str:
    # Databases take no NUL, and the network no half of a surrogate pair.
    text = without_secrets_in(str(value)).replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return text if len(text) <= length else text[: length - 1] + "…"
