"""The options that commands share, and the exit status after a mistake."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tuner.errors import StudyError

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY_FILE", help="A study file; search_spaces/ has examples.")]
Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="A study (default: the newest).")]
StorageOption = Annotated[
    str,
    typer.Option("--storage", metavar="PATH_OR_URI", help="Where studies are stored: a folder, or s3://bucket/folder."),
]
TrackingOption = Annotated[
    str | None,
    typer.Option("--tracking-uri", metavar="URI", help="An MLflow server (default: an SQLite file in the storage)."),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDR",
        help='A Ray cluster, or "auto" for the one of this machine (default: start Ray here).',
    ),
]
ClusterOption = Annotated[
    Path | None,
    typer.Option(
        "--cluster", metavar="FILE", help="The file that `ray up` was given; connects to the head through SSH."
    ),
]
NameOption = Annotated[str | None, typer.Option("--name", help="The study's name (default: the file's).")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override a value of the study file. Repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
CsvOption = Annotated[
    Path | None,
    typer.Option("--csv", metavar="FILE", help="Write a CSV file with one row for each trial, and print nothing."),
]
ParquetOption = Annotated[
    Path | None, typer.Option("--parquet", metavar="FILE", help="Like --csv, but in Parquet, which keeps types.")
]
MetricsOption = Annotated[
    bool,
    typer.Option("--metrics", help="With --csv or --parquet: one row for each trial and epoch, with every metric."),
]
EpochSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--epoch-seconds",
        metavar="SECONDS",
        min=1e-3,
        help="What an epoch takes, for the forecast (default: as in a study of the storage that trains alike).",
    ),
]
DEFAULT_STORAGE = "studies"


def run_app(application: typer.Typer) -> None:
    """Run a command line. A StudyError is printed as `error: …` lines, and the exit status is 2."""
    try:
        application()
    except StudyError as error:
        for line in str(error).split("\n"):
            print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader has closed the pipe: nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
