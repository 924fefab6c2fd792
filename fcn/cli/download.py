"""python -m fcn download: public data sets from the web."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fcn.cli.progress import progress_bar
from fcn.data.remote.download import ARCHIVES, Archive, download
from fcn.errors import InputError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def fetch(
    dataset: Annotated[str, typer.Argument(help=" or ".join(ARCHIVES))],
    to: Annotated[Path, typer.Option(help="New folder that it is unpacked into.")],
    sha256: Annotated[str | None, typer.Option(help="Checksum that the archive must have.")] = None,
    url: Annotated[str | None, typer.Option(help="A mirror of the same archive.")] = None,
) -> None:
    """Fetch a public data set; run the same command again to continue after a break."""
    if dataset not in ARCHIVES:
        raise InputError(f"data set: must be one of {', '.join(ARCHIVES)}, got {dataset!r}")
    archive = ARCHIVES[dataset] if url is None else Archive(url, ARCHIVES[dataset].root)
    with progress_bar("fetching", of_bytes=True) as advance:
        found = download(archive, to, sha256=sha256, progress=advance)
    console = Console(highlight=False, markup=False)
    console.print(f"{to}: {dataset}, archive sha256 {found}", markup=False, soft_wrap=True)
    if sha256 is None:
        console.print(
            "Its publisher states no checksum: to hold another machine to the same bytes, pass --sha256 there.",
            markup=False,
        )
