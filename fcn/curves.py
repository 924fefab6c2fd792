"""The course of a run as one PNG, as the source write-ups show it."""

from collections.abc import Sequence
from pathlib import Path

# The object interface: pyplot would keep figures and settings for the whole process.
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_PANELS = (
    ("Loss", ("train/loss", "val/loss")),
    ("Validation", ("val/mean_iou", "val/pixel_accuracy", "val/max_f1", "val/average_precision")),
    ("IoU of each class", ("val/iou_",)),
    ("Learning rate", ("train/learning_rate",)),
)
_PANEL_INCHES = (5.0, 3.6)


def draw_curves(history: Sequence[dict[str, float]], path: Path) -> None:
    """history: the measures of each epoch, in order, each with "epoch". Writes a PNG of 2 x 2 panels."""
    figure = Figure(figsize=(2 * _PANEL_INCHES[0], 2 * _PANEL_INCHES[1]), layout="constrained")
    FigureCanvasAgg(figure)
    known = sorted({name for measures in history for name in measures})
    for place, (title, prefixes) in enumerate(_PANELS, start=1):
        axes = figure.add_subplot(2, 2, place)
        for name in known:
            if not name.startswith(prefixes):
                continue
            points = [(measures["epoch"], measures[name]) for measures in history if name in measures]
            epochs, values = zip(*points, strict=True)
            # Markers, so that a run of one epoch shows something.
            axes.plot(epochs, values, marker=".", label=name.split("/")[1].replace("_", " "))
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small", ncols=1 + len(axes.lines) // 8)
    figure.savefig(path, dpi=120)
