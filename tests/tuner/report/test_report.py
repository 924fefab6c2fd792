"""`python -m tuner report`: what is on the page of a study, whatever the study."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import tuner
from tests.written_study import ROADS, Line, end, report, run, start, stop, write_mask, write_study
from tuner.errors import StudyError
from tuner.events.forecast import Forecast, Range
from tuner.report.failures import causes
from tuner.report.figures.progress import progress
from tuner.report.figures.time_spent import time_parts
from tuner.report.report import store_report, write_report
from tuner.report.reproduction import command, study_file
from tuner.report.study_page import study_page
from tuner.spec.study_file import read_study


class Page(HTMLParser):
    """A page as a browser takes it apart."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._code: str | None = None
        self.figures: dict[str, Any] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._code = tag if tag in ("script", "style") else None
        if dict(attrs).get("id") == "figures":
            self._code = "figures"

    def handle_endtag(self, tag: str) -> None:
        self._code = None

    def handle_data(self, data: str) -> None:
        if self._code == "figures":
            self.figures = json.loads(data)
        elif self._code is None:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(storage: Path, *lines: Line, **changes: Any) -> Page:
    write_study(storage, "roads", *lines, **changes)
    return Page(study_page(tuner.load("roads", storage)))


def some_trials(count: int, **params: Any) -> list[Line]:
    """Trials of two epochs, the later the better; the last is trial `count`."""
    lines = [run()]
    for trial in range(1, count + 1):
        given = {"x": trial / 20, "batch_size": 4 * (trial % 3 + 1), "optimizer": "adam", **params}
        lines += [start(trial, **given), report(trial, 1, 0.01 * trial), report(trial, 2, 0.02 * trial)]
        lines += [end(trial, value=0.02 * trial)]
    return lines


def test_the_page_has_winner_progress_curves_time_and_a_table_of_all_trials(tmp_path: Path) -> None:
    page = page_of(tmp_path, *ROADS)
    assert list(page.figures) == ["progress-time", "progress-epochs", "curves", "time"]
    for said in (
        "score went from 0.1000 to 0.4000 in 2 steps, the last of them when 4 of 5 epochs were spent, by trial 2.",
        "Trials that reported score: 3; stopped by asha or the time budget: 1.",
        "ValueError: loss is nan",
        "Figures of hyperparameters need 6 trials that ended with a value.",
    ):
        assert said in page.text
    table = re.findall(r"<tr data-state=\"(\w+)\">", study_page(tuner.load("roads", tmp_path)))
    assert table == ["stopped", "finished", "failed", "interrupted"]


def test_every_figure_has_its_text_beside_it(tmp_path: Path) -> None:
    page = page_of(tmp_path, *some_trials(8))
    assert list(page.figures)[3:] == ["parallel", "importance", "contour", "slices", "time"]
    described = {plot["data-figure"]: plot["aria-describedby"] for plot in page.all("div") if "data-figure" in plot}
    assert set(described) == set(page.figures)
    assert {caption["id"] for caption in page.all("figcaption")} == set(described.values())
    assert "The best trial has x 0.4; batch_size 12; optimizer adam." in page.text


def test_nothing_on_the_page_comes_from_a_network(tmp_path: Path) -> None:
    page = page_of(tmp_path, *ROADS)
    sources = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert sources
    assert [source for source in sources if source and not source.startswith(("data:", "#"))] == []
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_masks_of_winner_runner_up_and_worst_stand_side_by_side(tmp_path: Path) -> None:
    for trial in (1, 2, 3):
        write_mask(tmp_path, "roads", trial, 2, "odd [name] ß.png")
    (tmp_path / "roads" / "trials" / "3" / "images" / "epoch-000002" / "broken.png").write_bytes(b"no image")
    page = page_of(tmp_path, *some_trials(3))
    images = [image for image in page.all("img") if image.get("src")]
    assert [image["alt"] for image in images] == [
        f"{title}: trial {trial}, epoch 2, odd [name] ß"
        for title, trial in (("winner", 3), ("runner-up", 2), ("worst", 1))
    ]
    assert all(str(image["src"]).startswith("data:image/webp;base64,") for image in images)


def test_names_and_values_are_escaped(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    space = {
        "x": {"type": "float", "low": 1e-3, "high": 1.0},
        "odd [name] ß <b>&amp;": {"type": "choice", "choices": [evil, "%{x}"]},
    }
    lines = some_trials(7, **{"odd [name] ß <b>&amp;": evil})
    lines = [
        {**line, "params": {**line["params"], "x": 0.1 * line["trial"]}} if "params" in line else line for line in lines
    ]
    lines += [
        start(8, x=0.5),
        end(8, "failed", f"ValueError: {evil} <img src=x onerror=alert(1)>"),
        stop("failed", evil),
    ]
    for line in lines:
        for name in ("batch_size", "optimizer"):
            line.get("params", {}).pop(name, None)
    page = page_of(tmp_path, *lines, space=space)
    assert len(page.all("script")) == 3
    assert all("onerror" not in image for image in page.all("img"))
    assert f"ValueError: {evil} <img src=x onerror=alert(1)>" in page.text
    assert "odd [name] ß <b>&amp;" in page.text
    drawn = json.dumps(page.figures["slices"], ensure_ascii=False)
    assert "odd [name] ß" in drawn
    assert "<script" not in drawn


def test_secrets_are_not_on_the_page(tmp_path: Path) -> None:
    fixed = {"data_dir": "s3://KEY:s3cret/1@bucket/x?token=t0ken1", "hf_token": "t0ken2", "log": {"password": "pa55"}}
    lines = [run(), start(1, x=0.5), end(1, "failed", "OSError: https://u:pa55w@host/x?sig=s1gn refused"), stop()]
    write_study(tmp_path, "roads", *lines, fixed=fixed)
    text = study_page(tuner.load("roads", tmp_path))
    assert [secret for secret in ("s3cret", "t0ken1", "t0ken2", "pa55", "s1gn") if secret in text] == []
    assert "*** stands for a secret, which is not written here." in Page(text).text


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([run()], "No trial has started yet."),
        ([run(), start(1, x=0.5), start(2, x=0.25)], "No trial has ended with a value of score yet"),
        ([run(), start(1, x=0.5), report(1, 1, 0.5)], "No trial has ended with a value of score yet"),
        (
            [
                run(),
                *(line for n in (1, 2, 3) for line in (start(n, x=0.5), end(n, "failed", f"epoch {n}: loss is nan"))),
            ],
            "epoch 1: loss is nan",
        ),
    ],
    ids=["just begun", "no report", "no ended trial", "all failed"],
)
def test_a_study_that_has_little_to_show_has_a_report(tmp_path: Path, lines: list[Line], says: str) -> None:
    page = page_of(tmp_path, *lines)
    assert says in page.text
    assert "Download the study file" in page.text


def test_the_command_trains_the_winners_hyperparameters_and_nothing_else(tmp_path: Path) -> None:
    write_study(tmp_path, "roads", *ROADS, first_trials=[{"x": 0.125}])
    study = tuner.load("roads", tmp_path)
    (tmp_path / "roads.toml").write_text(study_file(study.spec), encoding="utf-8")
    assert study.spec.model_copy(update={"id": None}) == read_study(tmp_path / "roads.toml", [], None)
    words = shlex.split(command(study.record) or "")
    assert words[:7] == ["python", "-m", "tuner", "run", "roads.toml", "--name", "roads-winner"]
    changes = [word for word in words[7:] if word != "--set"]
    spec = read_study(tmp_path / "roads.toml", changes, "roads-winner")
    assert spec.first_trials == ({"x": 0.5, "batch_size": 8, "optimizer": "sgd", "momentum": 0.5},)
    assert (spec.budget.trials, spec.scheduler.name) == (1, "none")


def test_the_study_file_and_the_command_need_no_studies_that_this_one_took_trials_from(tmp_path: Path) -> None:
    taken = [{"study": "gone", "trials": [4], "ended": 6}]
    changes = {"first_trials": [{"x": 0.125}], "search": {"from_studies": ["gone"]}, "taken": taken}
    page = page_of(tmp_path, *ROADS, **changes)
    assert "; first trials from gone: trial 4 of 6" in page.text
    study = tuner.load("roads", tmp_path)
    (tmp_path / "roads.toml").write_text(study_file(study.spec), encoding="utf-8")
    spec = read_study(tmp_path / "roads.toml", [], None)
    assert (spec.first_trials, spec.search.from_studies) == (({"x": 0.125},), ())
    assert "--set 'search.from_studies=[]'" in (command(study.record) or "")


def test_the_command_trains_the_winner_of_a_study_with_control_trials_too(tmp_path: Path) -> None:
    write_study(tmp_path, "roads", *ROADS, scheduler={"control_trials": 3})
    study = tuner.load("roads", tmp_path)
    (tmp_path / "roads.toml").write_text(study_file(study.spec), encoding="utf-8")
    changes = [word for word in shlex.split(command(study.record) or "")[7:] if word != "--set"]
    spec = read_study(tmp_path / "roads.toml", changes, "roads-winner")
    assert (spec.scheduler.name, spec.scheduler.control_trials) == ("none", 0)


def test_the_page_says_what_the_study_began_with(tmp_path: Path) -> None:
    packages = {"python": "3.11.7", "tuner": "0.1", "ray": "2.60.0", "zipp": "9"}
    known = {"git": {"commit": "c0ffee", "tree": "clean"}, "hardware": {"cpu": "fast"}, "command": "tuner run a&b.toml"}
    page = page_of(tmp_path, {**run(), **known, "versions": packages}, start(1, x=0.5))
    for said in ("c0ffee, clean", "h, cpu fast", "tuner run a&b.toml", "python 3.11.7, tuner 0.1, ray 2.60.0"):
        assert said in page.text
    assert "zipp" not in page.text


def test_a_winner_outside_of_a_space_that_was_changed_has_no_command(tmp_path: Path) -> None:
    page = page_of(tmp_path, run(), start(1, x=5.0), report(1, 1, 0.5), end(1, value=0.5), stop())
    assert "the winner's hyperparameters lie outside of it" in page.text


def test_failures_that_differ_in_numbers_are_one_cause(tmp_path: Path) -> None:
    reasons = ["loss is nan (learning_rate=0.31)", "out of memory", "loss is nan (learning_rate=1e-3)", "conv2d: no"]
    lines = [line for n, reason in enumerate(reasons, 1) for line in (start(n, x=0.5), end(n, "failed", reason))]
    write_study(tmp_path, "roads", run(), *lines)
    found = causes(tuner.load("roads", tmp_path).record.trials.values())
    assert [(cause.reason, cause.trials) for cause in found] == [
        ("loss is nan (learning_rate=0.31)", [1, 3]), ("out of memory", [2]), ("conv2d: no", [4]),
    ]  # fmt: skip


def test_a_failed_trial_does_not_count_as_progress(tmp_path: Path) -> None:
    lines = [
        start(1, x=0.5),
        report(1, 1, 0.9),
        end(1, "failed", "no"),
        start(2, x=0.5),
        report(2, 1, 0.5),
        report(2, 2, 0.6),
    ]
    write_study(tmp_path, "roads", run(), *lines, end(2, value=0.6))
    found = progress(tuner.load("roads", tmp_path))
    assert found.steps[["trial", "value", "spent"]].to_numpy().tolist() == [[2, 0.5, 2], [2, 0.6, 3]]
    assert found.first_reached(0.55) == (6.0, 3)
    assert found.first_reached(0.7) is None


def test_each_trials_time_is_split_into_what_the_trainer_reports(tmp_path: Path) -> None:
    times = {"time/data_seconds": 0.25, "time/compute_seconds": 0.5, "time/epoch_seconds": 0.9}
    lines = [start(1, x=0.5), report(1, 1, 0.1, **times), report(1, 2, 0.2, **times), end(1, value=0.2)]
    write_study(tmp_path, "roads", run(), *lines)
    parts = time_parts(tuner.load("roads", tmp_path))
    # A second lies between two events; start-up is half a second.
    assert parts.loc[1].to_dict() == {"start-up": 0.5, "data": 0.5, "compute": 1.0, "other": 1.0}


def test_a_report_replaces_a_file_and_nothing_else(tmp_path: Path) -> None:
    write_study(tmp_path, "roads", *ROADS)
    study = tuner.load("roads", tmp_path)
    (tmp_path / "r.html").write_text("old")
    write_report([study], tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(StudyError, match=r"--output .*roads: must be a file that can be written, got a folder"):
        write_report([study], tmp_path / "roads")
    with pytest.raises(StudyError, match=r"--output .*r\.html/x: must be a file that can be written, got: File exists"):
        write_report([study], tmp_path / "r.html" / "x")
    store_report(study.record, study.folder)
    assert (tmp_path / "roads" / "report.html").is_file()


def test_a_trial_that_is_all_but_as_good_as_the_best_has_a_line_of_a_colour_that_plotly_knows(tmp_path: Path) -> None:
    values = {11: 0.5, 12: 0.5 - 5e-9}  # of a mixed colour one part is then 9e-07, in Python's notation
    given = {"x": 0.5, "batch_size": 4, "optimizer": "adam"}
    lines = [line for trial, value in values.items() for line in (start(trial, **given), report(trial, 1, value))]
    ends = [end(trial, value=value) for trial, value in values.items()]
    page = page_of(tmp_path, *some_trials(10), *lines, *ends)
    assert "parallel" in page.figures


def test_the_forecast_stands_beside_the_outcome(tmp_path: Path) -> None:
    forecast = Forecast({2: Range(3, 5)}, Range(1, 4), notes=("time: unknown, <b>",)).to_json()
    page = page_of(tmp_path, {**run(), "forecast": forecast}, *ROADS[1:], stop())
    assert "#forecast" in [link.get("href") for link in page.all("a")]
    rows = page.text[page.text.index("Forecast and outcome") :].split("\n")
    assert rows[1:4] == ["", "forecastoutcome", "trials at epoch 23 to 52less"], rows[:6]
    assert "time: unknown, <b>." in page.text
    assert "Forecast" not in page_of(tmp_path, *ROADS, stop()).text
