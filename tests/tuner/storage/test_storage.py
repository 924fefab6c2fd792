"""Where studies lie: folders and buckets, and what can't be either."""

from __future__ import annotations

import pickle
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.studies import study_spec
from tests.workloads.bucket import bucket_uri
from tests.workloads.replay import Config, write_checkpoint
from tuner.display.show import studies
from tuner.errors import StudyError
from tuner.events import bucket as buckets
from tuner.events.event import RunEnded
from tuner.events.log import Journal, is_running, read_events
from tuner.events.state import load_record
from tuner.spec.study import to_json
from tuner.storage.checkpoints import Progress, TrialCheckpoints
from tuner.storage.storage import Storage


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A storage with nothing in it, of either kind."""
    if request.param == "folder":
        return Storage(str(tmp_path / "studies"))
    monkeypatch.setattr(buckets, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(buckets, "LIFE_SECONDS", 2.0)
    monkeypatch.setattr(buckets, "UPLOAD_SECONDS", 0.1)
    return Storage(bucket_uri(request.getfixturevalue("bucket"), tmp_path.name))


def study_of(storage: Storage) -> Storage:
    """A study's folder, with its study.json."""
    study = storage / "s"
    study.write_text("study.json", to_json(study_spec()))
    return study


def test_a_file_is_read_as_it_was_written(storage: Storage) -> None:
    assert storage.read_text("a/b.txt") is None
    storage.write_text("a/b.txt", "one")
    storage.write_text("a/b.txt", "två")
    assert storage.read_text("a/b.txt") == "två"


def test_a_folder_in_a_storage_is_a_storage(storage: Storage) -> None:
    (storage / "s" / "trials/1").write_text("x", "1")
    assert storage.read_text("s/trials/1/x") == "1"
    assert (storage / "s").names("trials") == ["1"]
    assert (storage / "s/trials").name == "trials"


def test_a_storage_travels_to_other_processes(storage: Storage) -> None:
    (storage / "s").write_text("x", "1")
    there = pickle.loads(pickle.dumps(storage / "s"))  # noqa: S301
    assert there.read_text("x") == "1"
    assert there.uri == (storage / "s").uri


def test_a_folder_that_is_not_there_has_no_names_and_can_be_deleted(storage: Storage) -> None:
    assert storage.names("nothing") == []
    storage.delete("nothing")


def test_a_folder_comes_back_as_it_was_put(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "data").write_bytes(bytes(range(256)) * 100)
    (source / "empty").write_bytes(b"")
    storage.put(source, "trials/1/epoch-1", last="empty")
    assert storage.names("trials/1") == ["epoch-1"]
    assert storage.names("trials/1/epoch-1") == ["empty", "inner"]
    (tmp_path / "scratch").mkdir()
    found = storage.get("trials/1/epoch-1", tmp_path / "scratch")
    assert (found / "inner" / "data").read_bytes() == bytes(range(256)) * 100
    assert (found / "empty").read_bytes() == b""
    storage.delete("trials/1/epoch-1")
    assert storage.names("trials/1") == []


def test_checkpoints_live_in_either_kind(storage: Storage, tmp_path: Path) -> None:
    trial = TrialCheckpoints(storage / "s/trials/1")
    for epoch in (1, 2, 3):
        progress = Progress(epoch=epoch, metrics={}, best_value=1.0, best_epoch=min(epoch, 2))
        images = trial.publish(write_checkpoint(Config(), epoch), progress)
        assert bool(images) == (epoch < 3)
    found = trial.newest()
    assert found is not None
    assert found[0].epoch == 3
    (tmp_path / "best").mkdir()
    best = trial.fetch(2, tmp_path / "best")
    assert best is not None
    assert (best / "epoch.txt").read_text() == "2"
    trial.strip(2)
    assert (storage / "s/trials/1").names() == ["epoch-000002", "images"]
    assert "resume" not in (storage / "s/trials/1").names("epoch-000002")
    assert trial.newest() is None


def test_a_journal_lives_in_either_kind(storage: Storage) -> None:
    study = study_of(storage)
    event = RunEnded(1.0, "finished", None)
    for _ in range(2):
        with Journal(study) as journal:
            journal.append(event)
    assert load_record(study).state == "finished"
    assert list(read_events(study)) == [event, event]
    assert [record.spec.name for record in studies(storage)[0]] == ["s"]


def test_only_one_process_at_a_time_runs_a_study_of_either_kind(storage: Storage) -> None:
    study = study_of(storage)
    with Journal(study):
        deadline = time.monotonic() + 10
        while not is_running(study) and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(StudyError, match="run by another process"):
            Journal(study)
    assert not is_running(study)
    Journal(study).close()


@pytest.mark.parametrize("storage", ["bucket"], indirect=True)
def test_a_folder_that_is_put_again_is_not_whole_until_its_last_file_is_there_again(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"w")
    (folder / "report.json").write_text("{}")
    storage.put(folder, "epoch-000001", last="report.json")
    assert storage.read_text("epoch-000001/report.json") == "{}"

    def broken(*_: object) -> None:
        raise OSError("the line is cut")

    monkeypatch.setattr(shutil, "copyfileobj", broken)
    with pytest.raises(OSError, match="the line is cut"):
        storage.put(folder, "epoch-000001", last="report.json")
    assert storage.read_text("epoch-000001/report.json") is None


def test_a_path_with_special_characters_of_uris_is_a_path(tmp_path: Path) -> None:
    for name in ("with space", "per%20cent", "hash#tag", "question?mark", "ümläut", "o'neil"):
        storage = Storage(str(tmp_path / name))
        (storage / "s").write_text("x", "1")
        assert (tmp_path / name / "s" / "x").read_text() == "1"
        assert storage.names() == ["s"]
        assert storage.read_text("s/x") == "1"
        copy = pickle.loads(pickle.dumps(storage / "s"))  # noqa: S301
        assert copy.read_text("x") == "1"


def test_a_relative_path_means_the_folder_that_the_command_was_given_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage("studies")
    monkeypatch.chdir("/")
    storage.write_text("x", "1")
    assert (tmp_path / "studies" / "x").read_text() == "1"


@pytest.mark.parametrize("uri", ["ftp://host/x", "nothing://x"])
def test_an_address_that_is_no_storage_is_reported(uri: str) -> None:
    with pytest.raises(StudyError, match=r"--storage: a path or a URI such as s3://bucket/folder is needed"):
        Storage(uri)


def test_a_file_in_place_of_a_storage_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StudyError, match="must be a folder that can be written, got a file"):
            Storage(str(path)).check_writable()
    with pytest.raises(StudyError, match="must be a folder that can be written"):
        Storage(str(tmp_path / "file")).write_text("x", "1")


def test_a_file_in_place_of_a_storage_has_no_studies(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="must be a folder"):
        studies(Storage(str(tmp_path / "file")))


def test_a_storage_that_is_to_be_made_can_be_written(tmp_path: Path) -> None:
    Storage(str(tmp_path / "new" / "deep")).check_writable()
    assert not (tmp_path / "new").exists()


def test_a_half_written_file_is_never_seen(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write_text("x", "old")
    before = (tmp_path / "x").stat().st_ino
    storage.write_text("x", "new")
    assert (tmp_path / "x").stat().st_ino != before, "another file takes its place at once"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_buckets_secret_is_not_in_what_is_shown() -> None:
    storage = Storage("s3://key:secret@bucket/studies?region=us-east-1")
    assert storage.uri == "s3://key:***@bucket/studies?region=us-east-1"
    assert (storage / "s").uri == "s3://key:***@bucket/studies/s?region=us-east-1"
    assert re.search("secret", (storage / "s").uri) is None


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:hi/dden@bucket/studies",
        "s3://KEY:hi?dden@bucket/studies",
        "s3://KEY:hi#dden@bucket/studies",
        "s3://KEY:hi dden@bucket/studies",
        "s4://KEY:hidden@bucket/studies",
        "s3:/KEY:hidden@bucket/studies",
        "s3:///KEY:hidden@bucket/studies",
        "s3://bucket/studies?access_key=KEY&secret_key=hidden",
        "s3://bucket/studies?secret_key=hi%2Fdden",
    ],
)
def test_a_mistyped_address_is_reported_without_its_secret(uri: str) -> None:
    with pytest.raises(StudyError, match="--storage: ") as caught:
        Storage(uri)
    for part in ("hi", "dden"):
        assert part not in str(caught.value)
    assert "***" in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://bucket/run#7", "file:///tmp/run?7", "file:///tmp/run#7"])
def test_a_character_that_would_cut_an_address_short_is_reported(uri: str) -> None:
    with pytest.raises(StudyError, match="write %23 for # and %3F for"):
        Storage(uri)


@pytest.mark.parametrize("uri", ["s3://", "/", "file:///"])
def test_a_storage_without_a_name_is_reported(uri: str) -> None:
    with pytest.raises(StudyError, match="a folder or bucket must be named"):
        Storage(uri)
