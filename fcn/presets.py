"""The two published recipes for this network on KITTI Road, with every value that their write-ups give.

batch5    batch 5, Adam at 9e-4; L2 1e-3 is declared there but never added to the loss, so it is 0 here; no flips
batch15   batch 15, Adam at 1e-3; L2 1e-3 in the loss; every second image is flipped

What the write-ups leave open, and where this program differs from both, is in docs/training.md.
"""

from typing import Any, Literal

PresetName = Literal["batch5", "batch15"]

_BOTH: dict[str, Any] = {
    "image_size": (160, 576),
    "weights": "imagenet",
    "width": 1.0,
    "fc_width": 4096,
    "init": "normal",
    "skip_scaling": "none",
    "dropout": 0.5,
    "epochs": 50,
    "optimizer": "adam",
    "schedule": "constant",
    "warmup_epochs": 0,
    "scale_jitter": 0,
    "brightness": 0,
    "contrast": 0,
    "colour": 0,
    "gamma": 0,
}

PRESETS: dict[PresetName, dict[str, Any]] = {
    "batch5": _BOTH | {"batch_size": 5, "learning_rate": 9e-4, "l2": 0, "flip": 0},
    "batch15": _BOTH | {"batch_size": 15, "learning_rate": 1e-3, "l2": 1e-3, "l2_on": "decoder", "flip": 0.5},
}


def with_preset(fields: dict[str, Any]) -> dict[str, Any]:
    """The config fields; if they name a preset, with the preset's values for the fields that they leave out."""
    name = fields.get("preset")
    preset = next((values for known, values in PRESETS.items() if known == name), {})
    return preset | fields
