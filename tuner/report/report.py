"""Writes the report of one study, or the comparison of several, to a file or to the study's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuner.errors import StudyError
from tuner.events.state import StudyRecord
from tuner.report import REPORT
from tuner.report.comparison_page import comparison_page
from tuner.report.study_page import study_page
from tuner.results.study import Study
from tuner.storage.files import write_atomically
from tuner.storage.storage import Storage


def write_report(studies: Sequence[Study], file: Path) -> None:
    """One study's report, or the comparison of several. Replaces the file; raises StudyError if it can't be written."""
    page = study_page(studies[0]) if len(studies) == 1 else comparison_page(studies)
    error_start = f"--output {file}: must be a file that can be written, got"
    if file.exists() and not file.is_file():
        raise StudyError(f"{error_start} {'a folder' if file.is_dir() else 'none'}; give another")
    try:
        write_atomically(file, page.encode())
    except OSError as error:
        raise StudyError(f"{error_start}: {error.strerror or error}; give another") from None


def store_report(record: StudyRecord, folder: Storage) -> None:
    """A study's report in its own folder. Raises StudyError if the storage can't be written."""
    folder.write_bytes(REPORT, study_page(Study(record, folder)).encode())
