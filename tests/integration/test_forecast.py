"""What is forecast of a study, and what a real Ray makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.study_process import mlflow_runs, tuner
from tests.studies import write_study
from tuner.events.outcome import compare
from tuner.events.state import load_record
from tuner.storage.storage import Storage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's database library
]


def test_a_study_comes_to_what_an_earlier_one_and_its_file_had_forecast(
    tmp_path: Path, storage: Path, shared_ray: str
) -> None:
    # One trial at a time, so that the order of the reports, and with it what stops, is the same each time. About eight
    # of ten seeds come to what was forecast; this is one of them.
    alike = {
        "search": {"sampler": "random", "seed": 1},
        "scheduler": {"name": "asha", "grace_epochs": 1},
        "resources": {"max_concurrent_trials": 1},
    }
    fixed = {"step_seconds": 0.2, "checkpoint_bytes": 500_000}
    pilot = write_study(tmp_path / "pilot.toml", **alike, budget={"trials": 3}, fixed={**fixed, "epochs": 3})
    whole = write_study(tmp_path / "whole.toml", **alike, budget={"trials": 16}, fixed={**fixed, "epochs": 9})
    options = ("--storage", storage, "--address", shared_ray)
    assert "disk: unknown" in tuner("check", pilot, *options).output
    tuner("run", pilot, *options)
    checked = tuner("check", whole, *options).output
    assert "s, as in study pilot" in checked
    tuner("run", whole, *options)
    folder = Storage(str(storage)) / "whole"
    record = load_record(folder)
    rows = {row.key: row for row in compare(record, folder)}
    assert record.forecast is not None
    assert all(sentence in checked for sentence in record.forecast.sentences()), "check says what the study writes"
    assert record.forecast.trials[1].high == 16
    for key in ("trials_at_epoch_1", "trials_at_epoch_3", "trials_at_epoch_9", "epochs", "checkpoints"):
        assert rows[key].verdict == "as forecast", rows
    # How long an epoch takes beside its 0.2 s depends on what else the machine does, in the pilot and here.
    assert record.forecast.hours is not None
    assert record.forecast.hours.low * 3600 > 0.2 * record.forecast.epochs.low
    assert rows["time"].outcome == f"{record.run_seconds:.1f} seconds"
    tags = mlflow_runs(storage, "whole")["study"].data.tags
    for row in rows.values():
        assert tags[f"tuner.forecast.{row.key}"] == row.forecast
    assert tags["tuner.outcome.epochs"] == rows["epochs"].outcome
    assert tags["tuner.outcome.checkpoints"] == rows["checkpoints"].outcome == "1.5 MB"
    assert ">Forecast and outcome<" in (folder.read_text("report.html") or "")
