"""tuner.run: what the command does, its mistakes as exceptions. A whole run is in tests/integration/test_docs.py."""

from __future__ import annotations

from pathlib import Path

import pytest

import tuner
from tests.studies import study_tables, write_study
from tests.written_study import ROADS, run, stop
from tests.written_study import write_study as write_studys_folder
from tuner.events.state import load_record
from tuner.python import ended, study_spec
from tuner.spec.study import StudySpec
from tuner.storage.storage import Storage


def test_every_mistake_is_in_the_exception_and_nothing_is_written(tmp_path: Path) -> None:
    file = write_study(tmp_path / "roads.toml")
    changes = {"budget.trails": 3, "space.x.low": 5}
    with pytest.raises(tuner.StudyError) as error:
        tuner.run(file, tmp_path / "studies", overrides=changes)
    assert "budget.trails: no such key; did you mean trials?" in str(error.value)
    assert "space.x: low < high must hold" in str(error.value)
    assert not (tmp_path / "studies").exists()


def test_an_override_that_no_study_file_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(tuner.StudyError, match=r"overrides: fixed\.epochs: a number, a text, .* got None"):
        tuner.run(study_tables(), tmp_path, overrides={"fixed.epochs": None})


def test_a_study_that_exists_is_not_run_again(tmp_path: Path) -> None:
    write_studys_folder(tmp_path, "roads", *ROADS)
    with pytest.raises(tuner.StudyError, match="study roads exists"):
        tuner.run(tuner.load("roads", tmp_path).spec, tmp_path)


def test_a_study_that_failed_or_was_stopped_raises(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_studys_folder(tmp_path, "s", run(), stop("failed", "the first 5 trials all failed"))
    with pytest.raises(tuner.StudyError, match="study s: failed: the first 5 trials all failed"):
        ended(load_record(storage / "s"), storage)
    write_studys_folder(tmp_path, "s", run(), stop("interrupted", "SIGINT"))
    with pytest.raises(KeyboardInterrupt):
        ended(load_record(storage / "s"), storage)
    write_studys_folder(tmp_path, "s", run(), stop("interrupted", "the storage refused for 9 s"))
    with pytest.raises(tuner.StudyError, match="interrupted: the storage refused for 9 s"):
        ended(load_record(storage / "s"), storage)


def test_another_studys_spec_is_run_under_a_new_name_and_without_its_id() -> None:
    spec = StudySpec.model_validate({**study_tables(), "name": "old", "id": "0" * 32})
    found = study_spec(spec, ['fixed.log="a \\"b\\".txt"', "budget.trials=2", "fixed.collective=true"], "new")
    assert (found.name, found.id, found.budget.trials) == ("new", None, 2)
    assert found.fixed == {"log": 'a "b".txt', "collective": True}


def test_another_studys_spec_brings_what_that_study_took_from_earlier_ones_and_takes_nothing_more() -> None:
    taken = {
        "search": {"from_studies": ["gone"]},
        "first_trials": [{"x": 0.5}],
        "taken": [{"study": "gone", "ended": 2}],
    }
    spec = StudySpec.model_validate({**study_tables(**taken), "name": "old"})
    found = study_spec(spec, [], "new")
    assert (found.first_trials, found.search.from_studies, found.taken) == (({"x": 0.5},), (), ())
    not_begun = StudySpec.model_validate({**study_tables(search={"from_studies": ["there"]}), "name": "old"})
    assert study_spec(not_begun, [], "new").search.from_studies == ("there",)
