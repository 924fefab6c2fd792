"""python -m fcn train: one run in one folder, without a tuner.

DIR/last/                the newest checkpoint, with what resuming needs
DIR/best/                the checkpoint with the best val/mean_iou, without that; not written without validation
DIR/metrics.jsonl        the metrics, a line for each epoch
DIR/curves.png           the learning curves, drawn at the end
DIR/batch_losses.jsonl   with --batch-losses: the loss, a line for each batch
DIR/samples/epoch-0010/  with --samples: overlays of images after epoch 10

last/ and best/ are written at the end, and before that only so often that writing takes about a fiftieth of the time.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import distributed

from fcn.cli.run_config import read_config
from fcn.config import Config
from fcn.device import chosen_device, described
from fcn.distributed import fail_together, rank
from fcn.errors import InputError, TrainingError
from fcn.model import checkpoint
from fcn.model.precision import precision_of
from fcn.training.run import prepare, train
from fcn.training.run_folder import BEST_METRIC, RunFolder
from fcn.training.samples import Samples, chosen_epochs
from fcn.training.snapshot import Snapshot

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    output: Annotated[Path, typer.Option(help="Folder of the run.")],
    fields: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A field of fcn.Config, as in TOML. Repeatable."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of config fields, or the folder of a checkpoint or an export, "
            "whose config and split are taken. A field given by --set overrides it."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the last checkpoint of OUTPUT.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; default: a GPU if any.")] = None,
    batch_losses: Annotated[
        bool, typer.Option("--batch-losses", help="Write the loss of each batch to OUTPUT/batch_losses.jsonl.")
    ] = False,
    samples: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH", help="Images, or a folder of them: their overlays go to OUTPUT/samples. Repeatable."
        ),
    ] = None,
    sample_epochs: Annotated[
        str | None,
        typer.Option(metavar="N,N,…", help="Epochs after which --samples are drawn; default: the last."),
    ] = None,
) -> None:
    """Train FCN-8s once; under torchrun, on every rank."""
    _keep_freed_memory()
    console = Console(highlight=False, markup=False, soft_wrap=True)
    try:
        with _ranks(device) as chosen:
            sample_options = _SampleOptions(samples or [], sample_epochs)
            _train(output, fields or [], config, resume, chosen, batch_losses, sample_options, console)
    except TrainingError as error:
        last = output / "last"
        kept = f"; the last good checkpoint is {last}" if last.exists() else ""
        raise TrainingError(f"{error}{kept}") from error
    except KeyboardInterrupt:
        how = f"resume with: python -m fcn train --output {output} --resume"
        typer.echo(f"stopped; {how if (output / 'last').exists() else 'there was no checkpoint yet'}", err=True)
        raise typer.Exit(130) from None


def _keep_freed_memory() -> None:
    """Makes glibc keep large freed blocks of memory instead of returning them to the system.

    Otherwise the system hands out and clears new memory for each layer, which costs a CPU a fifth of its speed.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter in (-1, -3):  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of mallopt(3)
            libc.mallopt(parameter, 2**31 - 1)


def _train(
    output: Path,
    fields: list[str],
    source: Path | None,
    resume: bool,
    device: torch.device,
    batch_losses: bool,
    sample_options: "_SampleOptions",
    console: Console,
) -> None:
    folder = RunFolder(output)
    with fail_together():
        if rank() == 0:
            folder.tidy()
    with fail_together():
        start = folder.start(resume=resume)
        config, notes = read_config(fields, source, start)
        samples = sample_options.samples(folder, config, console)
        with _waiting(console, "reading the data set"):
            prepared = prepare(config, device=device)
    with fail_together():
        if rank() == 0:
            console.print(prepared.summary)
            console.print(f"device: {described(device)}; computes in {precision_of(config, device).name}")
            for warning in prepared.warnings:
                console.print(f"warning: {warning}")
            for note in notes:
                console.print(f"note: {note}")
            folder.open(start, config)

    newest: Snapshot | None = None

    def report(metrics: dict[str, float], snapshot: Snapshot | None) -> None:
        nonlocal newest
        newest = snapshot
        if snapshot is not None:
            # Samples before the checkpoint: after a kill between the two, resuming trains the epoch again and
            # writes its samples again.
            samples.after(snapshot)
            folder.keep(metrics, snapshot)
            console.print(epoch_line(metrics, config.epochs))

    try:
        with _waiting(console, "training"):
            train(
                config,
                report=report,
                resume_from=None if start is None else start.directory,
                device=device,
                batch_losses=folder.keep_batch_losses if batch_losses and rank() == 0 else None,
            )
        if newest is not None:
            samples.at_the_end(newest)
        folder.write_last()
    finally:
        folder.write_best()
        if rank() == 0:
            folder.draw()
    if rank() == 0:
        console.print(_end(folder, config))


@dataclass(frozen=True)
class _SampleOptions:
    """The values of --samples and --sample-epochs."""

    paths: list[Path]
    epochs: str | None

    def samples(self, folder: RunFolder, config: Config, console: Console) -> Samples:
        """The samples of a run. Raises InputError if a path has no images or an epoch isn't one of the run."""
        if self.epochs is not None and not self.paths:
            raise InputError(f"--sample-epochs {self.epochs}: needs --samples, the images to draw on")
        epochs = None if self.epochs is None else chosen_epochs(self.epochs, config.epochs)

        def warn(sentence: str) -> None:
            if rank() == 0:
                console.print(f"warning: {sentence}")

        return Samples(self.paths, epochs, folder.samples, warn)


def _end(folder: RunFolder, config: Config) -> str:
    """The lines that are printed at the end of a run."""
    if config.val_fraction > 0:
        kept = checkpoint.load(folder.best)
        which = f"best: epoch {kept.epoch}, {BEST_METRIC} {kept.metrics.get(BEST_METRIC, 0.0):.4f}"
    else:
        kept = checkpoint.load(folder.last)
        which = f"last: epoch {kept.epoch}, loss {kept.metrics['train/loss']:.4f}, not validated"
    return (
        f"{which}, in {kept.directory}\n"
        f"curves: {folder.curves}\n"
        f"next: python -m fcn export {kept.directory} --output EXPORT_DIR"
    )


def epoch_line(metrics: dict[str, float], epochs: int) -> str:
    """The line that is printed after an epoch."""
    parts = [
        f"epoch {metrics['epoch']:{len(str(epochs))}.0f}/{epochs}",
        f"loss {metrics['train/loss']:.4f}",
        f"val {metrics['val/loss']:.4f}" if "val/loss" in metrics else "",
        f"mean IoU {metrics['val/mean_iou']:.3f}" if "val/mean_iou" in metrics else "",
    ]
    ious = {name.removeprefix("val/iou_"): value for name, value in metrics.items() if "/iou_" in name}
    if "val/max_f1" in metrics:
        road = next((name for name in ious if name != "background"), None)
        parts.append(f"{road} IoU {ious[road]:.3f}" if road else "")
        parts.append(f"MaxF {metrics['val/max_f1']:.3f} at {metrics['val/max_f1_threshold']:.2f}")
    parts.append(f"{metrics['time/images_per_second']:.1f} images/s")
    return "  ".join(part for part in [*parts, f"{metrics['time/epoch_seconds']:.1f} s"] if part)


@contextmanager
def _ranks(device: str | None) -> Iterator[torch.device]:
    """Under torchrun, connects this rank with the others. Yields this rank's device."""
    chosen = chosen_device(device)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield chosen
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield chosen
    finally:
        distributed.destroy_process_group()


@contextmanager
def _waiting(console: Console, what: str) -> Iterator[None]:
    if rank() == 0 and console.is_terminal:
        with console.status(what):
            yield
    else:
        yield
