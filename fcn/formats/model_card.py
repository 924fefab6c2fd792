"""README.md of an export: what the model is, its training data, its metrics, and how to load it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

# The terms of the training data hold for the model too, and whoever passes it on must know them.
DATA_TERMS = {
    "scenes": "The frames were drawn by this program; nobody else's terms apply.",
    "kitti_road": "KITTI Road (Fritsch, Kuehnl, Geiger 2013): CC BY-NC-SA 3.0, no commercial use.",
    "camvid": "CamVid (Brostow, Fauqueur, Cipolla 2009), as published with SegNet: CC BY-NC 4.0, no commercial use.",
    "cityscapes": "Cityscapes (Cordts et al. 2016): the Cityscapes licence, no commercial use.",
    "folder": "The frames are your own, and their terms hold for this model too: add them here before you pass it on.",
}
IMAGENET_TERMS = "Training started from torchvision's VGG16 weights, trained on ImageNet: non-commercial research."

_SCORED = "On the validation split: as logged during training, and of each exported format, loaded again, in float32."
_NOT_SCORED = "The model was trained without a validation split; its weights are those of the last epoch."


def model_card(description: Mapping[str, Any]) -> str:
    """The README's Markdown. description: the contents of export.json."""
    parts = (_head, _use, _data, _metrics, _settings)
    return "\n\n".join(part(description) for part in parts) + "\n"


def _head(description: Mapping[str, Any]) -> str:
    height, width = description["image_size"]
    classes, epoch = description["classes"], description["epoch"]
    one = len(classes) == 2 and classes[0] == "background"
    what = f"{classes[1]} against the rest" if one else f"{len(classes)} classes"
    images = "\n\n".join(f"![prediction, ground truth, errors]({path})" for path in description["samples"])
    return f"""# FCN-8s on VGG16: {what}

Semantic segmentation of street scenes (Long, Shelhamer, Darrell, CVPR 2015), trained on
{description["config"]["dataset"]} at {height} x {width} pixels; the weights are those of epoch {epoch}.
A research model: it has not been tested for driving and must not be used for it.

{images}

Each image: prediction | ground truth | errors."""


def _use(description: Mapping[str, Any]) -> str:
    height, width = description["image_size"]
    count = len(description["classes"])
    classes = ", ".join(f"{index} {name}" for index, name in enumerate(description["classes"]))
    mean, std = (description["normalisation"][name] for name in ("mean", "std"))
    return f"""## How to use it

    python -m fcn predict EXPORT_DIR IMAGES... --output DIR

`model.pt2` and `model.onnx` take `images`: uint8 RGB pixels of shape (N, {height}, {width}, 3), any N,
resized bilinearly with antialiasing (Pillow's BILINEAR); the normalisation is inside. They return `logits`:
float32 (N, {count}, {height}, {width}); a pixel's class is the index of the largest along axis 1: {classes}.

```python
# needs only onnxruntime
import onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
logits = session.run(None, {{"images": pixels}})[0]
```

```python
# needs only torch; torch.export.load may unpickle, so open only files that you trust
import torch
network = torch.export.load("model.pt2").module()
logits = network(torch.from_numpy(pixels))
```

```python
# needs fcn; reads weights.safetensors, takes any image size and unpickles nothing
from pathlib import Path
from fcn.formats.read import open_network, read_export
network = open_network(read_export(Path(".")))
logits = network(pixels)
```

The bare weights expect (pixel / 255 - mean) / std with mean
{mean} and std {std} (red, green, blue)."""


def _data(description: Mapping[str, Any]) -> str:
    rows = "\n".join(
        f"| {split} | {count} | {_some(description['sequences'].get(split, ()))} |"
        for split, count in description["frames"].items()
    )
    terms = DATA_TERMS[description["config"]["dataset"]]
    weights = description["config"]["weights"]
    if weights == "imagenet":
        terms += " " + IMAGENET_TERMS
    elif weights != "none":
        terms += f" Training started from the weights in {PurePath(weights).name}, whose terms hold for it too."
    url = description.get("data_url")
    source = f"Fetched from {url}\n\n" if url else ""
    return f"""## Data

{source}| split | frames | sequences |
|---|---|---|
{rows}

Terms: {terms}"""


def _metrics(description: Mapping[str, Any]) -> str:
    formats = description["formats"]
    columns = {"logged": description["metrics"]} | {name: found["scores"] for name, found in formats.items()}
    columns = {name: _without_prefix(scores, "val/") for name, scores in columns.items()}
    columns = {name: scores for name, scores in columns.items() if scores}
    if description["test_metrics"]:
        columns["test split"] = _without_prefix(description["test_metrics"], "test/")
    rows = "\n".join(
        f"| {name} | " + " | ".join(_number(column.get(name)) for column in columns.values()) + " |"
        for name in next(iter(columns.values()), ())
    )
    table = f"""| metric | {" | ".join(columns)} |
|{"---|" * (len(columns) + 1)}
{rows}"""
    differences = ", ".join(f"{name} {found['parity']:.1e}" for name, found in formats.items())
    return f"""## Metrics

{_SCORED if "logged" in columns else _NOT_SCORED}

{table if columns else "No frames were held out, so the model has not been scored."}

Largest difference from the checkpoint's logits, divided by the range of these: {differences}."""


def _without_prefix(scores: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in scores.items() if name.startswith(prefix)}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _settings(description: Mapping[str, Any]) -> str:
    return f"""## Config of the run

```json
{json.dumps(description["config"], indent=1)}
```"""


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown or "-"
