"""A progress bar on stderr, shown only on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TransferSpeedColumn


@contextmanager
def progress_bar(label: str, *, of_bytes: bool = False) -> Iterator[Callable[[int, int | None], None]]:
    """Yields a function that updates the bar: it takes the amount done and the total, None if unknown."""
    console = Console(stderr=True, markup=False)
    columns = (DownloadColumn(), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(),)
    with Progress(
        TextColumn(label),
        BarColumn(),
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
