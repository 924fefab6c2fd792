"""First trials from earlier studies."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pytest

from tests.studies import study_spec, study_tables
from tests.written_study import end, report, run, start, stop, write_study
from tuner.errors import StudyError
from tuner.events.state import StudyRecord
from tuner.search.earlier_studies import warm_start, with_first_trials
from tuner.search.sampler import Sampler
from tuner.spec.study import StudySpec, to_json
from tuner.spec.study_file import override_study
from tuner.storage.storage import Storage

X = {"type": "float", "low": 0.0, "high": 1.0}


def write(storage: Path, name: str, trials: list[tuple[dict[str, Any], float]], **changes: Any) -> None:
    """A study of these trials: hyperparameters and score."""
    lines = [run()]
    for number, (params, score) in enumerate(trials, start=1):
        lines += [start(number, **params), report(number, 1, score), end(number, value=score)]
    write_study(storage, name, *lines, stop(), **{"space": {"x": X}, **changes})


def first_trials(storage: Path, *names: str, **changes: Any) -> list[tuple[str, int, dict[str, Any]]]:
    spec = study_spec(**{"budget": {"trials": 15}, "search": {"from_studies": names}, **changes})
    return [(each.study, each.trial, each.params) for each in warm_start(spec, Storage(str(storage))).trials]


def test_the_best_of_each_study_comes_first_then_the_second_best_of_each(tmp_path: Path) -> None:
    write(tmp_path, "a", [({"x": 0.1}, 0.5), ({"x": 0.9}, 0.7)])
    write(tmp_path, "b", [({"x": 0.5}, 100.0), ({"x": 0.7}, 1.0)])
    assert first_trials(tmp_path, "a", "b") == [
        ("a", 2, {"x": 0.9}),
        ("b", 1, {"x": 0.5}),
        ("a", 1, {"x": 0.1}),
        ("b", 2, {"x": 0.7}),
    ]


def test_the_best_is_the_least_where_the_study_minimizes(tmp_path: Path) -> None:
    objective = {"metric": "score", "direction": "minimize"}
    write(tmp_path, "a", [({"x": 0.1}, 0.5), ({"x": 0.9}, 0.7)], objective=objective)
    assert first_trials(tmp_path, "a", objective=objective)[0] == ("a", 1, {"x": 0.1})


def test_trials_near_one_that_is_taken_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a", [({"x": 0.5}, 0.9), ({"x": 0.55}, 0.8), ({"x": 0.2}, 0.1)])
    assert first_trials(tmp_path, "a") == [("a", 1, {"x": 0.5}), ("a", 3, {"x": 0.2})]
    assert first_trials(tmp_path, "a", first_trials=[{"x": 0.25}]) == [("a", 1, {"x": 0.5})]


def test_no_more_than_five_are_taken_and_no_more_than_a_third_of_the_budget(tmp_path: Path) -> None:
    write(tmp_path, "a", [({"x": number / 8}, number) for number in range(9)])
    assert [trial for _, trial, _ in first_trials(tmp_path, "a")] == [9, 8, 7, 6, 5]
    assert [trial for _, trial, _ in first_trials(tmp_path, "a", budget={"trials": 8})] == [9, 8]


@pytest.mark.parametrize(("control", "taken"), [(0, 4), (9, 3), (12, 0)])
def test_they_leave_room_for_the_control_trials(tmp_path: Path, control: int, taken: int) -> None:
    write(tmp_path, "a", [({"x": number / 8}, number) for number in range(9)])
    spec = {"budget": {"trials": 12}, "scheduler": {"control_trials": control}}
    assert len(first_trials(tmp_path, "a", **spec)) == taken


def test_they_come_after_the_first_trials_of_the_study_file(tmp_path: Path) -> None:
    write(tmp_path, "a", [({"x": 0.875}, 1)])
    spec = study_spec(search={"from_studies": ["a"]}, first_trials=[{"x": 0.05}])
    firsts = with_first_trials(spec, warm_start(spec, Storage(str(tmp_path)))).first_trials
    assert firsts == ({"x": 0.05}, {"x": 0.875})


def test_hyperparameters_that_are_not_in_this_space_are_left_to_the_sampler(tmp_path: Path) -> None:
    trials = [
        ({"x": 0.9, "batch_size": 4, "optimizer": "sgd", "momentum": 0.5}, 0.9),
        ({"x": 0.5, "batch_size": 16, "optimizer": "adam"}, 0.8),
    ]
    write(
        tmp_path,
        "a",
        trials,
        space={
            "x": X,
            "batch_size": {"type": "choice", "choices": [4, 16]},
            "optimizer": {"type": "choice", "choices": ["adam", "sgd"]},
            "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer": ["sgd"]}},
        },
    )
    space = {
        "x": {"type": "float", "low": 0.01, "high": 0.6, "log": True},
        "batch_size": {"type": "int", "low": 1, "high": 8},
        "optimizer": {"type": "choice", "choices": ["sgd", "lion"]},
    }
    assert first_trials(tmp_path, "a", space=space) == [
        ("a", 1, {"batch_size": 4, "optimizer": "sgd"}),
        ("a", 2, {"x": 0.5}),
    ]


def test_a_hyperparameter_that_the_rest_of_the_setting_rules_out_is_left_out(tmp_path: Path) -> None:
    space: dict[str, dict[str, Any]] = {
        "optimizer": {"type": "choice", "choices": ["adam", "sgd"]},
        "momentum": {"type": "float", "low": 0.0, "high": 0.9},
    }
    trials = [({"optimizer": "adam", "momentum": 0.1}, 0.9), ({"optimizer": "sgd", "momentum": 0.8}, 0.8)]
    write(tmp_path, "a", trials, space=space)
    conditional = {**space, "momentum": {**space["momentum"], "when": {"optimizer": ["sgd"]}}}
    assert first_trials(tmp_path, "a", space=conditional) == [
        ("a", 1, {"optimizer": "adam"}),
        ("a", 2, {"optimizer": "sgd", "momentum": 0.8}),
    ]


@pytest.mark.parametrize(
    ("names", "changes", "said"),
    [
        (["roads"], {}, "a study in .* is needed, got 'roads'; did you mean road\\?"),
        (["s"], {}, "an earlier study is needed, got 's', which is this one; remove it"),
        (
            ["road"],
            {"objective": {"metric": "loss"}},
            "road must be a study of .* to maximize loss, got one of .* score",
        ),
        (["roads/../road"], {}, "a study in .* is needed, got 'roads/../road'"),
        (["road", "road"], {}, "each study is named once, got 'road' more often; name it once"),
        (["empty"], {}, "empty has no trial that ended without failing; remove it"),
        (["strict"], {}, "strict has no trial that ended and kept its constraints; remove it"),
        (
            ["road"],
            {"space": {"l2": X}},
            "road has no hyperparameter whose values lie in this space; it samples x; remove",
        ),
    ],
)
def test_a_study_that_cannot_be_taken_from_is_said_with_the_fix(
    tmp_path: Path, names: list[str], changes: dict[str, Any], said: str
) -> None:
    write(tmp_path, "road", [({"x": 0.1}, 0.5)])
    write(tmp_path, "empty", [])
    write(tmp_path, "strict", [({"x": 0.1}, 0.5)], constraints=[{"metric": "score", "at_least": 0.9}])
    write(tmp_path, "s", [({"x": 0.1}, 0.5)])
    spec = StudySpec.model_validate({"name": "s", **study_tables(search={"from_studies": names}), **changes})
    with pytest.raises(StudyError, match=f"search.from_studies: {said}"):
        warm_start(spec, Storage(str(tmp_path)))


def damage(storage: Path, name: str, how: str) -> None:
    study, log = storage / name / "study.json", storage / name / "events.jsonl"
    match how:
        case "a line":
            lines = log.read_text().split("\n")
            log.write_text("\n".join([*lines[:2], lines[2][:20], *lines[3:]]))
        case "no study.json":
            study.unlink()
        case "half of study.json":
            study.write_text(study.read_text()[:40])
        case "no text":
            study.write_bytes(b"\xff\xfe")
        case "no log":
            log.unlink()
            log.mkdir()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("a line", r"old/events.jsonl, line 3: must be an event in JSON, got .*restore it from a copy"),
        ("no study.json", r"old/study.json: must be there beside events.jsonl, but is missing: restore it"),
        ("half of study.json", r"old/study.json, line \d+: must be a study in JSON, got .*restore it from a copy"),
        ("no text", "old/study.json, line 1: must be UTF-8, got the byte 0xff; the file is damaged"),
        ("no log", "must be a folder that can be read, got: .*old/events.jsonl"),
    ],
)
def test_a_damaged_study_is_named_with_the_place_of_the_damage(tmp_path: Path, how: str, said: str) -> None:
    write(tmp_path, "old", [({"x": 0.1}, 0.5)])
    damage(tmp_path, "old", how)
    with pytest.raises(StudyError, match=rf"^search.from_studies: old can't be read: .*{said}.*; or remove it here$"):
        first_trials(tmp_path, "old")


def test_every_study_that_cannot_be_taken_from_is_said_at_once(tmp_path: Path) -> None:
    write(tmp_path, "good", [({"x": 0.1}, 0.5)])
    write(tmp_path, "empty", [])
    with pytest.raises(StudyError) as error:
        first_trials(tmp_path, "gone", "good", "empty")
    assert [line.partition("; ")[0].rpartition(": ")[2] for line in str(error.value).split("\n")] == [
        f"a study in {tmp_path} is needed, got 'gone'",
        "empty has no trial that ended without failing",
    ]


def test_a_truncated_last_line_is_no_damage(tmp_path: Path) -> None:
    write(tmp_path, "old", [({"x": 0.1}, 0.5)])
    with (tmp_path / "old" / "events.jsonl").open("a") as log:
        log.write('{"event": "star')
    assert first_trials(tmp_path, "old") == [("old", 1, {"x": 0.1})]


def test_the_study_keeps_what_it_took_of_each_and_why_nothing_of_the_others(tmp_path: Path) -> None:
    space = {"x": X, "l2": X}
    write(tmp_path, "a", [({"x": 0.1, "l2": 0.5}, 0.5), ({"x": 0.9, "l2": 0.5}, 0.7)], space=space)
    write(tmp_path, "b", [({"x": 0.12}, 0.5), ({"x": 0.88}, 0.6)])
    spec = study_spec(search={"from_studies": ["a", "b"]}, budget={"trials": 9})
    begun = with_first_trials(spec, warm_start(spec, Storage(str(tmp_path))))
    assert begun.first_trials == ({"x": 0.9}, {"x": 0.1})
    assert StudySpec.model_validate_json(to_json(begun)) == begun
    assert begun.taken_from() == {
        "a": "trials 2 and 1 of 2, without values outside this space (l2)",
        "b": "none of 2: each lies near a trial that is tried anyway",
    }
    assert first_trials(tmp_path, "a", "b", budget={"trials": 5}) == [("a", 2, {"x": 0.9})]
    start = warm_start(study_spec(search={"from_studies": ["a", "b"]}, budget={"trials": 2}), Storage(str(tmp_path)))
    assert start.left_out == [
        "no first trial is from a: none of 2: the budget of 2 trials has room for 0 from earlier studies",
        "no first trial is from b: none of 2: the budget of 2 trials has room for 0 from earlier studies",
    ]


@pytest.mark.parametrize("sampler", ["random", "qmc", "grid", "tpe", "gp_curves", "gp", "cmaes", "nsga2"])
def test_a_study_of_the_same_seed_proposes_other_trials_than_those_that_it_takes_from(
    tmp_path: Path, sampler: str
) -> None:
    def proposed(spec: StudySpec) -> list[float]:
        proposals = Sampler(StudyRecord(spec))
        return [proposals.ask().params["x"] for _ in range(9)]

    space = {"x": {**X, "step": 0.001}}
    search = {"sampler": sampler, "seed": 7}
    old = proposed(study_spec(space=space, search=search))
    write(tmp_path, "old", [({"x": x}, x) for x in old], space=space)
    spec = study_spec(space=space, search={**search, "from_studies": ["old"]})
    start = warm_start(spec, Storage(str(tmp_path)))
    new = proposed(with_first_trials(spec, start))
    taken = len(start.trials)
    assert set(new[:taken]) <= set(old)
    assert not set(new[taken:]) & set(old)


def test_a_study_of_an_earlier_version_does_not_say_what_it_took() -> None:
    assert study_spec(search={"from_studies": ["a"]}).taken_from() == {"a": "not recorded by this version of tuner"}


def test_of_a_study_that_still_runs_those_count_that_have_ended(tmp_path: Path) -> None:
    lines = [run(), start(1, x=0.5), report(1, 1, 0.4), end(1, value=0.4), start(2, x=0.9), report(2, 1, 0.8)]
    folder = write_study(tmp_path, "old", *lines, space={"x": X})
    spec = study_spec(search={"from_studies": ["old"]})
    assert warm_start(spec, Storage(str(tmp_path))).warnings == (), "its process is gone"
    with (tmp_path / "old" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = warm_start(spec, Storage(str(tmp_path)))
        assert [each.trial for each in found.trials] == [1]
        assert found.warnings == ("search.from_studies: old is still running; only its trials that have ended count",)
    assert folder.exists("lock")


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        ("random", '; "gp_curves" learns from them'),
        ("qmc", '; "gp_curves" learns from them'),
        (
            "grid",
            ": 9 of the grid's 11 points are tried; when it has ended, `python -m tuner resume s --set "
            "budget.trials=13` tries the others",
        ),
    ],
)
def test_a_sampler_that_learns_nothing_from_first_trials_is_said(tmp_path: Path, sampler: str, said: str) -> None:
    write(tmp_path, "a", [({"x": 0.1}, 0.5), ({"x": 0.9}, 0.7)])
    search = {"from_studies": ["a"], "sampler": sampler}
    spec = study_spec(search=search, budget={"trials": 11}, space={"x": {**X, "step": 0.1}})
    assert warm_start(spec, Storage(str(tmp_path))).warnings == (
        f'search.sampler: "{sampler}" learns nothing from first trials, it goes on as without them{said}',
    )


def test_a_grid_is_tried_whole_when_the_budget_grows_by_the_first_trials(tmp_path: Path) -> None:
    write(tmp_path, "a", [({"x": 0.1}, 0.5), ({"x": 0.9}, 0.7)])
    space = {"x": {**X, "step": 0.1}}
    spec = study_spec(search={"from_studies": ["a"], "sampler": "grid"}, budget={"trials": 11}, space=space)
    begun = override_study(with_first_trials(spec, warm_start(spec, Storage(str(tmp_path)))), ["budget.trials=13"])
    sampler, tried = Sampler(StudyRecord(begun)), []
    while not sampler.exhausted:
        tried.append(sampler.ask().params["x"])
    assert tried[:2] == [0.9, 0.1]
    assert sorted(round(10 * x) for x in tried[2:]) == list(range(11))


@pytest.mark.parametrize("sampler", ["gp_curves", "tpe", "gp", "cmaes", "nsga2"])
def test_of_a_sampler_that_learns_from_them_nothing_is_said(tmp_path: Path, sampler: str) -> None:
    write(tmp_path, "a", [({"x": 0.1}, 0.5)])
    spec = study_spec(search={"from_studies": ["a"], "sampler": sampler})
    assert warm_start(spec, Storage(str(tmp_path))).warnings == ()
