"""The learning curves of a run as one PNG."""

from collections.abc import Sequence
from pathlib import Path

# matplotlib's object interface, since pyplot keeps figures and options for the whole process.
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_PANEL_INCHES = (5.0, 3.6)


def draw_curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """history: the metrics of each epoch, in order, each with "epoch".

    Writes a PNG of 2 x 2 panels; of 1 x 2 without validation.
    """
    panels = _panels(history)
    rows = len(panels) // 2
    figure = Figure(figsize=(2 * _PANEL_INCHES[0], rows * _PANEL_INCHES[1]), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, lines) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, 2, place)
        for label, name in lines.items():
            points = [(metrics["epoch"], metrics[name]) for metrics in history if name in metrics]
            if points:
                epochs, values = zip(*points, strict=True)
                # Markers, so that a run of one epoch shows something.
                axes.plot(epochs, values, marker=".", label=label)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if len(axes.lines) > 1:
            axes.legend(fontsize="small", ncols=1 + len(axes.lines) // 8)
    figure.savefig(path, dpi=120, format="png")


def _panels(history: Sequence[dict[str, float]]) -> list[tuple[str, dict[str, str]]]:
    """Title of each panel, and the label and metric of each line in it."""
    known = sorted({name for metrics in history for name in metrics})
    ious = {name.removeprefix("val/iou_"): name for name in known if name.startswith("val/iou_")}
    validation = {
        "mean IoU": "val/mean_iou",
        "pixel accuracy": "val/pixel_accuracy",
        "MaxF": "val/max_f1",
        "average precision": "val/average_precision",
    }
    of_validation = [("Validation", validation), ("IoU of each class, validation", ious)]
    return [
        ("Loss", {"training": "train/loss", "validation": "val/loss"}),
        *(of_validation if any(name.startswith("val/") for name in known) else []),
        ("Learning rate", {"learning rate": "train/learning_rate"}),
    ]
