"""What the command lines share: their options, and what becomes of a mistake."""

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
    typer.Option("--cluster", metavar="FILE", help="The file that `ray up` was given; goes through SSH to its head."),
]
NameOption = Annotated[str | None, typer.Option("--name", help="The study's name (default: the file's).")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override a value of the study file. Repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
CsvOption = Annotated[
    Path | None, typer.Option("--csv", metavar="FILE", help="Write one row a trial to a CSV file, and print nothing.")
]
ParquetOption = Annotated[
    Path | None, typer.Option("--parquet", metavar="FILE", help="As --csv, in Parquet, which keeps types.")
]
MetricsOption = Annotated[
    bool, typer.Option("--metrics", help="With --csv or --parquet: one row a trial and epoch, every metric.")
]
DEFAULT_STORAGE = "studies"


def run_app(application: typer.Typer) -> None:
    """Run a command line; a StudyError becomes `error: …` lines and exit status 2."""
    try:
        application()
    except StudyError as error:
        for line in str(error).split("\n"):
            print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe has gone: nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
