"""Tables as files, and columns whose names or types are not plain."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import tuner
from tests.written_study import ROADS, end, report, run, start, stop, write_study
from tuner.errors import StudyError
from tuner.results.tables import column_of, write_csv, write_parquet


def test_a_hyperparameter_or_metric_of_a_columns_name_stands_apart(tmp_path: Path) -> None:
    space = {"epochs": {"type": "int", "low": 1, "high": 9}, "state": {"type": "choice", "choices": ["on", "off"]}}
    lines = (run(), start(1, epochs=3, state="on"), report(1, 1, 0.5, seconds=7.0), end(1), stop())
    write_study(tmp_path, "roads", *lines, space=space)
    study = tuner.load("roads", storage=tmp_path)
    assert study.trials.loc[1, ["param.epochs", "param.state", "epochs", "state"]].tolist() == [3, "on", 1, "finished"]
    assert study.metrics.loc[0, ["seconds", "metric.seconds"]].tolist() == [2.0, 7.0]
    assert column_of("epochs") == "param.epochs"


def test_choices_of_several_types_and_of_an_earlier_space_are_kept(tmp_path: Path) -> None:
    space = {"batch_size": {"type": "choice", "choices": [8, "auto"]}, "flip": {"type": "choice", "choices": [True]}}
    lines = (run(), start(1, batch_size=8, flip=True, width=0.5), start(2, batch_size="auto"))
    write_study(tmp_path, "roads", *lines, space=space)
    trials = tuner.load("roads", storage=tmp_path).trials
    assert trials["batch_size"].tolist() == [8, "auto"]
    assert trials["flip"].tolist() == [True, pd.NA]
    assert trials["width"].tolist()[0] == 0.5
    write_parquet(trials, tmp_path / "trials.parquet")
    back = pd.read_parquet(tmp_path / "trials.parquet")
    assert back["batch_size"].tolist() == ["8", "auto"]


def test_parquet_gives_back_the_table_and_csv_its_text(tmp_path: Path) -> None:
    write_study(tmp_path, "roads", *ROADS)
    study = tuner.load("roads", storage=tmp_path)
    for table in (study.trials, study.metrics):
        write_parquet(table, tmp_path / "t.parquet")
        whole = table.reset_index() if table.index.name else table
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), whole, check_dtype=False)
    write_csv(study.trials, tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0].startswith("trial,x,batch_size,optimizer,momentum,state,value,best_epoch,epochs,seconds,")
    assert lines[1].startswith("1,0.25,4,adam,,finished,0.25,2,2,7.0,0.5,2026-09-21T14:13:21.000000Z,2026-")


def test_control_trials_have_columns_and_a_study_without_any_has_none(tmp_path: Path) -> None:
    control = {**start(2, x=0.5), "control": True}
    spared = {"event": "spared", "trial": 2, "epoch": 1}
    reports = (report(1, 1, 0.5), report(2, 1, 0.1), spared, report(2, 2, 0.9))
    write_study(tmp_path, "roads", run(), start(1, x=0.5), control, *reports, end(1), end(2), stop())
    trials = tuner.load("roads", storage=tmp_path).trials
    assert trials["control"].tolist() == [False, True]
    assert trials["would_stop_at"].tolist() == [pd.NA, 1]
    write_study(tmp_path, "others", *ROADS)
    assert not {"control", "would_stop_at"} & set(tuner.load("others", storage=tmp_path).trials.columns)


def test_a_file_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    write_study(tmp_path, "roads", *ROADS)
    trials = tuner.load("roads", storage=tmp_path).trials
    for write in (write_csv, write_parquet):
        with pytest.raises(StudyError, match="/no/t: must be a file that can be written, got: "):
            write(trials, tmp_path / "no" / "t")
