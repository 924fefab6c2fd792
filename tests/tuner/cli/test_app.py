"""The command lines: what a mistake gets, and what programs read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import typer

from tests.tuner.test_best import run_study
from tuner.best import app as best_app
from tuner.cli import app as cli
from tuner.cli.console import console
from tuner.cli.options import run_app
from tuner.events.state import load_record
from tuner.storage.storage import Storage

ROOT = Path(__file__).parents[3]

STUDY = """
workload = "tests.workloads.replay"
[objective]
metric = "score"
[budget]
trials = 2
[space]
x = {type = "float", low = 0.0, high = 1.0}
"""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "roads.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def tuner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs `python -m tuner ...` in this process and in an empty folder; returns exit status, output, errors."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        best = arguments[0] == "best"
        monkeypatch.setattr(sys, "argv", ["tuner", *map(str, arguments[1:] if best else arguments)])
        with pytest.raises(SystemExit) as end:
            run_app(best_app if best else cli.app)
        out, err = capsys.readouterr()
        code = end.value.code
        return (code if isinstance(code, int) else 0), out, err

    return command


def refused(result: tuple[int, str, str]) -> str:
    """The sentence of a mistake: exit status 2, `error:` in front, no traceback, nothing else."""
    status, out, err = result
    assert status == 2, (status, out, err)
    assert "Traceback" not in err
    assert all(line.startswith("error: ") for line in err.strip().split("\n")), err
    return err


def test_every_mistake_of_a_study_file_gets_a_line(tuner: Command, file: Path) -> None:
    file.write_text(STUDY.replace("low = 0.0", "low = 2.0").replace("trials = 2", "trials = 0"))
    err = refused(tuner("check", file))
    assert err.count("\n") == 2
    assert f"error: {file}: space.x: low < high must hold, got low=2.0, high=1.0; swap them" in err


def test_a_study_that_exists_is_not_run_again(tuner: Command, file: Path, tmp_path: Path) -> None:
    run_study(Storage(str(tmp_path / "studies")), "roads")
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "studies").rglob("*"))
    err = refused(tuner("run", file, "--storage", tmp_path / "studies"))
    assert "study roads exists in" in err
    assert "python -m tuner resume roads" in err
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "studies").rglob("*")) == before


def test_a_storage_that_cannot_be_written_is_reported_and_nothing_is_started(
    tuner: Command, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("mine")
    for place in (tmp_path / "taken", tmp_path / "taken" / "below"):
        assert "must be a folder that can be written, got a file" in refused(tuner("run", file, "--storage", place))
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("command", [["list"], ["show"], ["show", "x"], ["resume", "x"], ["report"], ["ui"]])
def test_a_file_in_place_of_a_storage_is_reported_by_each_command(
    tuner: Command, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "taken").write_text("")
    refused(tuner(*command, "--storage", tmp_path / "taken"))


@pytest.mark.parametrize(
    "command",
    [
        ["show", "nothing"],
        ["show"],
        ["resume", "nothing"],
        ["report", "nothing"],
        ["report"],
        ["ui"],
        ["best", "nothing", "--output", "out"],
    ],
)
def test_a_missing_study_is_reported(tuner: Command, tmp_path: Path, command: list[str]) -> None:
    assert "is needed there, got none" in refused(tuner(*command, "--storage", tmp_path / "studies"))
    assert not (tmp_path / "studies").exists()
    assert not list((tmp_path / "here").iterdir())


def test_missing_gpus_are_reported_with_what_to_do(tuner: Command, file: Path, tmp_path: Path) -> None:
    for command in ("check", "run"):
        err = refused(tuner(command, file, "--set", "resources.gpus_per_worker=64"))
        assert "a trial of 1 worker of 64 GPU needs 64 GPUs; there are" in err
        assert "set gpus_per_worker = 0 to train on CPUs" in err
    assert not list((tmp_path / "here").iterdir())


def test_an_error_of_prepare_is_reported_before_anything_is_written(tuner: Command, file: Path, tmp_path: Path) -> None:
    err = refused(tuner("run", file, "--set", "fixed.missing_data=true"))
    assert err == "error: fixed.missing_data: frames are needed, got none; take missing_data out\n"
    assert not list((tmp_path / "here").iterdir())


def test_an_objective_that_the_workload_does_not_report_is_refused(tuner: Command, file: Path) -> None:
    err = refused(tuner("run", file, "--set", "objective.metric=scoer"))
    assert "reports (score, loss), got 'scoer'; did you mean score?" in err


def test_a_missing_workload_is_reported(tuner: Command, file: Path) -> None:
    assert "workload: a Python package" in refused(tuner("check", file, "--set", "workload=nowhere"))


def test_check_forecasts_what_the_study_takes(tuner: Command, file: Path) -> None:
    status, out, _ = tuner("check", file, "--set", "scheduler.name=none", "--epoch-seconds", "60")
    assert status == 0
    forecast = [line.strip() for line in out[out.index("forecast") :].split("\n")]
    assert forecast[0].removeprefix("forecast").strip() == "trials at epoch 3: 2"
    assert forecast[1] == "6 epochs in all"
    assert "an epoch takes 60 s, as --epoch-seconds says" in forecast
    assert tuner("check", file, "--epoch-seconds", "0")[0] == 2


def test_check_says_why_there_is_no_forecast(tuner: Command, file: Path) -> None:
    status, out, _ = tuner("check", file, "--set", "fixed.epochs=0")
    assert status == 0
    assert "forecast         none: tests.workloads.replay.Config has no field `epochs`" in out


def test_check_reports_an_earlier_study_that_is_not_there(tuner: Command, file: Path) -> None:
    err = refused(tuner("check", file, "--set", 'search.from_studies=["pilot"]'))
    assert "search.from_studies: a study in " in err
    assert "is needed, got 'pilot'" in err


def test_check_reports_all_problems_beside_the_file_at_once(tuner: Command, file: Path) -> None:
    sets = ["--set", "resources.gpus_per_worker=64", "--set", "fixed.missing_data=true"]
    assert refused(tuner("check", file, *sets)).count("error: ") == 2


def test_check_says_what_would_run_and_writes_nothing(tuner: Command, file: Path, tmp_path: Path) -> None:
    status, out, _ = tuner("check", file)
    assert status == 0
    assert "roads, workload tests.workloads.replay, to maximize score" in out
    assert "0 to 1" in out
    assert not list((tmp_path / "here").iterdir())


def test_best_without_a_finished_trial_is_an_error(tuner: Command, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "studies"))
    run_study(storage)
    study = storage / "a"
    lines = (study.read_text("events.jsonl") or "").split("\n")[:3]
    study.write_text("events.jsonl", "\n".join(lines) + "\n")
    err = refused(tuner("best", "a", "--storage", storage.uri, "--output", tmp_path / "out"))
    assert "a finished trial is needed" in err
    assert not (tmp_path / "out").exists()


def test_best_prints_json_alone(tuner: Command, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "studies"))
    run_study(storage)
    status, out, _ = tuner("best", "--storage", storage.uri, "--output", tmp_path / "out", "--json")
    assert status == 0
    found = json.loads(out)
    assert {"study", "trial", "value", "output", "formats", "rescored"} <= set(found)
    assert found["formats"]["weights"] == {"file": "weights.bin", "parity": 0.0}


def test_best_prints_where_the_export_is(tuner: Command, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "studies"))
    run_study(storage)
    status, out, _ = tuner("best", "a", "--storage", storage.uri, "--output", tmp_path / "out")
    assert status == 0
    assert f"exported to {tmp_path / 'out'}\n" in out
    assert "weights.bin" in out


def test_list_and_show_print_json_alone(tuner: Command, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "studies"))
    run_study(storage)
    _, out, _ = tuner("list", "--storage", storage.uri, "--json")
    assert json.loads(out) == {"studies": [{"name": "a", "state": "finished", "created": "2001-09-09T01:46:40+00:00"}]}
    _, out, _ = tuner("show", "--storage", storage.uri, "--json")
    found = json.loads(out)
    assert set(found) >= {"name", "state", "objective", "direction", "best", "trials"}
    assert set(found["best"]) == {"trial", "value", "epoch", "params"}
    keys = {"id", "state", "params", "value", "epochs", "startup_seconds", "seconds", "reason"}
    assert set(found["trials"][0]) >= keys


def test_show_writes_tables_for_other_programs(tuner: Command, tmp_path: Path) -> None:
    run_study(Storage(str(tmp_path / "studies")))
    asked = ("show", "a", "--storage", tmp_path / "studies")
    assert tuner(*asked, "--csv", tmp_path / "t.csv", "--parquet", tmp_path / "t.parquet") == (0, "", "")
    assert tuner(*asked, "--metrics", "--csv", tmp_path / "m.csv") == (0, "", "")
    assert pd.read_csv(tmp_path / "t.csv")["x"].tolist() == [0.5, 0.9, 0.7]
    assert pd.read_parquet(tmp_path / "t.parquet")["state"].tolist() == ["finished"] * 3
    assert pd.read_csv(tmp_path / "m.csv")["epoch"].tolist() == [1, 2, 3] * 3
    code, _, err = tuner(*asked, "--metrics")
    assert (code, err) == (
        2,
        "error: --metrics: needs --csv FILE or --parquet FILE, whose rows it chooses; add one of them\n",
    )


def test_list_of_a_storage_that_is_not_there_is_empty(tuner: Command, tmp_path: Path) -> None:
    assert tuner("list", "--storage", tmp_path / "nothing", "--json")[:2] == (0, '{\n  "studies": []\n}\n')
    status, out, _ = tuner("list", "--storage", tmp_path / "nothing")
    assert status == 0
    assert "start one: python -m tuner run" in out


@pytest.mark.parametrize("key", ["name=b", "workload=json", "objective.direction=minimize"])
def test_name_workload_and_objective_of_a_resumed_study_stay(tuner: Command, tmp_path: Path, key: str) -> None:
    storage = Storage(str(tmp_path / "studies"))
    run_study(storage)
    before = (storage / "a").read_text("study.json")
    refused(tuner("resume", "a", "--storage", storage.uri, "--set", key))
    assert (storage / "a").read_text("study.json") == before
    assert storage.names() == ["a"]


def test_a_relative_storage_is_refused_with_an_address(tuner: Command, file: Path) -> None:
    for command in (("run", file), ("run", file, "--storage", "here/studies"), ("resume", "roads")):
        code, _, err = tuner(*command, "--address", "auto")
        assert code == 2
        assert "with --address a storage that all nodes reach is needed" in err
        assert err.count("\n") == 1


def test_a_storage_that_is_no_address_is_reported(tuner: Command, file: Path) -> None:
    assert "a path or a URI such as s3://bucket/folder" in refused(tuner("run", file, "--storage", "ftp://x"))


def test_a_bucket_needs_an_mlflow_elsewhere(tuner: Command, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Storage, "read_text", lambda self, path: None)
    err = refused(tuner("run", file, "--storage", "s3://bucket/studies?region=us-east-1"))
    assert "--tracking-uri: a storage in a bucket" in err


def test_ui_shows_the_storages_own_database(tuner: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def execv(program: str, arguments: list[str]) -> None:
        started.append(arguments)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "before")  # put back when the test ends
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mlflow.db").write_text("")
    status, out, _ = tuner("ui", "--storage", tmp_path / "studies", "--port", "5050")
    assert status == 0
    assert "http://127.0.0.1:5050" in out
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path / 'studies' / 'mlflow.db'}"
    assert started[0][1:4] == ["-m", "mlflow", "ui"]


def test_the_commands_after_a_study_can_be_pasted_and_show_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_study(Storage(str(tmp_path)))
    record = load_record(Storage(str(tmp_path)) / "a")
    monkeypatch.setenv("COLUMNS", "60")
    cli.print_next_steps(record, "my studies [/x]", console())
    out = capsys.readouterr().out
    assert "python -m tuner ui a --storage 'my studies [/x]'" in out
    assert "  my studies [/x]/a/report.html\n" in out
    assert "***" not in out
    assert "--address" not in out
    record.state = "interrupted"
    with pytest.raises(typer.Exit):
        cli.print_next_steps(record, "/s", console(), None, "10.0.0.1:6379", "http://me:hidden@mlflow:5000")
    out = capsys.readouterr().out
    assert (
        "resume a --storage /s --tracking-uri 'http://me:***@mlflow:5000' --address 10.0.0.1:6379   continue"
    ) in out
    assert "ui a --storage /s --tracking-uri 'http://me:***@mlflow:5000'" in out
    assert "Replace *** by the password of MLflow's address." in out
    record.state = "running"  # the report of an ended one is looked for at the address, which pyarrow can't parse
    cli.print_next_steps(record, "s3://KEY:hi/dden@bucket/x?region=r", console())
    out = capsys.readouterr().out
    assert "python -m tuner ui a --storage 's3://KEY:***@bucket/x?region=r'" in out
    assert "python -m tuner report a --storage 's3://KEY:***@bucket/x?region=r'" in out
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in out
    assert "dden" not in out


def test_a_report_is_written_here_and_studies_of_two_objectives_are_not_compared(
    tuner: Command, tmp_path: Path
) -> None:
    storage = Storage(str(tmp_path / "studies"))
    run_study(storage, "a")
    run_study(storage, "b", direction="minimize")
    status, out, _ = tuner("report", "a", "--storage", storage.uri)
    assert (status, out) == (0, "a-report.html\n")
    assert "<h1>a</h1>" in (tmp_path / "here" / "a-report.html").read_text(encoding="utf-8")
    err = refused(tuner("report", "a", "b", "--storage", storage.uri))
    assert err.startswith("error: report: studies of one objective are needed to compare them, got a (maximize score)")
    assert [file.name for file in (tmp_path / "here").iterdir()] == ["a-report.html"]


def test_an_unknown_command_is_reported_without_a_traceback(tuner: Command) -> None:
    status, _, err = tuner("rnu")
    assert status == 2
    assert "No such command" in err


def test_a_reader_that_goes_away_is_no_mistake(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "studies"))
    run_study(storage)
    command = f"{sys.executable} -m tuner show --storage {storage.uri} --json | true"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_a_study_continues_when_the_reader_of_its_output_is_gone(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tuner.cli import console as home; console = home.console();"
        f"[console.print('x' * 1000) for _ in range(1000)]; Path({str(tmp_path / 'reached')!r}).touch()"
    )
    command = f'set -o pipefail; {sys.executable} -c "{code}" | head -1 > /dev/null'
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "reached").exists()


def test_help_is_there_for_every_command(tuner: Command) -> None:
    for command in ("check", "run", "resume", "list", "show", "ui", "sync", "optuna"):
        status, out, _ = tuner(command, "--help")
        assert status == 0
        assert "--" in out


def test_list_and_help_import_neither_torch_nor_ray_nor_mlflow() -> None:
    """`list` and `--help` need neither torch nor ray nor MLflow, which take seconds to import."""
    say = "import sys, tuner.cli.app, tuner.display.show; "
    say += "print([m for m in ('torch', 'ray', 'mlflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", say], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_damaged_study_is_listed_as_damaged_and_reported_by_each_command(tuner: Command, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "studies"))
    for name in ("whole", "torn", "cut", "gone"):
        run_study(storage, name)
    (tmp_path / "studies" / "torn" / "study.json").write_text("")
    events = tmp_path / "studies" / "cut" / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    events.write_text("".join([*lines[:2], "{\n", *lines[2:]]))
    (tmp_path / "studies" / "gone" / "study.json").unlink()
    (tmp_path / "studies" / "no study").mkdir()
    status, out, err = tuner("list", "--storage", storage.uri)
    assert (status, err) == (0, "")
    assert "whole                    finished" in out
    assert "events.jsonl, line 3: " in out
    assert "no study" not in out
    _, out, _ = tuner("list", "--storage", storage.uri, "--json")
    assert [(study["name"], study["state"]) for study in json.loads(out)["studies"]] == [
        ("whole", "finished"),
        ("cut", "damaged"),
        ("gone", "damaged"),
        ("torn", "damaged"),
    ]
    for name, place in (("torn", "study.json, line 1"), ("cut", "events.jsonl, line 3"), ("gone", "study.json")):
        for command in (["show"], ["resume"], ["best", "--output", tmp_path / "out"]):
            assert place in refused(tuner(command[0], name, *command[1:], "--storage", storage.uri))
    assert tuner("show", "--storage", storage.uri, "--json")[0] == 0, "the newest that is whole"
