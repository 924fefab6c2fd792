"""python -m fcn evaluate: scores an export on labelled frames, or writes a submission for the KITTI server.

python -m fcn evaluate EXPORT DIR --split test                at the network's image size, as training scores
python -m fcn evaluate EXPORT DIR --split test --own-size     at native resolution, as KITTI's devkit scores
python -m fcn evaluate EXPORT DIR --split test --bev          in bird's-eye view, as KITTI's server scores
python -m fcn evaluate EXPORT DIR --split all                 on every frame of a folder, which may be of other drives
python -m fcn evaluate EXPORT DIR --submission OUT            writes predictions for DIR/testing
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console

from fcn.cli.scored_frames import Split, frames_to_score, notes
from fcn.config import Config, DatasetName
from fcn.data.cache import open_cache
from fcn.data.dataset import Dataset
from fcn.data.readers.kitti_road import missing_frames
from fcn.data.remote.local_copy import fetch, folder_of
from fcn.device import chosen_device
from fcn.errors import InputError
from fcn.formats.read import Export, Network, open_network, read_export
from fcn.formats.verify import score
from fcn.kitti.native_resolution import score_at_native_resolution
from fcn.kitti.submission import write_submission
from fcn.prediction.predictor import Predictor

View = Literal["network size", "own size", "bev"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    export: Annotated[Path, typer.Argument(help="Directory that `fcn export` or tuner.best wrote.")],
    data: Annotated[
        str | None,
        typer.Argument(
            help="Folder or URL of the data set that it was trained on; any with --split all; none for scenes."
        ),
    ] = None,
    split: Annotated[
        Split, typer.Option(help="A split of the run; all: every frame, also those it was trained on.")
    ] = "test",
    dataset: Annotated[
        DatasetName | None,
        typer.Option(help="With --split all: the data set in DIR; guessed from the folder's layout if left out."),
    ] = None,
    native_resolution: Annotated[
        bool, typer.Option("--own-size", help="Score at the frames' native resolution, as KITTI's devkit does.")
    ] = False,
    bev: Annotated[
        bool,
        typer.Option(
            "--bev", help="Score in bird's-eye view, as KITTI's server does; needs KITTI's calibration files."
        ),
    ] = False,
    submission: Annotated[
        Path | None,
        typer.Option(
            help="Instead of scoring, write a submission for the KITTI server on DIR/testing into this folder."
        ),
    ] = None,
    format: Annotated[
        Literal["safetensors", "onnx"], typer.Option(help="Which file of the export to run.")
    ] = "safetensors",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; default: a GPU if any.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Score an export, or write a submission for the KITTI server."""
    console = Console(highlight=False, markup=False, stderr=as_json)
    chosen = chosen_device(device)
    opened = read_export(export)
    if data is not None:
        fetch(Config(data_dir=data))
    if submission is not None:
        if native_resolution or bev or dataset:
            raise InputError("--submission scores nothing: leave out --own-size, --bev and --dataset")
        predictor = Predictor(opened, open_network(opened, format, str(chosen)), "overlay")
        result = _submit(opened, predictor, data, submission, console)
    else:
        # Before the slow opening of the network, so that a wrong folder is reported at once.
        config, frames = frames_to_score(opened, data, split, dataset)
        for sentence in notes(opened, frames, split):
            typer.echo(f"note: {sentence}", err=True)
        network = open_network(opened, format, str(chosen))
        view: View = "bev" if bev else "own size" if native_resolution else "network size"
        result = {
            "export": str(export),
            "data": data,
            "dataset": frames.name,
            "split": split,
            "frames": len(frames.splits[split]),
            "view": view,
            "image_size": list(opened.image_size),
            "metrics": _score(opened, network, config, frames, split, view, chosen, console),
        }
    typer.echo(json.dumps(result) if as_json else _for_people(result))


def _submit(opened: Export, predictor: Predictor, data: str | None, output: Path, console: Console) -> dict[str, Any]:
    if data is None:
        raise InputError("--submission needs DIR, KITTI Road's folder with testing/image_2 and testing/calib")
    folder = folder_of(Config(data_dir=data))
    assert folder is not None
    for sentence in missing_frames(folder, ["testing"]):
        typer.echo(f"note: {sentence}; the server takes all of them", err=True)
    with _counting(console, "predicting") as progress:
        count = write_submission(opened, predictor, folder, output, progress)
    return {"export": str(opened.directory), "data": data, "submission": str(output), "frames": count}


def _score(
    opened: Export,
    network: Network,
    config: Config,
    dataset: Dataset,
    split: Split,
    view: View,
    device: torch.device,
    console: Console,
) -> dict[str, float]:
    with _counting(console, "scoring") as progress:
        if view == "network size":
            cache = replace(open_cache(config), dataset=dataset)
            return score(network, opened, cache, split, config, device)
        found = score_at_native_resolution(
            opened,
            Predictor(opened, network, "overlay"),
            dataset,
            dataset.splits[split],
            from_above=view == "bev",
            progress=progress,
        )
    return {f"{split}/{name}": value for name, value in found.items()}


@contextmanager
def _counting(console: Console, what: str) -> Iterator[Callable[[], None]]:
    frames = 0
    with console.status(what) as status:

        def progress() -> None:
            nonlocal frames
            frames += 1
            status.update(f"{what}: {frames} frames")

        yield progress


def _for_people(result: dict[str, Any]) -> str:
    if "submission" in result:
        return f"{result['frames']} images in {result['submission']}: zip them for the KITTI Road server"
    height, width = result["image_size"]
    where = {
        "network size": f"at the network's {height} x {width} pixels",
        "own size": "at the frames' native resolution",
        "bev": "in bird's-eye view, 800 x 400 cells of 0.05 m",
    }[result["view"]]
    frames = f"{result['frames']} frame{'' if result['frames'] == 1 else 's'} of {result['data'] or 'drawn scenes'}"
    lines = [f"{result['split']}: {frames}, {where}"]
    length = max(len(name) for name in result["metrics"])
    lines += [f"  {name:{length}}  {value:.4f}" for name, value in result["metrics"].items()]
    return "\n".join(lines)
