"""python -m tuner report: a study, or several, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuner.cli.console import console
from tuner.cli.options import DEFAULT_STORAGE, StorageOption


def report(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="A study (default: the newest); several are compared."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="The file to write (default: NAME-report.html).")
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Write a study's report, or a comparison of several, as one HTML file that needs no network."""
    from tuner.report.report import write_report
    from tuner.results.study import load

    studies = [load(name, storage) for name in names] if names else [load(None, storage)]
    file = output or Path(f"{'-'.join(study.name for study in studies)[:200]}-report.html")
    with console().status("drawing …"):
        write_report(studies, file)
    console().print(str(file), highlight=False, soft_wrap=True)
