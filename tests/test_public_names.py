"""The names that other people's code may stand on."""

import fcn
import tuner


def test_tuner_has_these_names_and_no_others() -> None:
    assert sorted(tuner.__all__) == ["BestTrial", "Study", "StudyError", "StudySpec", "TunerError", "load", "run"]
    assert all(getattr(tuner, name) is not None for name in tuner.__all__)


def test_fcn_has_these_names_and_no_others() -> None:
    assert sorted(fcn.__all__) == [
        "Config", "Exported", "Format", "InputError", "Prepared", "Report", "Snapshot", "TrainingError",
        "export", "prepare", "train",
    ]  # fmt: skip
    assert all(getattr(fcn, name) is not None for name in fcn.__all__)
