"""A small data set of one's own frames, in a folder and in a bucket."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.fs
from PIL import Image

CLASSES = 'sequence = "^(.+)_\\\\d+$"\n[classes]\nground = 0\nroad = 1\n'


def write_frames(folder: Path, count: int = 12, seed: int = 0) -> Path:
    """Frames of 20x32 of four drives, with masks and classes.toml."""
    rng = np.random.default_rng(seed)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        name = f"drive{number % 4}_{number:04d}.png"
        Image.fromarray(rng.integers(0, 256, (20, 32, 3), dtype=np.uint8)).save(folder / "images" / name)
        Image.fromarray(rng.integers(0, 2, (20, 32), dtype=np.uint8)).save(folder / "masks" / name)
    (folder / "classes.toml").write_text(CLASSES)
    return folder


def upload(folder: Path, uri: str) -> None:
    """Copies a folder into a bucket."""
    bucket, root = pyarrow.fs.FileSystem.from_uri(uri)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with bucket.open_output_stream(f"{root}/{path.relative_to(folder).as_posix()}") as stream:
                stream.write(path.read_bytes())
