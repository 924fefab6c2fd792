"""FCN-8s on VGG16 for road and street scenes: everything that a tuner or a script needs to know of it.

config = fcn.Config(dataset="scenes", weights="none", width=0.25, fc_width=256)
fcn.prepare(config)                     # reads and checks every file, once a machine
fcn.train(config, report=keep)          # calls keep(measures, snapshot) after each epoch, which may write a checkpoint:
                                        # snapshot.copy(resume=True).write(checkpoint_dir)
fcn.export(checkpoint_dir, output_dir)  # weights, pt2 and ONNX, each compared with the checkpoint
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcn.config import Config
    from fcn.errors import InputError, TrainingError
    from fcn.exporting import Exported, Format, export
    from fcn.snapshot import Snapshot
    from fcn.training import Prepared, Report, prepare, train

__all__ = [
    "Config",
    "Exported",
    "Format",
    "InputError",
    "Prepared",
    "Report",
    "Snapshot",
    "TrainingError",
    "export",
    "prepare",
    "train",
]

_HOME = {
    "Config": "fcn.config",
    "InputError": "fcn.errors",
    "TrainingError": "fcn.errors",
    "Prepared": "fcn.training",
    "Report": "fcn.training",
    "prepare": "fcn.training",
    "train": "fcn.training",
    "Snapshot": "fcn.snapshot",
    "Exported": "fcn.exporting",
    "Format": "fcn.exporting",
    "export": "fcn.exporting",
}


def __getattr__(name: str) -> Any:
    # Late, so that checking a study file costs no second for torch.
    if name not in _HOME:
        raise AttributeError(f"module 'fcn' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
