"""replay.py for slots that train with torch."""

import torch  # noqa: F401  that it is imported is what makes the difference

from tests.workloads.replay import Config, export, prepare, train

__all__ = ["Config", "export", "prepare", "train"]
