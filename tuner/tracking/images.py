"""Uploads the images of a trial's best epochs to its run; MLflow's UI shows them with a slider over epochs.

It writes the same files as MLflow's log_image, but repeats an interrupted upload under the same name.
"""

from __future__ import annotations

import itertools
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from tuner.errors import first_line
from tuner.storage.checkpoints import epoch_of
from tuner.storage.scratch import scratch
from tuner.storage.storage import Storage
from tuner.tracking.calls import RejectedError, with_retries
from tuner.tracking.names import BEST_IMAGE, fit_image_key
from tuner.tracking.runs import Runs
from tuner.tracking.state import TrackingState

_FOLDER = "images"
_REPORT = "report.html"
_THUMBNAIL = (256, 256)  # for the UI's grid
# If only the artifact store fails (permissions, keys, a missing library), metrics must still be sent: give up images
# after so many failures in a row.
_MAX_FAILURES = 5


class ImageUploader:
    """Uploads images from the study's folder to MLflow. One that can't be read or uploaded is skipped."""

    def __init__(self, study: Storage, state: TrackingState, on_accepted: Callable[[], None]):
        """on_accepted: called after each call that MLflow accepted."""
        self._study, self._state, self._on_accepted = study, state, on_accepted
        self._failed = 0
        """Consecutive failures of the artifact store."""
        self._sizes: dict[str, dict[str, int | None]] = {}
        """The images that runs have, until their trial ends: by run, the size of each file. Listing them takes MLflow
        longer than accepting them."""

    def log(self, runs: Runs, trial: int, paths: Sequence[str], at: float) -> set[str]:
        """Upload images; returns their keys in MLflow. paths: relative to the trial's folder. at: seconds since 1970.

        Raises what MLflow raises in an outage.
        """
        titles = {path: (fit_image_key(Path(path).stem), epoch_of(Path(path).parent.name)) for path in paths}
        return self._log_all(runs, trial, titles, at)

    def log_best(self, runs: Runs, trial: int, epoch: int, at: float) -> set[str]:
        """Upload the images of a trial's best epoch under separate keys at step 0, to compare trials side by side."""
        folder = f"images/epoch-{epoch:06d}"
        names = self._study.names(f"trials/{trial}/{folder}")
        titles = {f"{folder}/{name}": (fit_image_key(f"{BEST_IMAGE}{Path(name).stem}"), 0) for name in names}
        keys = self._log_all(runs, trial, titles, at) if titles else set()
        self._sizes.pop(runs.of(trial, at), None)
        return keys

    def best_of(self, runs: Runs, run: str) -> list[tuple[str, str]]:
        """Title and artifact path of each image of a trial's best epoch."""
        there = self._call(runs, run, "the winner's images", lambda: runs.client.list_artifacts(run, _FOLDER)) or []
        paths = [info.path for info in there if Path(info.path).name.startswith(BEST_IMAGE)]
        return [(Path(path).name.partition("+step+")[0], path) for path in paths if path.endswith(".png")]

    def log_report(self, runs: Runs, run: str) -> None:
        """Upload the study's report, if there is one."""
        if (report := self._study.read_bytes(_REPORT)) is not None:
            self.log_files(runs, run, {_REPORT: report})

    def log_files(self, runs: Runs, run: str, files: Mapping[str, bytes]) -> None:
        """Upload files, given by name; they replace the run's files of the same names."""
        with scratch("files") as here:
            for name, data in files.items():
                (here / name).write_bytes(data)
                self._call(runs, run, f"the study's {name}", partial(runs.client.log_artifact, run, str(here / name)))

    def _log_all(self, runs: Runs, trial: int, titles: dict[str, tuple[str, int]], at: float) -> set[str]:
        """titles: the image's key and step in MLflow, by its path."""
        run = runs.of(trial, at)
        sizes = self._sizes_in(runs, run, f"trial {trial}, images")
        if sizes is None:
            return set()
        for folder, group in itertools.groupby(titles, lambda path: path.rpartition("/")[0]):
            with scratch("images") as here:
                fetched: Path | None = None
                for path in group:
                    what, name = f"trial {trial}, image {path}", path.rpartition("/")[2]
                    try:
                        fetched = fetched or self._study.get(f"trials/{trial}/{folder}", here / "fetched")
                        copies = _png_and_thumbnail(fetched / name, here)
                    except Exception as error:  # whatever Pillow, a disk or a bucket raise
                        self._state.skip(f"{what}: {first_line(error)}")
                        continue
                    self._upload(runs, run, what, copies, _file_stem(*titles[path], run, at, sizes), sizes)
        return {key for key, _ in titles.values()}

    def _sizes_in(self, runs: Runs, run: str, what: str) -> dict[str, int | None] | None:
        """The sizes of a run's files; None if they can't be listed."""
        if run not in self._sizes and run in runs.created:
            self._sizes[run] = {}
        if run not in self._sizes:
            there = self._call(runs, run, what, lambda: runs.client.list_artifacts(run, _FOLDER))
            if there is None:
                return None
            self._sizes[run] = {info.path.rpartition("/")[2]: info.file_size for info in there}
        return self._sizes[run]

    def _upload(
        self, runs: Runs, run: str, what: str, copies: dict[str, Path], stem: str, sizes: dict[str, int | None]
    ) -> None:
        for ending, copy in copies.items():
            file = copy.rename(copy.with_name(stem + ending))
            size = file.stat().st_size
            if sizes.get(file.name) != size and self._call(runs, run, what, partial(self._log, runs, run, file)):
                sizes[file.name] = size
            file.unlink()

    def _log(self, runs: Runs, run: str, file: Path) -> bool:
        """Upload a file. Returns True, to distinguish it from a skipped one."""
        runs.client.log_artifact(run, str(file), _FOLDER)
        # Only after an upload: listing may work while uploads fail.
        self._failed = 0
        return True

    def _call(self, runs: Runs, run: str, what: str, call: Callable[[], Any]) -> Any:
        """The result of a call to the artifact store, or None if it was given up and skipped."""
        try:
            answer = with_retries(call) if self._failed < _MAX_FAILURES else call()
        except Exception as error:
            # is_deleted raises if MLflow itself doesn't respond: then it is an outage.
            if runs.is_deleted(run):
                what = f"{what}, of a run that was deleted in MLflow"
            elif not isinstance(error, RejectedError):
                self._failed += 1
                if self._failed < _MAX_FAILURES:
                    raise
            self._state.skip(f"{what}: {first_line(error)}")
            return None
        self._on_accepted()
        return answer


def _png_and_thumbnail(source: Path, folder: Path) -> dict[str, Path]:
    """The two files of an image in MLflow, by the ending of their names."""
    whole, small = folder / "whole", folder / "small"
    with Image.open(source) as image:
        image.load()
        if image.format == "PNG":
            shutil.copyfile(source, whole)
        else:
            image.save(whole, "PNG")
        thumbnail = image.convert("RGBA" if "A" in image.getbands() else "RGB")
    thumbnail.thumbnail(_THUMBNAIL)
    thumbnail.save(small, "WEBP")
    return {".png": whole, "+compressed.webp": small}


def _file_stem(key: str, step: int, run: str, at: float, sizes: Iterable[str]) -> str:
    """The start of the names of an image's files in MLflow; that of an earlier upload, if there was one."""
    title = f"{key}+step+{step}+"
    for known in sizes:
        if known.startswith(title):
            return known.removesuffix("+compressed.webp").removesuffix(".png")
    return f"{title}timestamp+{int(at * 1000)}+{uuid.uuid5(uuid.NAMESPACE_URL, f'{run}/{title}')}"
