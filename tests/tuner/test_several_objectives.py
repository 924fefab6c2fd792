"""A study with two objectives, as each reader shows it: the front, its knee, and the trial that a person picks."""

from __future__ import annotations

import io
import re
from pathlib import Path

import optuna
import pytest
from rich.console import Console

import tuner
from tests.studies import study_spec
from tests.written_study import Line, end, report, run, start, stop, write_study
from tuner.display.show import best_line, print_record, record_json
from tuner.errors import StudyError
from tuner.report.study_page import study_page
from tuner.results.pick import picked, read_pick
from tuner.results.study import Study
from tuner.search.optuna_storage import write_optuna_storage
from tuner.tracking.views import study_views

OBJECTIVES = [{"metric": "score"}, {"metric": "ms", "direction": "minimize"}]
# (score, ms) of each trial: 5 is dominated by 2, and 6 failed.
POINTS = {1: (0.9, 40.0), 2: (0.8, 10.0), 3: (0.7, 9.0), 4: (0.5, 5.0), 5: (0.75, 12.0), 6: (0.99, 1.0)}
FRONT = [1, 2, 3, 4]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    lines: list[Line] = [run()]
    for trial, (score, ms) in POINTS.items():
        lines.append(start(trial, x=trial / 10, batch_size=trial, optimizer="adam"))
        # The best epoch is the first, by the score alone: the second is faster.
        lines += [report(trial, 1, score, ms=ms), report(trial, 2, score - 0.1, ms=ms / 2)]
        lines.append(end(trial, "failed", "ValueError: no") if trial == 6 else end(trial, value=score))
    write_study(tmp_path, "roads", *lines, stop(), objectives=OBJECTIVES)
    return tuner.load("roads", tmp_path)


def test_show_marks_the_front_and_its_knee_and_gives_all_values(study: Study) -> None:
    text = io.StringIO()
    print_record(study.record, Console(file=text, width=120))
    shown = text.getvalue()
    assert "to maximize score and minimize ms" in shown
    rows = {int(match[1]): match[2] for match in re.finditer(r"^ +(\d) finished +2 (.*)$", shown, re.MULTILINE)}
    assert re.match(r" *0\.8000 +10\.0000 knee ", rows[2])
    assert re.match(r" *0\.9000 +40\.0000 front ", rows[1])
    assert "front" not in rows[5]
    assert list(rows) == [2, 1, 3, 4, 5]
    found = record_json(study.record)
    assert (found["objective"], found["direction"], found["objectives"][1]) == ("score", "maximize", OBJECTIVES[1])
    assert (found["front"], found["best"]["trial"]) == (FRONT, 2)
    assert found["trials"][0]["values"] == {"score": 0.9, "ms": 40.0}
    line = best_line(study.record)
    assert line is not None
    assert line.startswith("knee of a front of 4: trial 2, score 0.8000, ms 10.0000 at epoch 1, with x 0.2")


def test_python_has_the_front_and_the_study_by_each_objective(study: Study) -> None:
    assert [trial.trial for trial in study.front] == FRONT
    assert study.best is not None
    assert (study.best.trial, study.best.values) == (2, {"score": 0.8, "ms": 10.0})
    trials = study.trials
    assert trials["ms"].tolist()[:5] == [40.0, 10.0, 9.0, 5.0, 12.0]
    assert trials.index[trials["front"]].tolist() == FRONT
    by_speed = study.by(study.spec.objectives[1])
    assert by_speed.best is not None
    assert (by_speed.best.trial, by_speed.best.value, by_speed.best.epoch) == (4, 2.5, 2)
    assert by_speed.front == []


@pytest.mark.parametrize(
    ("pick", "wanted"),
    [("knee", 2), ("max:score", 1), ("min:ms", 4), ("within:ms=9.5", 3), ("within:score=0.5", 4), ("within:ms=9", 3)],
)
def test_a_person_picks_a_trial_of_the_front(study: Study, pick: str, wanted: int) -> None:
    assert picked(study.record, read_pick(pick)).id == wanted


@pytest.mark.parametrize(
    ("pick", "says"),
    [
        ("", "knee, max:METRIC, min:METRIC or within:METRIC=VALUE is needed, got ''"),
        ("max:", "is needed, got 'max:'"),
        ("knee:score", "is needed, got 'knee:score'"),
        ("within:ms", "is needed, got 'within:ms'"),
        ("within:ms=fast", "is needed, got 'within:ms=fast'"),
        ("within:ms=nan", "is needed, got 'within:ms=nan'"),
        ("max:ms", "--pick max:ms: the study is to minimize ms; use min:ms"),
        ("max:scor", r"--pick max:scor: must name an objective \(score, ms\); did you mean score\?"),
        ("within:ms=4", "no trial of the front has ms of at most 4, the best has 5; give another limit"),
        ("within:score=0.95", "no trial of the front has score of at least 0.95, the best has 0.9"),
    ],
)
def test_a_pick_that_names_no_trial_is_refused(study: Study, pick: str, says: str) -> None:
    with pytest.raises(StudyError, match=says):
        picked(study.record, read_pick(pick))


def test_a_study_with_one_objective_has_nothing_to_pick(tmp_path: Path) -> None:
    lines = [run(), start(1, x=0.5), report(1, 1, 0.5), end(1, value=0.5), stop()]
    write_study(tmp_path, "one", *lines, space={"x": {"type": "float", "low": 0, "high": 1}})
    with pytest.raises(StudyError, match="--pick: is for studies with several objectives, and one has one"):
        picked(tuner.load("one", tmp_path).record, read_pick("max:score"))


def test_the_report_has_the_front_and_each_figure_for_each_objective(study: Study) -> None:
    page = study_page(study)
    ids = re.findall(r'<(?:figure|section) id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {"front", "pareto-front", "winner"} <= set(ids)
    figures = re.findall(r"<h3>([^<]+)</h3>", page)
    assert {"Objectives", "Learning curves: score", "Learning curves: ms"} <= set(figures)
    assert "2 (knee)" in page
    assert "In the front: trial 1: score 0.9000, ms 40.0000; trial 2:" in page


def test_a_comparison_of_studies_with_several_objectives_is_refused(study: Study, tmp_path: Path) -> None:
    from tuner.report.comparison_page import comparison_page

    write_study(tmp_path, "other", run(), stop(), objectives=OBJECTIVES)
    with pytest.raises(StudyError, match="studies of one objective are needed to compare them, got roads"):
        comparison_page([study, tuner.load("other", tmp_path)])


def test_optuna_knows_all_objectives_and_finds_the_same_front(study: Study, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    write_optuna_storage(study.record, url)
    found = optuna.load_study(study_name="roads", storage=url)
    assert found.metric_names == ["score", "ms"]
    assert [direction.name for direction in found.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert sorted(trial.user_attrs["trial"] for trial in found.best_trials) == FRONT
    assert found.trials[0].values == [0.9, 40.0]


def test_mlflow_has_charts_of_each_objective_and_the_front_among_the_ranking_s_columns() -> None:
    spec = study_spec(objectives=OBJECTIVES)
    ranking, charts, of_speed = study_views(spec, (), ())
    assert [view.name for view in (ranking, charts, of_speed)] == ["Ranking", "Charts", "Charts of ms"]
    columns = ranking.state["selectedColumns"]
    assert columns[:2] == ["metrics.`best/score`", "metrics.`best/ms`"]
    assert "tags.`tuner.front`" in columns
    assert (of_speed.state["orderByKey"], of_speed.state["orderByAsc"]) == ("metrics.`best/ms`", True)
    first = charts.state["compareRunCharts"][0]
    assert (first["xaxis"]["key"], first["yaxis"]["key"]) == ("best/ms", "best/score")
    one = study_views(study_spec(), (), ())
    assert [view.name for view in one] == ["Ranking", "Charts"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objectives": [{"metric": "a"}, {"metric": "a"}]}, r"objectives\[2\]: a is an objective already"),
        ({"objectives": [{"metric": name} for name in "abcde"]}, "objectives: at most 4 are possible"),
        ({"search": {"sampler": "cmaes"}}, "search.sampler: cmaes takes one objective, got 2"),
        ({"budget": {"trials": 9, "stop_when": {"value": 1}}}, "budget.stop_when.value: is the value of one objective"),
        ({"scheduler": {"control_trials": 2}}, "scheduler.control_trials: take one objective, got 2"),
    ],
)
def test_what_several_objectives_do_not_go_with_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        study_spec(**{"objectives": OBJECTIVES, **changes})
