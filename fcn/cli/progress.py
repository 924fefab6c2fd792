"""A bar on a terminal's stderr, and nothing elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TransferSpeedColumn


@contextmanager
def progress_bar(label: str, *, of_bytes: bool = False) -> Iterator[Callable[[int, int | None], None]]:
    """Yields what moves it: called with what is done and what there is in all."""
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
