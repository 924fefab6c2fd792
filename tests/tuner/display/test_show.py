"""What `list` and `show` say, to programs and to people."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.studies import study_spec
from tests.written_event import event
from tuner.display.live import Progress
from tuner.display.show import best_line, find, print_record, print_studies, record_json, studies, study_json
from tuner.errors import StudyError
from tuner.events.log import EVENTS, Journal
from tuner.events.state import StudyRecord, load_record
from tuner.spec.study import to_json
from tuner.spec.study_tables import Objective
from tuner.spec.taken import Taken
from tuner.storage.storage import Storage
from tuner.tracking.state import TrackingState, skipped_note


def write(storage: Storage, name: str, created: float, *events: dict[str, Any]) -> StudyRecord:
    study = storage / name
    study.write_text("study.json", to_json(study_spec(name=name, budget={"trials": 4})))
    run = {"event": "run", "number": 1, "host": "h", "pid": 1, "versions": {}, "overrides": [], "tracking_uri": "x"}
    with Journal(study) as journal:
        for fields in (dict(found) for found in (run, *events)):
            journal.append(event(fields.pop("event"), created, **fields))
    return load_record(study)


TRIALS: list[dict[str, Any]] = [
    {"event": "start", "trial": 1, "params": {"x": 0.25}},
    {"event": "report", "trial": 1, "epoch": 1, "metrics": {"score": 0.5}, "startup_seconds": 0.02},
    {"event": "start", "trial": 2, "params": {"x": 0.5}},
    {"event": "report", "trial": 2, "epoch": 1, "metrics": {"score": 0.75}, "startup_seconds": 0.03},
    {"event": "report", "trial": 2, "epoch": 2, "metrics": {"score": 0.7}},
    {"event": "start", "trial": 3, "params": {"x": 0.75}},
    {"event": "end", "trial": 2, "state": "stopped", "reason": "asha stopped it", "value": 0.75, "best_epoch": 1},
    {"event": "end", "trial": 1, "state": "finished", "reason": None, "value": 0.5, "best_epoch": 1},
    {"event": "end", "trial": 3, "state": "failed", "reason": "ValueError: [bold]no[/bold]", "value": None},
    {"event": "stop", "state": "finished", "reason": None},
]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def screen(draw: Any, *arguments: Any, width: int = 100) -> str:
    text = io.StringIO()
    draw(*arguments, Console(file=text, width=width))
    return text.getvalue()


def test_show_has_the_documented_keys(storage: Storage) -> None:
    found = record_json(write(storage, "a", 1e9, *TRIALS))
    assert found == {
        "name": "a",
        "state": "finished",
        "reason": None,
        "objective": "score",
        "direction": "maximize",
        "objectives": [{"metric": "score", "direction": "maximize"}],
        "best": {"trial": 2, "value": 0.75, "epoch": 1, "params": {"x": 0.5}},
        "front": [],
        "left_out": [],
        "from_studies": [],
        "trials": [
            {
                "id": number,
                "state": state,
                "params": {"x": x},
                "value": value,
                "values": {} if value is None else {"score": value},
                "epochs": epochs,
                "startup_seconds": startup,
                "seconds": 0.0,
                "reason": reason,
                "nodes": [],
                "control": False,
                "would_stop_at": None,
            }
            for number, state, x, value, epochs, startup, reason in [
                (1, "finished", 0.25, 0.5, 1, 0.02, None),
                (2, "stopped", 0.5, 0.75, 2, 0.03, "asha stopped it"),
                (3, "failed", 0.75, None, 0, None, "ValueError: [bold]no[/bold]"),
            ]
        ],
    }


def test_a_study_without_an_ended_trial_has_no_best(storage: Storage) -> None:
    record = write(storage, "a", 1e9, *TRIALS[:3])
    assert record_json(record)["best"] is None
    assert best_line(record) is None


def test_list_has_the_documented_keys_oldest_first(storage: Storage) -> None:
    write(storage, "younger", 1e9 + 60)
    write(storage, "older", 1e9)
    assert [study_json(record) for record in studies(storage)[0]] == [
        {"name": "older", "state": "interrupted", "created": "2001-09-09T01:46:40+00:00"},
        {"name": "younger", "state": "interrupted", "created": "2001-09-09T01:47:40+00:00"},
    ]


def test_without_a_name_the_newest_study_is_meant(storage: Storage) -> None:
    write(storage, "b", 1e9)
    write(storage, "a", 1e9 + 1)
    assert find(storage, None).spec.name == "a"
    assert find(storage, "b").spec.name == "b"


def test_folders_that_are_no_studies_are_passed_over(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "mlflow.db").write_text("")
    write(storage, "a", 1e9)
    assert [record.spec.name for record in studies(storage)[0]] == ["a"]


@pytest.mark.parametrize("name", ["nothing", "../a", "a/trials", ""])
def test_a_missing_study_is_reported(storage: Storage, name: str) -> None:
    write(storage, "a", 1e9)
    with pytest.raises(StudyError, match="a study is needed there, got none"):
        find(storage / "inner", name)


def test_a_storage_without_studies_is_reported(storage: Storage) -> None:
    with pytest.raises(StudyError, match="start one with `python -m tuner run STUDY_FILE`"):
        find(storage, None)


def test_a_study_that_was_killed_while_it_began_is_shown(storage: Storage) -> None:
    write(storage, "a", 1e9)
    assert (storage / "a").local is not None
    ((storage / "a").local / EVENTS).write_text("")
    assert record_json(find(storage, None))["state"] == "created"


def test_a_person_sees_the_ranking_and_each_failures_reason_as_it_is(storage: Storage) -> None:
    text = screen(print_record, write(storage, "a", 1e9, *TRIALS))
    rows = [line.split()[:2] for line in text.split("\n")]
    assert rows.index(["2", "stopped"]) < rows.index(["1", "finished"]) < rows.index(["3", "failed"])
    assert "trial 3 failed: ValueError: [bold]no[/bold]" in text


def test_why_a_study_ended_has_a_line_of_its_own_in_eighty_columns(storage: Storage) -> None:
    reason = "the storage refused for 3600 s: --storage /data: must be a folder that can be written, got disk full"
    stop = {"event": "stop", "state": "interrupted", "reason": reason}
    lines = screen(print_record, write(storage, "a", 1e9, *TRIALS[:-1], stop), width=80).split("\n")
    assert lines[:2] == ["a  interrupted  3 of 4 trials, to maximize score", f"interrupted: {reason}"]


def test_show_says_what_a_study_took_from_each_earlier_one(storage: Storage) -> None:
    record = write(storage, "a", 1e9, *TRIALS)
    assert "first trials from" not in screen(print_record, record)
    taken = (Taken(study="kitti", trials=(7, 2), ended=9, without=("l2",)), Taken(study="camvid", ended=3, reason="no"))
    spec = study_spec(name="a", search={"from_studies": ["kitti", "camvid"]}, taken=taken)
    (storage / "a").write_text("study.json", to_json(spec))
    record = load_record(storage / "a")
    text = screen(print_record, record)
    assert "first trials from kitti: trials 7 and 2 of 9, without values outside this space (l2)\n" in text
    assert "first trials from camvid: none of 3: no\n" in text
    assert record_json(record)["from_studies"] == [
        {"study": "kitti", "trials": [7, 2], "ended": 9, "without": ["l2"], "reason": None},
        {"study": "camvid", "trials": [], "ended": 3, "without": [], "reason": "no"},
    ]


def test_a_study_of_a_version_that_did_not_keep_what_it_took_says_so(storage: Storage) -> None:
    write(storage, "a", 1e9, *TRIALS)
    begun = json.loads(to_json(study_spec(name="a", search={"from_studies": ["kitti"]})))
    del begun["taken"]
    (storage / "a").write_text("study.json", json.dumps(begun))
    record = load_record(storage / "a")
    assert "first trials from kitti: not recorded by this version of tuner\n" in screen(print_record, record)
    nothing = {"trials": None, "ended": None, "without": None, "reason": None}
    assert record_json(record)["from_studies"] == [{"study": "kitti", **nothing}]


def test_a_person_sees_each_study_in_a_line(storage: Storage) -> None:
    write(storage, "a", 1e9, *TRIALS)
    text = screen(print_studies, *studies(storage))
    assert text.startswith("a ")
    assert "3 of 4 trials" in text
    assert text.count("\n") == 1


def test_names_and_reasons_in_square_brackets_are_shown_as_they_are(storage: Storage) -> None:
    """They are markup to rich: [/data/a] closes what was never opened, and [b] is swallowed."""
    end = {"event": "end", "trial": 1, "state": "failed", "reason": "can't read [/data/a]", "value": None}
    record = write(
        storage,
        "a",
        1e9,
        {"event": "start", "trial": 1, "params": {"x": "[/red]"}},
        end,
        {"event": "stop", "state": "failed", "reason": "the first trials all failed, the last: [/data/a] [bold]"},
    )
    record.spec = record.spec.model_copy(update={"name": "st[/u]dy"})
    record.spec = record.spec.model_copy(update={"objectives": (Objective(metric="iou[/road]"),)})
    text = screen(print_record, record, width=200)
    for shown in ("[/data/a] [bold]", "[/red]", "st[/u]dy", "iou[/road]", "trial 1 failed: can't read [/data/a]"):
        assert shown in text
    assert "st[/u]dy" in screen(print_studies, [record], [], width=200)


def test_what_mlflow_lacks_is_printed_once_while_a_study_runs_and_again_by_show(storage: Storage) -> None:
    record = write(storage, "a", 1.0, *TRIALS)
    state = TrackingState()
    text = io.StringIO()
    progress = Progress(record, Console(file=text, width=200), lambda: None, lambda: state.note)
    progress.event(event("stop", 1.0, state="finished"))
    assert text.getvalue() == ""
    for name in ("[a]", "b"):
        state.skip(f"trial 1, image {name}.png: truncated")
        progress.event(event("stop", 1.0, state="finished"))
    assert text.getvalue().count("MLflow lacks one thing: trial 1, image [a].png: truncated") == 1
    assert text.getvalue().count("MLflow lacks") == 1
    state.save(storage / "a")
    note = skipped_note(storage / "a")
    assert note == "MLflow lacks 2 things, the first: trial 1, image [a].png: truncated"
    assert note in screen(lambda console: print_record(record, console, skipped=note), width=200)


def test_a_tracking_file_that_is_not_there_or_damaged_says_nothing(storage: Storage) -> None:
    write(storage, "a", 1.0, *TRIALS)
    assert skipped_note(storage / "a") is None
    for text in ("", "{", "[]", '{"offset": 7, "uri": "x"}', '{"skipped": null}'):
        (storage / "a").write_text("tracking.json", text)
        assert skipped_note(storage / "a") is None


def test_show_names_the_node_of_each_trial_where_there_are_several_and_those_left_out(storage: Storage) -> None:
    began = [
        {"event": "begin", "trial": 1, "nodes": ["host1 (10.0.0.1)"]},
        {"event": "begin", "trial": 2, "nodes": ["host1 (10.0.0.1)", "host2 (10.0.0.2)"]},
    ]
    left_out = {"event": "left_out", "node": "host3 (10.0.0.3)", "reason": "[data] is missing"}
    record = write(storage, "nodes", 1e9, *TRIALS[:-1], *began, left_out, TRIALS[-1])
    text = screen(print_record, record)
    assert "host1, host2" in text
    assert "node host3 (10.0.0.3) got no trials: [data] is missing" in text
    found = record_json(record)
    assert found["left_out"] == [{"node": "host3 (10.0.0.3)", "reason": "[data] is missing"}]
    assert found["trials"][1]["nodes"] == ["host1 (10.0.0.1)", "host2 (10.0.0.2)"]
    alone = screen(print_record, write(storage, "alone", 1e9, *TRIALS[:-1], began[0], TRIALS[-1]))
    assert "host1" not in alone, "one machine needs no column"
