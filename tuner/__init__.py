"""A hyperparameter tuning platform on Ray: runs study files, compares their trials, exports the winner.

study = tuner.load("roads", storage="studies")   # read a study: study.trials, study.metrics, study.best, study.masks(7)
study = tuner.run("search_spaces/demo.toml")     # run a study as the command does; mistakes raise StudyError
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.errors import StudyError, TunerError
    from tuner.python import run
    from tuner.results.study import BestTrial, Study, load
    from tuner.spec.study import StudySpec

__version__ = "0.1.0"

__all__ = ["BestTrial", "Study", "StudyError", "StudySpec", "TunerError", "load", "run"]

_HOME = {
    "BestTrial": "tuner.results.study",
    "Study": "tuner.results.study",
    "load": "tuner.results.study",
    "run": "tuner.python",
    "StudyError": "tuner.errors",
    "TunerError": "tuner.errors",
    "StudySpec": "tuner.spec.study",
}


def __getattr__(name: str) -> Any:
    # Imported on first use, so that a command starts without waiting for pandas, pydantic and pyarrow.
    if name not in _HOME:
        raise AttributeError(f"module 'tuner' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
