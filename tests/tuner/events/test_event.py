"""Events as lines of JSON, of this version, of earlier ones and of later ones."""

from __future__ import annotations

import json
import shutil
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from tuner.cli.options import run_app
from tuner.display.show import record_json
from tuner.errors import StudyError
from tuner.events.event import (
    AttemptBegan,
    EpochReported,
    Event,
    ImagesStored,
    IncompleteEventError,
    NodeDraining,
    NodeLeftOut,
    NodeLost,
    RunBegan,
    RunEnded,
    TrialEnded,
    TrialRewound,
    TrialStarted,
    from_line,
    to_line,
)
from tuner.events.log import EVENTS, Journal, read_events
from tuner.events.state import load_record
from tuner.storage.storage import Storage

# Written by a version without format_version: a study of five trials, stopped with Ctrl-C and resumed to its end;
# show.json is what that version's `show --json` says of it.
WITHOUT_VERSION = Path(__file__).parent / "log_without_version"

EVERY_KIND: list[Event] = [
    RunBegan(1.0, 1, "h", 7, {"tuner": "0"}, ("budget.trials=9",), "sqlite:///x"),
    RunBegan(1.5, 2, "h", 7, {}, (), "", "tuner resume s", {"commit": "c0ffee"}, {"cpu": "x"}, {"split": "9 train"}),
    TrialStarted(2.0, 1, {"x": 0.1, "optimizer": "adam"}),
    EpochReported(3.0, 1, 1, {"score": 0.1 + 0.2}, 1.5, 0.25),
    EpochReported(3.5, 1, 2, {"score": 0.5}, again=True),
    EpochReported(3.6, 1, 3, {"score": 0.5}, device="cpu", system={"process_cpu_cores": 0.9}),
    ImagesStored(4.0, 1, ("images/epoch-000001/not utf-8 \udcff.png",)),
    TrialRewound(5.0, 1, 0),
    TrialEnded(6.0, 1, None, None, "failed", "ümlaut \n newline"),
    RunEnded(7.0, "finished", None),
]


@pytest.fixture
def study(tmp_path: Path) -> Storage:
    """The study that a version without format_version wrote."""
    shutil.copytree(WITHOUT_VERSION, tmp_path / "s")
    return Storage(str(tmp_path)) / "s"


LATER_KINDS: list[Event] = [
    AttemptBegan(1.5, 1, ("host1 (10.0.0.1)", "host2 (10.0.0.2)")),
    NodeLeftOut(1.5, "host3 (10.0.0.3)", "torch must be 2, as the driver's, got 1: install that version there"),
    NodeDraining(1.5, "host2 (10.0.0.2)"),
    NodeDraining(1.5, "host2 (10.0.0.2)", 121.5),
    NodeLost(1.5, "host2 (10.0.0.2)"),
]


@pytest.mark.parametrize("event", [*EVERY_KIND, *LATER_KINDS], ids=lambda event: type(event).__name__)
def test_an_event_comes_back_from_its_line_as_it_was_and_can_not_be_changed(event: Event) -> None:
    line = to_line(event)
    assert line.count(b"\n") == 1
    assert from_line(line) == event
    with pytest.raises(FrozenInstanceError):
        event.time = 0.0  # type: ignore[misc]


def test_a_log_without_format_version_is_read_to_the_same_state(study: Storage) -> None:
    found = record_json(load_record(study))
    said = json.loads((WITHOUT_VERSION / "show.json").read_text())
    # That version had one objective, and no control trials.
    said |= {"objectives": [{"metric": said["objective"], "direction": said["direction"]}], "front": []}
    said["from_studies"] = []
    for trial in said["trials"]:
        values = {} if trial["value"] is None else {said["objective"]: trial["value"]}
        trial |= {"values": values, "control": False, "would_stop_at": None}
    assert found == said
    kinds = {type(event) for event in read_events(study)}
    assert kinds == {type(event) for event in EVERY_KIND}, "the log has every kind"


def test_a_log_without_format_version_is_reproduced_byte_for_byte(study: Storage) -> None:
    for event, line in zip(
        read_events(study), (WITHOUT_VERSION / EVENTS).read_bytes().splitlines(keepends=True), strict=True
    ):
        said = json.loads(to_line(event))
        assert said.pop("format_version", 1) == 1
        assert said == json.loads(line)


def test_the_first_line_of_a_log_says_its_version(tmp_path: Path) -> None:
    with Journal(Storage(str(tmp_path)) / "s") as journal:
        journal.append(EVERY_KIND[0])
        first = json.loads(journal.path.read_text())
    assert (first["event"], first["format_version"]) == ("run", 1)


# Whatever a later version makes of the line, its version is what is said of it.
@pytest.mark.parametrize("later", [{"event": "run", "versions": {"tuner": "9.1"}}, {"event": "header"}, {}])
def test_a_log_of_a_later_version_is_refused_in_a_sentence(
    study: Storage, later: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert study.local is not None
    (study.local / EVENTS).write_text(json.dumps({**later, "format_version": 2}) + "\n")
    use = "use tuner 9.1, which wrote it, or a later one" if later.get("versions") else "use the tuner that wrote it"
    with pytest.raises(StudyError, match=rf"{EVENTS}, line 1: format_version must be at most 1 .*, got 2: {use}$"):
        load_record(study)
    with pytest.raises(SystemExit) as end:
        run_app(lambda: load_record(study))  # type: ignore[arg-type]
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {study.uri}/{EVENTS}, line 1: format_version must be at most 1")


def test_a_resume_by_a_later_version_makes_the_log_one_of_that_version(study: Storage) -> None:
    """Its first line still says the old one."""
    assert study.local is not None
    with (study.local / EVENTS).open("a") as file:
        file.write('{"event": "run", "format_version": 2}\n')
    with pytest.raises(StudyError, match="line 49: format_version must be at most 1"):
        load_record(study)


def test_unknown_keys_are_ignored() -> None:
    """Logs of 2026 have a report's images in the report."""
    line = b'{"event": "report", "time": 1, "trial": 1, "epoch": 2, "metrics": {"score": 1}, "images": ["a.png"]}\n'
    assert from_line(line) == EpochReported(1, 1, 2, {"score": 1})


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"event": "start", "time": 1.0, "trial": "1", "params": {}}, "trial is '1'"),
        ({"event": "start", "time": 1.0, "trial": 1, "params": None}, "params is None"),
        ({"event": "start", "trial": 1, "params": {}}, "time is missing"),
        ({"event": "images", "time": 1.0, "trial": 1, "images": "a.png"}, "images is 'a.png'"),
        ({"event": "end", "time": 1.0, "trial": 1, "state": "running"}, "state is 'running'"),
        ({"event": "run", "format_version": "2"}, "format_version must be a whole number from 1 on, got '2'"),
    ],
)
def test_a_field_of_another_type_is_no_event(fields: dict[str, Any], place: str) -> None:
    with pytest.raises(IncompleteEventError, match=place):
        from_line(json.dumps(fields).encode())
