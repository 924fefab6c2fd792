"""What `python -m tuner optuna` writes, opened with Optuna."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from typer.testing import CliRunner

from tests.generated_study import generated_study
from tuner.cli.app import app
from tuner.errors import StudyError
from tuner.events.state import StudyRecord, load_record
from tuner.storage.storage import Storage


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    storage = Storage(str(tmp_path_factory.mktemp("studies")))
    generated_study(storage, trials=20)
    return load_record(storage / "streets")


@pytest.fixture(scope="module")
def studies(record: StudyRecord, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(str(tmp_path_factory.mktemp("again")))
    generated_study(storage, trials=20)
    return storage


@pytest.mark.parametrize("to", ["sqlite:///{}/x.db", "{}/x.journal"])
def test_a_study_as_an_optuna_storage_has_all_that_optuna_can_hold(
    record: StudyRecord, studies: Storage, tmp_path: Path, to: str
) -> None:
    to = to.format(tmp_path)
    done = CliRunner().invoke(app, ["optuna", "streets", "--to", to, "--storage", studies.uri], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    storage: str | BaseStorage = to if "://" in to else JournalStorage(JournalFileBackend(to))
    study = optuna.load_study(study_name="streets", storage=storage)
    best = record.ranking()[0]
    assert (study.best_value, study.best_params) == (best.value, best.params)
    assert study.metric_names == ["val/iou_road"]
    assert [trial.user_attrs["trial"] for trial in study.trials] == list(record.trials)
    for trial, ours in zip(study.trials, record.trials.values(), strict=True):
        assert trial.intermediate_values == dict(ours.curve)
        assert (trial.state == TrialState.FAIL) == (ours.state == "failed")
    assert "learning_rate" in optuna.importance.get_param_importances(study)
    again = CliRunner().invoke(app, ["optuna", "streets", "--to", to, "--storage", studies.uri])
    assert isinstance(again.exception, StudyError)
    assert "must hold no study streets" in str(again.exception)


def test_a_password_of_a_database_that_is_not_there_is_not_shown(studies: Storage) -> None:
    to = "postgresql+psycopg2://me:s3cret@127.0.0.1:9/x"
    done = CliRunner().invoke(app, ["optuna", "streets", "--to", to, "--storage", studies.uri])
    assert isinstance(done.exception, StudyError)
    assert "s3cret" not in str(done.exception) + done.output
