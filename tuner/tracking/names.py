"""Names and values that MLflow accepts, and how others are changed.

A name that MLflow accepts isn't changed. In others each character that isn't allowed becomes '_', and a few hexadecimal
digits of the name's hash are appended: distinct names stay distinct, and the same name is always changed the same way.
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
"""Prefix of the key of an image of a trial's best epoch, which has step 0 so that trials can be compared."""
_IMAGE_KEY_LENGTH = 100  # with step, time and MLflow's suffix it is a file name, of at most 255 bytes


def fit_name(name: str) -> str:
    """The name of a metric, parameter or tag. MLflow also uses it as a path, so '..' and empty parts are removed."""
    clean = re.sub(r"[^/\w.\- :]", "_", name)
    clean = "/".join(part for part in clean.split("/") if part not in ("", ".", "..")) or "_"
    if clean.startswith(".."):
        clean = f"_{clean}"
    return _distinct(name, clean, _KEY_LENGTH)


def fit_image_key(name: str) -> str:
    """The key of an image, under which the UI shows its steps."""
    return _distinct(name, re.sub(r"[^a-zA-Z0-9_\-. ]", "_", name) or "_", _IMAGE_KEY_LENGTH)


def fit_param(value: Any) -> str:
    return _text(value, _PARAM_LENGTH)


def fit_tag(value: Any) -> str:
    return _text(value, TAG_LENGTH)


def best_metric(metric: str) -> str:
    """The metric for a trial's best value of another: MLflow compares runs by the last value of a metric."""
    return f"best/{metric.removeprefix('best/')}"


def logarithm_of(param: str) -> str:
    """The name of the parameter with the logarithm of another."""
    return f"log10 {param}"


def _distinct(name: str, clean: str, length: int) -> str:
    if clean == name and len(name) <= length:
        return name
    digits = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{clean[: length - 9]}-{digits}"


def _text(value: Any, length: int) -> str:
    # Databases don't accept NUL, and an unpaired surrogate can't be encoded.
    text = without_secrets_in(str(value)).replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return text if len(text) <= length else text[: length - 1] + "…"
