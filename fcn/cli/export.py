"""python -m fcn export: writes a checkpoint of `fcn train` or of a tuner as files that other programs can run."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fcn.device import chosen_device
from fcn.formats.write import Exported, export

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def run(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint directory, such as RUN/best.")],
    output: Annotated[Path, typer.Option(help="Directory to make; it must be new or empty.")],
    device: Annotated[
        str | None, typer.Option(help="Device to score on, cpu or cuda; default: a GPU if there is one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a checkpoint as safetensors, pt2 and ONNX; each is loaded again and compared with the checkpoint."""
    console = Console(highlight=False, markup=False, stderr=as_json)
    chosen = chosen_device(device)
    with console.status("exporting, comparing and scoring"):
        exported = export(checkpoint, output, device=chosen)
    if as_json:
        typer.echo(json.dumps({"output": str(output), **asdict(exported)}))
    else:
        console.print(_summary(output, exported), soft_wrap=True)


def _summary(output: Path, exported: Exported) -> str:
    lines = [
        f"{output / found.file}: differs from the checkpoint by {found.parity:.1e} of its logits' range"
        for found in exported.formats.values()
    ]
    for split, metrics in (("val", exported.metrics), ("test", exported.test_metrics)):
        shown = [
            f"{name} {metrics[f'{split}/{name}']:.4f}"
            for name in ("mean_iou", "max_f1", "pixel_accuracy")
            if f"{split}/{name}" in metrics
        ]
        if shown:
            lines.append(f"{split}: {', '.join(shown)}")
    lines.append(f"read {output / 'README.md'}; try: python -m fcn predict {output} IMAGES... --output DIR")
    return "\n".join(lines)
