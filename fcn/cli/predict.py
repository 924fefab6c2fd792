"""python -m fcn predict: predicts images, folders and videos with an exported network.

Imports only what the chosen format of the export needs, and nothing that only training needs.
Exit status: 0 if all was predicted, 1 if some failed, 2 if nothing was predicted. Failures are named on stderr.
"""

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fcn.data.dataset import TURNED
from fcn.data.listing import shown
from fcn.errors import InputError
from fcn.formats.read import open_network, read_export
from fcn.prediction.pipeline import predict_images, predict_video
from fcn.prediction.plan import Job, plan
from fcn.prediction.predictor import Kind, Predictor

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    export: Annotated[Path, typer.Argument(help="Directory that `fcn export` or tuner.best wrote.")],
    paths: Annotated[list[Path], typer.Argument(help="Images, videos, and folders of them at any depth.")],
    output: Annotated[Path, typer.Option(help="Folder for the predictions; made if it doesn't exist.")],
    kind: Annotated[
        Kind,
        typer.Option(
            help="overlay: half transparent over the frame; mask: class indices, with a palette; "
            "probability: 8-bit grey. Of a video, mask and probability are folders of PNGs."
        ),
    ] = "overlay",
    class_name: Annotated[
        str | None, typer.Option("--class", help="The class for --kind probability; needed if the export has several.")
    ] = None,
    format: Annotated[
        Literal["safetensors", "onnx"],
        typer.Option(help="safetensors: torch, on any device; onnx: onnxruntime, without torch."),
    ] = "safetensors",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; default: a GPU if any.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Images at once.")] = 8,
) -> None:
    """Predict images, folders and videos with an exported network."""
    jobs, problems, left_out = plan(paths, output, frames_as_images=kind != "overlay")
    opened = read_export(export)
    chosen = _device(device) if format == "safetensors" else "cpu"
    predictor = Predictor(opened, open_network(opened, format, chosen), kind, class_name)
    _make(output)
    log = Log(Console(highlight=False, markup=False), jobs)
    with log:
        for problem in problems:
            log.failed(problem)
        try:
            _predict(jobs, predictor, batch_size, log)
        except InputError as error:
            log.failed(str(error))
        except KeyboardInterrupt:
            log.failed("stopped by Ctrl-C")
    for note in (*left_out, *log.notes()):
        typer.echo(f"note: {note}", err=True)
    typer.echo(log.summary(output))
    if log.failures:
        raise typer.Exit(1 if log.completed else 2)


def _predict(jobs: list[Job], predictor: Predictor, batch_size: int, log: "Log") -> None:
    images = [job for job in jobs if not job.video]
    predict_images(images, predictor, batch_size, log.image_done, log.failed, log.remarked)
    for job in jobs:
        if job.video and predict_video(job, predictor, batch_size, log.frame_done, log.failed):
            log.completed += 1


def _device(wanted: str | None) -> str:
    # Imported here, since an ONNX file runs without torch.
    from fcn.device import chosen_device

    return str(chosen_device(wanted))


def _make(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {output}: can't be made ({error.strerror}): choose another folder") from error
    if not os.access(output, os.W_OK | os.X_OK):
        raise InputError(f"--output {output}: can't be written to: choose another folder")


class Log:
    """Shows progress on a terminal, writes each failure to stderr, and sums up at the end."""

    def __init__(self, console: Console, jobs: list[Job]) -> None:
        self.images = 0  # images and frames
        self.completed = 0  # images and videos
        self.failures = 0
        self._remarks: dict[str, list[Path]] = {}
        self._started = time.perf_counter()
        self._progress = Progress(
            TextColumn("predicting"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        # A video's number of frames is known only at its end.
        known = None if any(job.video for job in jobs) else len(jobs)
        self._task = self._progress.add_task("", total=known, speed="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def image_done(self) -> None:
        """Counts an image that was written."""
        self.completed += 1
        self.frame_done()

    def frame_done(self) -> None:
        """Counts a frame of a video that was written."""
        self.images += 1
        self._progress.update(self._task, advance=1, speed=f"{self._speed():.1f} images/s")

    def failed(self, sentence: str) -> None:
        """Counts a failure and prints its sentence."""
        self.failures += 1
        sentence = shown(sentence)
        if self._progress.disable:
            typer.echo(f"error: {sentence}", err=True)
        else:  # above the bar
            self._progress.console.print(f"error: {sentence}", style="red", markup=False, soft_wrap=True)

    def remarked(self, image: Path, remark: str) -> None:
        """Keeps a remark on how an image was read, for notes()."""
        if remark != TURNED:  # which matters only for labels
            self._remarks.setdefault(remark, []).append(image)

    def notes(self) -> list[str]:
        """A sentence for each remark, with the number of its images and the first of them."""
        return [
            f"{len(images)} image{'s' * (len(images) != 1)} (such as {shown(images[0])}): {remark}"
            for remark, images in self._remarks.items()
        ]

    def summary(self, output: Path) -> str:
        """One line: images, seconds, speed, failures."""
        seconds = time.perf_counter() - self._started
        images = "1 image" if self.images == 1 else f"{self.images} images"
        line = f"{images} in {seconds:.1f} s ({self._speed():.1f} images/s), in {shown(output)}"
        return line + (f"; {self.failures} failed" if self.failures else "")

    def _speed(self) -> float:
        return self.images / max(time.perf_counter() - self._started, 1e-9)
