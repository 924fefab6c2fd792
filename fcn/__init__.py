"""FCN-8s on VGG16 for road and street scenes: everything that a tuner or a script needs to know of it.

config = fcn.Config(dataset="scenes", weights="none", width=0.25, fc_width=256)
fcn.prepare(config)                     # reads and checks every file, once a machine
fcn.train(config, report=keep)          # calls keep(metrics, snapshot) after each epoch, which may write a checkpoint:
                                        # snapshot.copy(resume=True).write(checkpoint_dir)
fcn.export(checkpoint_dir, output_dir)  # weights, pt2 and ONNX, each compared with the checkpoint
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcn.config import Config
    from fcn.errors import InputError, TrainingError
    from fcn.formats.write import Exported, Format, export
    from fcn.training.run import Prepared, Report, prepare, train
    from fcn.training.snapshot import Snapshot

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
    "Prepared": "fcn.training.run",
    "Report": "fcn.training.run",
    "prepare": "fcn.training.run",
    "train": "fcn.training.run",
    "Snapshot": "fcn.training.snapshot",
    "Exported": "fcn.formats.write",
    "Format": "fcn.formats.write",
    "export": "fcn.formats.write",
}


def __getattr__(name: str) -> Any:
    # Late, so that checking a study file costs no second for torch.
    if name not in _HOME:
        raise AttributeError(f"module 'fcn' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
