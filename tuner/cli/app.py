"""python -m tuner: check, run, resume, list, show, report, ui, sync, optuna."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from tuner.cli import jobs
from tuner.cli.console import console as _console
from tuner.cli.options import (
    DEFAULT_STORAGE,
    AddressOption,
    CsvOption,
    EpochSecondsOption,
    JsonOption,
    MetricsOption,
    Name,
    NameOption,
    ParquetOption,
    SetOption,
    StorageOption,
    StudyFile,
    TrackingOption,
    run_app,
)
from tuner.cli.report import report
from tuner.cli.tracking import optuna, study_link, sync, ui
from tuner.errors import StudyError
from tuner.storage.address import HIDDEN, without_secrets
from tuner.storage.storage import Storage

app = typer.Typer(
    name="python -m tuner",
    help="Tune a trainer's hyperparameters on Ray, compare the runs in MLflow, export the best trial.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def check(
    study_file: StudyFile,
    overrides: SetOption = None,
    name: NameOption = None,
    storage: StorageOption = DEFAULT_STORAGE,
    address: AddressOption = None,
    epoch_seconds: EpochSecondsOption = None,
) -> None:
    """Show what would run, what it needs and what it would take, or every mistake in the file. Starts no trial."""
    from tuner.checks.forecast import study_forecast
    from tuner.driver import cluster
    from tuner.driver.run import prepare
    from tuner.search.earlier_studies import warm_start
    from tuner.spec.study_file import read_study

    spec = read_study(study_file, overrides or [], name)
    problems = []
    console = _console()
    try:
        if address is None:
            plan = cluster.plan(spec.resources, *cluster.machine_capacity())
        else:
            with cluster.connected(address) as capacity:
                plan = cluster.plan(spec.resources, *capacity)
    except StudyError as error:
        problems.append(str(error))
    try:
        prepared = prepare(spec)
    except StudyError as error:
        problems.append(str(error))
    try:
        start = warm_start(spec, Storage(storage))
    except StudyError as error:
        problems.append(str(error))
    if problems:
        raise StudyError("\n".join(problems))
    devices = spec.resources.devices(plan.gpus)
    control = f", {spec.scheduler.control_trials} of them control trials" if spec.scheduler.control_trials else ""
    try:
        expected = study_forecast(spec, plan.slots, devices, Storage(storage), prepared, epoch_seconds).sentences()
    except StudyError as error:
        expected = [f"none: {error}"]
    for title, text in [
        (
            "study",
            f"{spec.name}, workload {spec.workload}, to {spec.goal}",
        ),
        *(("constraint", f"{each.metric} {each}") for each in spec.constraints),
        ("data", prepared.summary),
        *(("warning", warning) for warning in (*getattr(prepared, "warnings", ()), *start.warnings)),
        ("trials", f"{spec.budget.trials} with {spec.search.sampler}, scheduler {spec.scheduler.name}{control}"),
        *(("first trial", str(trial)) for trial in start.trials),
        *(("earlier studies", sentence) for sentence in start.left_out),
        ("runs", str(plan)),
        *((("", "forecast")[place == 0], sentence) for place, sentence in enumerate(expected)),
        *((f"{key}", str(dimension)) for key, dimension in spec.space.items()),
    ]:
        console.print(Text.assemble((f"{title:<16} ", "bold"), text), soft_wrap=True)


@app.command()
def run(
    study_file: StudyFile,
    overrides: SetOption = None,
    name: NameOption = None,
    storage: StorageOption = DEFAULT_STORAGE,
    tracking_uri: TrackingOption = None,
    address: AddressOption = None,
    or_resume: Annotated[
        bool,
        typer.Option("--or-resume", help="Resume the study if the storage already has it."),
    ] = False,
) -> None:
    """Run a study to its end. Ctrl-C stops it, and `resume` continues it."""
    from tuner.driver import run as runs
    from tuner.driver.repeat import run_or_resume
    from tuner.spec.study_file import read_study

    spec = read_study(study_file, overrides or [], name)
    console = _console()
    options = runs.Options(Storage(storage), tracking_uri, address)
    start = run_or_resume if or_resume else runs.run
    record = start(spec, options, list(overrides or []), console)
    print_next_steps(record, storage, console, study_link(Storage(storage), record), address, tracking_uri)


@app.command()
def resume(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The study to resume.")],
    overrides: SetOption = None,
    storage: StorageOption = DEFAULT_STORAGE,
    tracking_uri: TrackingOption = None,
    address: AddressOption = None,
) -> None:
    """Continue a study that was stopped or killed, or give a finished one more trials."""
    from tuner.driver import run as runs

    console = _console()
    options = runs.Options(Storage(storage), tracking_uri, address)
    record = runs.resume(name, options, list(overrides or []), console)
    print_next_steps(record, storage, console, study_link(Storage(storage), record), address, tracking_uri)


@app.command("list")
def list_studies(storage: StorageOption = DEFAULT_STORAGE, as_json: JsonOption = False) -> None:
    """List the studies of a storage, oldest first."""
    from tuner.display import show as shows
    from tuner.events.state import StudyRecord

    records, damaged = shows.studies(Storage(storage))
    if as_json:
        found: list[StudyRecord | shows.Damaged] = [*records, *damaged]
        print(json.dumps({"studies": [shows.study_json(study) for study in found]}, indent=2))
    elif records or damaged:
        shows.print_studies(records, damaged, _console())
    else:
        _console().print(
            f"no study in {Storage(storage).uri}; start one: python -m tuner run search_spaces/demo.toml",
            highlight=False,
            soft_wrap=True,
        )


@app.command()
def show(
    name: Name = None,
    storage: StorageOption = DEFAULT_STORAGE,
    as_json: JsonOption = False,
    csv: CsvOption = None,
    parquet: ParquetOption = None,
    metrics: MetricsOption = False,
) -> None:
    """Show a study's trials, best first, or write them to a file for other programs."""
    from tuner.display import show as shows
    from tuner.tracking.state import skipped_note

    if csv or parquet:
        _write_tables(name, storage, csv, parquet, metrics)
        return
    if metrics:
        raise StudyError("--metrics: needs --csv FILE or --parquet FILE, whose rows it chooses; add one of them")
    record = shows.find(Storage(storage), name)
    if as_json:
        print(json.dumps(shows.record_json(record), indent=2))
    else:
        shows.print_record(record, _console(), skipped=skipped_note(Storage(storage) / record.spec.name))


def _write_tables(name: str | None, storage: str, csv: Path | None, parquet: Path | None, metrics: bool) -> None:
    from tuner.results import tables
    from tuner.results.study import load

    study = load(name, storage)
    table = study.metrics if metrics else study.trials
    if csv:
        tables.write_csv(table, csv)
    if parquet:
        tables.write_parquet(table, parquet)


app.command()(report)
app.command()(ui)
app.command()(sync)
app.command()(optuna)


for _command in (jobs.submit, jobs.status, jobs.logs, jobs.stop, jobs.fetch):
    app.command(rich_help_panel="A cluster, from outside")(_command)


def main() -> None:
    """Exit status: 0 done, 1 the study failed, 2 a mistake that a person can fix, 130 stopped by Ctrl-C."""
    run_app(app)


def print_next_steps(
    record: object,
    storage: str,
    console: Console,
    link: str | None = None,
    ray_address: str | None = None,
    tracking_uri: str | None = None,
) -> None:
    """Print the ranking and useful commands. Exits with the status of how the study ended."""
    from tuner.display import show as shows
    from tuner.events.state import StudyRecord
    from tuner.report import REPORT

    assert isinstance(record, StudyRecord)
    name = record.spec.name
    address = without_secrets(storage)
    at = "" if storage == DEFAULT_STORAGE else f" --storage {shlex.quote(address)}"
    # What was given must be given again: without --address the study would start a Ray beside the one it ran on.
    ray = f" --address {shlex.quote(ray_address)}" if ray_address else ""
    shown = without_secrets(tracking_uri) if tracking_uri else ""
    mlflow = f" --tracking-uri {shlex.quote(shown)}" if tracking_uri else ""
    console.print()
    shows.print_record(record, console, rows=10)
    console.print()
    commands = []
    best = shows.best_line(record)
    if best:
        console.print(best, highlight=False, soft_wrap=True)
        commands.append((f"python -m tuner.best {name}{at} --output exports/{name}", "export the winner"))
    if record.state == "interrupted":
        commands.append((f"python -m tuner resume {name}{at}{mlflow}{ray}", "continue the study"))
    if "://" in storage:
        # The report that the study has left there can't be opened as it is.
        commands.append((f"python -m tuner report {name}{at}", "the study as one page"))
    commands.append((f"python -m tuner ui {name}{at}{mlflow}", "compare the trials in MLflow"))
    width = max(len(command) for command, _ in commands)
    for command, purpose in commands:
        console.print(f"  {command:<{width}}   {purpose}", highlight=False, soft_wrap=True)
    if record.state in ("finished", "failed") and "://" not in storage:
        console.print(f"  {Path(storage).expanduser() / name / REPORT}", highlight=False, soft_wrap=True)
    if link:
        console.print(f"  {link}", highlight=False, soft_wrap=True)
    if HIDDEN in shown:
        console.print(f"  Replace {HIDDEN} by the password of MLflow's address.", style="dim", highlight=False)
    if HIDDEN in address:
        console.print(
            f"  Replace {HIDDEN} by the secret of the address; or leave the keys out of it, and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
            style="dim",
            highlight=False,
            soft_wrap=True,
        )
    if record.state == "failed":
        raise typer.Exit(1)
    if record.state == "interrupted":
        raise typer.Exit(130)
