"""A disk that loses power: what is left of a folder at each moment, if only what was synced is on it.

Every call that syncs, renames, makes or deletes is a moment. At each, three disks are possible ones, and every
file system is somewhere between them:

    synced   names that a sync of their folder brought there, contents that a sync of their file brought there
    named    all names, as file systems may do that write names first, and the contents as above
    all      all that was written: what a kill leaves

A file of which nothing was synced is empty.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

Tree = dict[str, bytes | None]
"""Content by path, None for a folder."""


class Disk(NamedTuple):
    """One that a power cut may leave."""

    path: Path
    promised: int
    """What `PowerCut.promised` was at that moment."""


class PowerCut:
    """Watches what is done in `root`, in this process, while `watching`."""

    def __init__(self, root: Path, disks: Path):
        self._root, self._disks = root, disks
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._held: list[int] = []  # an inode's number isn't given to another while it is open
        self._seen: dict[tuple[int, frozenset[tuple[str, bytes | None]]], None] = {}
        self.promised = 0
        """Set by a test to what must not be lost from now on."""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        self._sync_all()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("rename", "replace", "unlink", "remove", "rmdir", "mkdir"):
                patch.setattr(os, name, self._watched(getattr(os, name)))
            for name in ("fsync", "fdatasync"):
                patch.setattr(os, name, self._synced(getattr(os, name)))
            yield
            self._cut()
        for handle in self._held:
            os.close(handle)

    def disks(self) -> list[Disk]:
        """Every different one, written out."""
        found = []
        for number, (promised, tree) in enumerate(self._seen):
            place = self._disks / f"{number:04d}"
            place.mkdir(parents=True)
            for path, content in sorted(tree, key=lambda entry: entry[0]):
                if content is None:
                    (place / path).mkdir()
                else:
                    (place / path).write_bytes(content)
            found.append(Disk(place, promised))
        return found

    def _watched(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self._cut()
            return real(*arguments, **named)

        return call

    def _synced(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def call(handle: int) -> None:
            self._cut()
            real(handle)
            self._note(handle)

        return call

    def _note(self, handle: int) -> None:
        self._held.append(os.dup(handle))
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            self._names[found.st_ino] = {name: os.stat(name, dir_fd=handle).st_ino for name in os.listdir(handle)}
        else:
            # The handle may be one for writing only.
            self._contents[found.st_ino] = Path(f"/proc/self/fd/{handle}").read_bytes()

    def _sync_all(self) -> None:
        for path in (self._root, *self._root.rglob("*")):
            handle = os.open(path, os.O_RDONLY)
            self._note(handle)
            os.close(handle)

    def _cut(self) -> None:
        whole: Tree = {
            path.relative_to(self._root).as_posix(): None if path.is_dir() else path.read_bytes()
            for path in self._root.rglob("*")
        }
        named: Tree = {
            name: content if content is None else self._contents.get((self._root / name).stat().st_ino, b"")
            for name, content in whole.items()
        }
        for tree in (whole, named, dict(self._on_disk(self._root.stat().st_ino, ""))):
            self._seen[self.promised, frozenset(tree.items())] = None

    def _on_disk(self, folder: int, above: str) -> Iterator[tuple[str, bytes | None]]:
        for name, number in self._names.get(folder, {}).items():
            if number in self._names or (number not in self._contents and self._is_folder(number)):
                yield above + name, None
                yield from self._on_disk(number, f"{above}{name}/")
            else:
                yield above + name, self._contents.get(number, b"")

    def _is_folder(self, number: int) -> bool:
        """Of what lies in the folder now and wasn't synced itself."""
        return any(path.is_dir() and path.stat().st_ino == number for path in self._root.rglob("*"))
