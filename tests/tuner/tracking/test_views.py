"""What a study shows of itself in MLflow: saved views and a note, and what people made of them."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.tracked_study import TrackedStudy, lines
from tuner.spec.study import StudySpec
from tuner.tracking.experiment_page import NOTE
from tuner.tracking.views import PREFIX, study_views, view_value

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def tags(study: TrackedStudy) -> dict[str, str]:
    experiment = MlflowClient(study.uri).get_experiment_by_name(study.spec.name)
    assert experiment is not None
    return dict(experiment.tags)


def views(found: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What MLflow's Views menu lists, by name, read as its page reads it."""
    envelopes = [json.loads(value) for tag, value in found.items() if tag.startswith(PREFIX)]
    return {
        envelope["name"]: json.loads(zlib.decompress(base64.b64decode(envelope["state"].removeprefix("deflate;"))))
        for envelope in envelopes
    }


def cards(view: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [card for card in view["compareRunCharts"] if card["type"] == kind]


def test_a_study_has_a_ranking_and_charts_and_a_note_on_its_winner(study: TrackedStudy) -> None:
    study.write(lines())
    assert study.track() == 0
    found = tags(study)
    shown = views(found)
    ranking, charts = shown["Ranking"], shown["Charts"]
    for view in (ranking, charts):
        assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`best/score`", False)
        client = MlflowClient(study.uri)
        experiment = client.get_experiment_by_name("roads")
        assert experiment is not None
        runs = client.search_runs(
            [experiment.experiment_id], view["searchFilter"], order_by=["metrics.`best/score` DESC"]
        )
        assert {run.data.tags["tuner.trial"] for run in runs} == {"1", "2", "3"}
        columns = {column.partition(".")[2].strip("`") for column in ranking["selectedColumns"]}
        assert columns == {"best/score", "trial/epochs", "trial/seconds", "x", "tuner.state", "tuner.reason"}
        assert columns - {"tuner.reason"} <= {*runs[0].data.metrics, *runs[0].data.params, *runs[0].data.tags} | {"x"}
    assert [card["imageKeys"] for card in cards(charts, "IMAGE")] == [["best frame_a"], ["frame_a"]]
    assert [card["xaxis"]["key"] for card in cards(charts, "SCATTER")] == ["x"]
    assert [card["metricKey"] for card in cards(charts, "LINE")] == ["score"]
    assert "Winner: [trial 1]" in found[NOTE]
    assert "get-artifact?path=images%2Fbest%20frame_a" in found[NOTE]


def test_a_view_or_note_that_a_user_changed_stays(study: TrackedStudy) -> None:
    events = lines()
    study.write(events[:8])
    study.track()
    client = MlflowClient(study.uri)
    experiment = client.get_experiment_by_name("roads")
    assert experiment is not None
    before = tags(study)
    key = next(tag for tag, value in before.items() if tag.startswith(PREFIX) and json.loads(value)["name"] == "Charts")
    gone = next(tag for tag in before if tag.startswith(PREFIX) and tag != key)
    # As MLflow's menu saves over a view: with its own keys alone.
    edited = json.loads(before[key]) | {"updatedAt": 1}
    client.set_experiment_tag(
        experiment.experiment_id, key, json.dumps({k: v for k, v in edited.items() if k != "tuner"})
    )
    client.set_experiment_tag(experiment.experiment_id, NOTE, "mine")
    client.delete_experiment_tag(experiment.experiment_id, gone)
    study.write(events[8:])
    assert study.track() == 0
    after = tags(study)
    assert json.loads(after[key])["updatedAt"] == 1
    assert after[NOTE] == "mine"
    assert gone not in after


def test_a_view_shows_the_metrics_and_images_that_came_later(study: TrackedStudy) -> None:
    events = lines()
    study.write(events[:4])
    study.track()
    assert cards(views(tags(study))["Charts"], "IMAGE") == []
    study.write(events[4:])
    study.track()
    assert len(cards(views(tags(study))["Charts"], "IMAGE")) == 2


def test_studies_of_one_name_show_their_own_trials_under_names_of_their_own(study: TrackedStudy) -> None:
    study.write(lines())
    study.track()
    other = TrackedStudy(study.events.parents[1] / "other", study.uri, study_id="0123456789abcdef" * 2)
    other.write(lines())
    assert other.track() == 0
    names = set(views(tags(study)))
    assert names == {"Ranking", "Charts", "Ranking of 012345", "Charts of 012345"}


def spec(space: dict[str, Any], trials: int = 1) -> StudySpec:
    objective = {"metric": "loss", "direction": "minimize"}
    return StudySpec.model_validate({"name": "s", "objective": objective, "budget": {"trials": trials}, "space": space})


def test_a_logarithmic_range_has_the_logarithm_as_its_axis_and_a_condition_a_card_of_its_own() -> None:
    found = spec(
        {
            "rate": {"type": "float", "low": 1e-5, "high": 1, "log": True},
            "optimizer": {"type": "choice", "choices": ["adam", "sgd"]},
            "momentum": {"type": "float", "low": 0, "high": 1, "when": {"optimizer": ["sgd"]}},
        }
    )
    charts = dict(study_views(found, ["val"], [])[1].state)
    assert [card["selectedParams"] for card in cards(charts, "PARALLEL")] == [
        ["log10 rate", "optimizer"],
        ["log10 rate", "optimizer", "momentum"],
    ]
    assert [card["xaxis"]["key"] for card in cards(charts, "SCATTER")] == ["log10 rate", "optimizer", "momentum"]
    assert charts["orderByAsc"] is True


def test_a_view_of_a_hundred_hyperparameters_fits_a_tag() -> None:
    found = spec({f"model.layer_{n}.learning_rate": {"type": "float", "low": 0, "high": 1} for n in range(100)})
    for view in study_views(found, [f"group_{n}" for n in range(100)], [f"frame_{n}" for n in range(100)]):
        value = view_value(view, {}, 0.0)
        assert value is not None
        assert len(value) < 5000  # what older servers take


def test_the_charts_of_a_large_study_begin_with_its_best_trials_and_parallel_coordinates_with_all() -> None:
    space = {"x": {"type": "float", "low": 0, "high": 1}}
    modes = {}
    for trials in (50, 1000):
        charts = dict(study_views(spec(space, trials), [], [])[1].state)
        modes[trials] = charts["runsHiddenMode"]
        assert [card["showAllRuns"] for card in cards(charts, "PARALLEL")] == [True]
    assert modes == {50: "SHOW_ALL", 1000: "FIRST_20_RUNS"}


def test_a_trial_that_was_stopped_early_has_no_red_cross(study: TrackedStudy) -> None:
    events = lines()
    end = next(event for event in events if event["event"] == "end")
    end["state"], end["reason"] = "stopped", "asha stopped it at epoch 3"
    study.write(events)
    study.track()
    seen = study.seen()
    assert (seen["1"]["status"], seen["1"]["reason"]) == ("FINISHED", "asha stopped it at epoch 3")
    assert seen["2"]["status"] == "FAILED"
