"""One trial run in this process, with decisions that the test chooses."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.studies import study_spec
from tuner.storage.checkpoints import trial_folder
from tuner.storage.storage import Storage
from tuner.worker.messages import Action, Assignment, Decision, End, Interruption, Message, Report, StorageWait
from tuner.worker.trial import run_trial


class TrialRunner:
    """Receives what a trial sends, and decides on it.

    stop_after: the trial is stopped at this report. pause_at: it is paused after this epoch. keep: whether its weights
    would stay. cancel: whether a trial that waits for the storage is to end. at_wait: called with how often it has said
    that it waits.
    """

    def __init__(
        self,
        study: Storage,
        *,
        stop_after: int | None = None,
        pause_at: int | None = None,
        keep: bool = False,
        cancel: bool = False,
        at_wait: Callable[[int], None] = lambda _: None,
    ):
        self.study, self.stop_after, self.pause_at, self.keep = study, stop_after, pause_at, keep
        self.cancel, self.at_wait = cancel, at_wait
        self.messages: list[Message] = []
        self.reported_at: list[float] = []

    def send(self, message: Message) -> Decision:
        self.messages.append(message)
        stop = False
        if isinstance(message, StorageWait):
            self.at_wait(len(self.waits))
            stop = self.cancel
        elif isinstance(message, Report):
            self.reported_at.append(time.monotonic())
            stop = len(self.reports) == self.stop_after
            if message.epoch == self.pause_at and not message.resumed:
                return Decision(Action.PAUSE, keep=self.keep)
        return (
            Decision(Action.STOP, "the test stops it", self.keep) if stop else Decision(Action.CONTINUE, keep=self.keep)
        )

    def run(
        self,
        *,
        rank: int = 0,
        direction: str = "maximize",
        constraints: Sequence[Any] = (),
        scheduler: dict[str, Any] | None = None,
        **fixed: Any,
    ) -> None:
        spec = study_spec(
            objective={"direction": direction}, constraints=constraints, scheduler=scheduler or {}, fixed=fixed
        )
        assignment = Assignment(1, {"x": 0.5}, time.time())
        run_trial(assignment, spec, self.study, device=None, rank=rank, send=self.send, send_from_rank=self.send)

    @property
    def reports(self) -> list[Report]:
        return [message for message in self.messages if isinstance(message, Report)]

    @property
    def waits(self) -> list[str | None]:
        return [message.sentence for message in self.messages if isinstance(message, StorageWait)]

    @property
    def end(self) -> tuple[str, str | None] | None:
        """State and reason of the trial's end, if that was the last thing that it sent."""
        last = self.messages[-1]
        return (last.state, last.reason) if isinstance(last, End) else None

    @property
    def interruption(self) -> Interruption | None:
        last = self.messages[-1]
        return last if isinstance(last, Interruption) else None

    @property
    def images(self) -> list[str]:
        """Paths of all images that the trial has reported."""
        return [path for message in self.messages if isinstance(message, Report | End) for path in message.images]

    @property
    def folder(self) -> Path:
        """The trial's."""
        assert self.study.local is not None
        return self.study.local / "trials" / "1"

    def checkpoints(self) -> dict[str, bool]:
        """Of each checkpoint, whether it can be resumed from."""
        return {path.name: (path / "resume").exists() for path in sorted(self.folder.glob("epoch-*"))}

    def image_folders(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("images/*"))

    def error_text(self) -> str:
        return trial_folder(self.study, 1).read_text("error.txt") or ""
