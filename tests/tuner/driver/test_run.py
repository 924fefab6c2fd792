"""What follows when a study has ended. Whole studies are in tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.written_study import ROADS, end, run, start, stop, write_study
from tuner.cli.console import console
from tuner.driver.run import write_study_report
from tuner.events.state import load_record


def test_a_study_that_has_ended_leaves_its_report_and_an_interrupted_one_does_not(tmp_path: Path) -> None:
    failed = write_study(tmp_path, "failed", run(), start(1, x=0.5), end(1, "failed", "no"), stop("failed", "no"))
    stopped = write_study(tmp_path, "stopped", *ROADS, stop("interrupted", "SIGINT"))
    for study in (failed, stopped):
        write_study_report(load_record(study), study, console())
    assert "<h1>failed</h1>" in (failed.read_text("report.html") or "")
    assert not stopped.exists("report.html")


def test_a_report_that_cannot_be_written_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path, "roads", *ROADS, stop())
    (tmp_path / "roads" / "report.html").mkdir()
    write_study_report(load_record(study), study, console())
    said = capsys.readouterr().out
    assert said.startswith("warning: no report was written: --storage")
    assert "`python -m tuner report roads` writes one" in said
