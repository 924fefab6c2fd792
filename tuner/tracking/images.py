"""Pictures of a trial's best epochs, as images of its run that the UI shows with a slider over epochs.

As MLflow's own log_image does it, but an upload that broke off is repeated under the same name.
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

from tuner.storage.checkpoints import epoch_of
from tuner.storage.scratch import scratch
from tuner.storage.storage import Storage
from tuner.tracking.calls import RefusalError, first_line, repeated
from tuner.tracking.names import BEST_IMAGE, fit_image_key
from tuner.tracking.runs import Runs
from tuner.tracking.state import TrackingState

_FOLDER = "images"
_REPORT = "report.html"
_THUMBNAIL = (256, 256)  # what the UI's grid loads
# A place for artifacts that fails while MLflow itself answers (rights, keys, a library) must not hold back the numbers.
_ROUNDS = 5


class Pictures:
    """Brings pictures from the study's folder into MLflow. One that can't be brought is skipped."""

    def __init__(self, study: Storage, state: TrackingState, took: Callable[[], None]):
        """took: called after each call that MLflow took."""
        self._study, self._state, self._took = study, state, took
        self._failed = 0
        """How often in a row the place for artifacts failed."""
        self._sizes: dict[str, dict[str, int | None]] = {}
        """What runs have of pictures: bytes by name, by run, until their trial ends. To ask takes MLflow longer than to
        take them."""

    def log(self, runs: Runs, trial: int, paths: Sequence[str], at: float) -> set[str]:
        """Returns the keys under which MLflow has them. paths: under the trial's folder. at: seconds since 1970.

        Raises what MLflow raises in an outage.
        """
        titles = {path: (fit_image_key(Path(path).stem), epoch_of(Path(path).parent.name)) for path in paths}
        return self._log_all(runs, trial, titles, at)

    def log_best(self, runs: Runs, trial: int, epoch: int, at: float) -> set[str]:
        """As `log`, of a trial's best epoch, with keys of their own and step 0: trials then stand side by side."""
        folder = f"images/epoch-{epoch:06d}"
        names = self._study.names(f"trials/{trial}/{folder}")
        titles = {f"{folder}/{name}": (fit_image_key(f"{BEST_IMAGE}{Path(name).stem}"), 0) for name in names}
        keys = self._log_all(runs, trial, titles, at) if titles else set()
        self._sizes.pop(runs.of(trial, at), None)
        return keys

    def best_of(self, runs: Runs, run: str) -> list[tuple[str, str]]:
        """Title and artifact's path of the images of a trial's best epoch."""
        there = self._ask(runs, run, "the winner's pictures", lambda: runs.client.list_artifacts(run, _FOLDER)) or []
        paths = [info.path for info in there if Path(info.path).name.startswith(BEST_IMAGE)]
        return [(Path(path).name.partition("+step+")[0], path) for path in paths if path.endswith(".png")]

    def log_report(self, runs: Runs, run: str) -> None:
        """The report of the study's folder, if there is one."""
        if (report := self._study.read_bytes(_REPORT)) is not None:
            self.log_files(runs, run, {_REPORT: report})

    def log_files(self, runs: Runs, run: str, files: Mapping[str, bytes]) -> None:
        """Files by name; they replace those that the run has of these names."""
        with scratch("files") as here:
            for name, data in files.items():
                (here / name).write_bytes(data)
                self._ask(runs, run, f"the study's {name}", partial(runs.client.log_artifact, run, str(here / name)))

    def _log_all(self, runs: Runs, trial: int, titles: dict[str, tuple[str, int]], at: float) -> set[str]:
        """titles: key and step in MLflow, by path."""
        run = runs.of(trial, at)
        sizes = self._sizes_in(runs, run, f"trial {trial}, pictures")
        if sizes is None:
            return set()
        for folder, group in itertools.groupby(titles, lambda path: path.rpartition("/")[0]):
            with scratch("pictures") as here:
                fetched: Path | None = None
                for path in group:
                    what, name = f"trial {trial}, picture {path}", path.rpartition("/")[2]
                    try:
                        fetched = fetched or self._study.get(f"trials/{trial}/{folder}", here / "fetched")
                        copies = _copies(fetched / name, here)
                    except Exception as error:  # whatever Pillow, a disk or a bucket raise
                        self._state.skip(f"{what}: {first_line(error)}")
                        continue
                    self._upload(runs, run, what, copies, _named(*titles[path], run, at, sizes), sizes)
        return {key for key, _ in titles.values()}

    def _sizes_in(self, runs: Runs, run: str, what: str) -> dict[str, int | None] | None:
        """None if it can't be found out."""
        if run not in self._sizes and run in runs.known:
            self._sizes[run] = {}
        if run not in self._sizes:
            there = self._ask(runs, run, what, lambda: runs.client.list_artifacts(run, _FOLDER))
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
            if sizes.get(file.name) != size and self._ask(runs, run, what, partial(self._log, runs, run, file)):
                sizes[file.name] = size
            file.unlink()

    def _log(self, runs: Runs, run: str, file: Path) -> bool:
        """Returns True: it was taken."""
        runs.client.log_artifact(run, str(file), _FOLDER)
        # Not where it only could be asked what it has.
        self._failed = 0
        return True

    def _ask(self, runs: Runs, run: str, what: str, call: Callable[[], Any]) -> Any:
        """The answer of the place for artifacts, or None if it has to be done without."""
        try:
            answer = repeated(call) if self._failed < _ROUNDS else call()
        except Exception as error:
            # Asked of a server that is there: when MLflow itself doesn't answer, it is an outage.
            if runs.is_deleted(run):
                what = f"{what}, of a run that was deleted in MLflow"
            elif not isinstance(error, RefusalError):
                self._failed += 1
                if self._failed < _ROUNDS:
                    raise
            self._state.skip(f"{what}: {first_line(error)}")
            return None
        self._took()
        return answer


def _copies(picture: Path, folder: Path) -> dict[str, Path]:
    """What MLflow gets of a picture, by the ending of its name there: the picture, and a small one."""
    whole, small = folder / "whole", folder / "small"
    with Image.open(picture) as image:
        image.load()
        if image.format == "PNG":
            shutil.copyfile(picture, whole)
        else:
            image.save(whole, "PNG")
        thumbnail = image.convert("RGBA" if "A" in image.getbands() else "RGB")
    thumbnail.thumbnail(_THUMBNAIL)
    thumbnail.save(small, "WEBP")
    return {".png": whole, "+compressed.webp": small}


def _named(key: str, step: int, run: str, at: float, sizes: Iterable[str]) -> str:
    """How the names of a picture's files begin in MLflow; as an earlier upload's do, if there is one."""
    title = f"{key}+step+{step}+"
    for known in sizes:
        if known.startswith(title):
            return known.removesuffix("+compressed.webp").removesuffix(".png")
    return f"{title}timestamp+{int(at * 1000)}+{uuid.uuid5(uuid.NAMESPACE_URL, f'{run}/{title}')}"
