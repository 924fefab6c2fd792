"""The display of a running study: a live table in a terminal, otherwise one line for each event."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tuner.events.control_outcome import would_stop_at
from tuner.events.event import (
    EpochReported,
    Event,
    NodeDraining,
    NodeLeftOut,
    NodeLost,
    TrialEnded,
    TrialPaused,
    TrialRewound,
    TrialSpared,
    TrialStarted,
)
from tuner.events.state import StudyRecord
from tuner.events.trial import TrialRecord
from tuner.spec.study import StudySpec

_LIVE_ROWS = 12
_STATE_STYLE = {
    "running": "cyan",
    "paused": "blue",
    "finished": "green",
    "stopped": "yellow",
    "failed": "red",
    "interrupted": "magenta",
}
_BARS = "▁▂▃▄▅▆▇█"


class Progress:
    """Displays a study. `event` must be called after its record has applied the event."""

    def __init__(
        self,
        record: StudyRecord,
        console: Console,
        mlflow_error: Callable[[], str | None],
        skipped: Callable[[], str | None],
    ):
        """mlflow_error: MLflow's present error, or None. skipped: a message on what MLflow rejected, or None."""
        self._record, self._console, self._mlflow_error, self._skipped = record, console, mlflow_error, skipped
        self._skipped_printed = False
        self._outage_printed = False
        self._started = time.time()
        self._paused = {trial.id for trial in record.trials.values() if trial.state == "paused"}
        self._note = ""
        self._live = (
            Live(console=console, get_renderable=self._table, refresh_per_second=4, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def note(self, text: str) -> None:
        """Show a message."""
        self._note = text
        if not self._live:
            self._line(text)

    def event(self, event: Event) -> None:
        """Print the event, if it is one that the user should see."""
        if isinstance(event, NodeLeftOut):
            self.note(f"node {event.node} gets no trials: {event.reason}")
        elif isinstance(event, NodeDraining):
            self.note(self._draining(event.node, event.until))
        elif isinstance(event, NodeLost):
            self.note(self._lost(event))
        if self._live:
            return
        line = self._sentence(event)
        if line:
            self._line(line)
        if isinstance(event, TrialPaused):
            self._paused.add(event.trial)
        elif isinstance(event, TrialStarted | TrialEnded):
            self._paused.discard(event.trial)
        error = self._mlflow_error()
        if error and not self._outage_printed:
            self._line(_outage(error))
        self._outage_printed = error is not None
        # Printed once; the final number is printed at the end.
        if not self._skipped_printed and (skipped := self._skipped()):
            self._skipped_printed = True
            self._line(skipped)

    def _lost(self, event: NodeLost) -> str:
        trials = self._trials_on(event.node)
        if not trials:
            return f"node {event.node} has gone; no trial runs there now"
        return (
            f"node {event.node} was lost, where {trials} ran: started again elsewhere, from the newest checkpoint, "
            "as soon as there is room"
        )

    def _draining(self, node: str, until: float | None) -> str:
        left = "" if until is None else f" in {max(0.0, until - time.time()):.0f} s"
        trials = self._trials_on(node)
        moving = "move at their next reports" if "," in trials else "moves at its next report"
        what = f"{trials} {moving}, with a checkpoint" if trials else "no trial runs there"
        return f"node {node} will be gone{left}: {what}"

    def _trials_on(self, node: str) -> str:
        """The running trials of a node, in words; an empty string if there are none."""
        # A copy: the table is drawn in another thread.
        found = [
            str(trial.id)
            for trial in list(self._record.trials.values())
            if trial.state == "running" and node in trial.nodes
        ]
        return ", ".join(f"trial {number}" for number in found)

    def _line(self, text: str) -> None:
        self._console.print(
            f"{_clock(time.time() - self._started)}  {text}", highlight=False, markup=False, soft_wrap=True
        )

    def _sentence(self, event: Event) -> str | None:
        match event:
            case TrialStarted() | TrialRewound() | EpochReported() | TrialPaused() | TrialSpared() | TrialEnded():
                trial = self._record.trials[event.trial]
                return f"trial {trial.id:<3} {self._describe(trial, event)}"
            case _:
                return None

    def _describe(
        self,
        trial: TrialRecord,
        event: TrialStarted | TrialRewound | EpochReported | TrialPaused | TrialSpared | TrialEnded,
    ) -> str:
        match event:
            case TrialStarted():
                if trial.id in self._paused:
                    return f"continues after epoch {trial.epoch}  {format_params(trial.params)}"
                again = f" again after epoch {trial.epoch}," if trial.epoch else ""
                control = " as a control trial," if trial.control else ""
                return f"starts{again}{control}  {format_params(trial.params)}"
            case TrialRewound():
                return (
                    f"resumes from its newest checkpoint, epoch {trial.epoch}"
                    if trial.epoch
                    else "starts again from its first epoch"
                )
            case EpochReported():
                spec = self._record.spec
                star = self._star(trial)
                if trial.breaches and trial.breaches[-1].epoch == event.epoch:
                    star = f"  doesn't count: {trial.breaches[-1].constraint.metric} must be " + str(
                        trial.breaches[-1].constraint
                    )
                at = fidelity_text(self._record, trial)
                return f"epoch {trial.epoch:<3} {format_values(spec, spec.values_of(event.metrics))}{at}{star}"
            case TrialPaused():
                return f"paused after epoch {trial.epoch}, with a checkpoint: another trial gets its slot"
            case TrialSpared():
                verb = "paused" if event.paused else "stopped"
                return f"early stopping would have {verb} it at epoch {event.epoch}: a control trial, it trains on"
            case TrialEnded():
                best = f"  best {self._best(trial)} at epoch {trial.best_epoch}" if trial.values else ""
                reason = f": {trial.why}" if trial.why else ""
                done = len(self._record.ended)
                return f"{trial.state}{best}{reason}  ({done} of {self._record.spec.budget.trials})"

    def _star(self, trial: TrialRecord) -> str:
        if trial.best_epoch != trial.epoch:
            return ""
        if len(self._record.spec.objectives) > 1:
            return "  would be in the front" if self._record.can_enter_front(trial) else ""
        return "  best of the study so far" if trial is self._record.leader else ""

    def _best(self, trial: TrialRecord) -> str:
        spec = self._record.spec
        return format_values(spec, trial.values) if len(spec.objectives) > 1 else format_metric(trial.values[0])

    def _table(self) -> RenderableType:
        record = self._record
        trials = list(record.trials.values())
        running = [trial for trial in trials if trial.state == "running"]
        paused = [trial for trial in trials if trial.state == "paused"]
        best = record.ranking()[: max(3, _LIVE_ROWS - len(running) - len(paused))]
        parts: list[RenderableType] = [self._headline(len(running), len(paused))]
        if running or paused or best:
            parts.append(trial_table(record, [*running, *paused, *best]))
        else:
            parts.append(Text("the first slots are starting; each imports torch once", style="dim"))
        if error := self._mlflow_error():
            parts.append(Text(_outage(error), style="yellow"))
        if skipped := self._skipped():
            parts.append(Text(skipped, style="yellow"))
        for node, until in list(record.draining.items()):
            parts.append(Text(self._draining(node, until), style="yellow"))
        if self._note:
            parts.append(Text(self._note, style="dim"))
        return Group(*parts)

    def _headline(self, running: int, paused: int) -> Text:
        record = self._record
        ended = record.ended
        failed = sum(trial.state == "failed" for trial in ended)
        elapsed = time.time() - self._started
        text = Text.assemble(
            (record.spec.name, "bold"),
            f"  {len(ended)} of {record.spec.budget.trials} trials, {running} running",
        )
        if paused:
            text.append(f", {paused} paused", style="blue")
        if failed:
            text.append(f", {failed} failed", style="red")
        text.append(f"  {_clock(elapsed)}", style="dim")
        leaders = record.ranking()
        if front := record.front():
            text.append(f"  front of {len(front)}, knee ")
            text.append(format_values(record.spec, leaders[0].values), style="bold green")
            text.append(f" (trial {leaders[0].id})")
        elif leaders and leaders[0].value is not None:
            text.append(f"  best {record.spec.objective.metric} ")
            text.append(format_metric(leaders[0].value), style="bold green")
            text.append(f" (trial {leaders[0].id})")
        return text


def trial_table(record: StudyRecord, trials: list[TrialRecord]) -> Table:
    """One row for each trial: its epoch, best value, curve and hyperparameters; of several objectives all values, and
    whether it is in the front."""
    table = Table(box=None, pad_edge=False, header_style="dim", show_edge=False, padding=(0, 1, 0, 0))
    names = list(record.spec.space)
    control = any(trial.control for trial in trials)
    several_nodes = len({node for trial in record.trials.values() for node in trial.nodes}) > 1
    more = [
        *(["control"] if control else []),
        *(["fidelity"] if record.spec.scheduler.fidelity else []),
        *(["node"] if several_nodes else []),
    ]
    objectives = record.spec.objectives
    values = ["best"] if len(objectives) == 1 else [*(each.metric.rpartition("/")[2] for each in objectives), "front"]
    for title in ("trial", "state", "epoch", *values, "curve", *names, "time", *more):
        # Only headers may wrap, so that a usual study fits in eighty columns.
        justify: Literal["left", "right"] = "left" if title in ("state", "curve", "control", "front") else "right"
        table.add_column(Text(title.replace("_", " ")), justify=justify, no_wrap=False)
    front = front_marks(record)
    for trial in trials:
        cells: list[str | Text] = [
            str(trial.id),
            Text(trial.state, style=_STATE_STYLE[trial.state]),
            str(trial.epoch),
            *([format_metric(value) for value in trial.values] or [""] * len(objectives)),
            *([front.get(trial.id, "")] if len(objectives) > 1 else []),
            sparkline([value for _, value in trial.curve]),
            *(number(trial.params[name]) if name in trial.params else "" for name in names),
            _clock(trial.seconds(time.time())),
        ]
        if control:
            cells.append(control_text(record, trial))
        if record.spec.scheduler.fidelity:
            cells.append(fidelity_text(record, trial).strip())
        if several_nodes:
            # The host's name alone: its address is in --json.
            cells.append(", ".join(dict.fromkeys(node.partition(" ")[0] for node in trial.nodes)))
        table.add_row(*(_unwrapped(cell) for cell in cells))
    return table


def _outage(error: str) -> str:
    return f"MLflow takes nothing at present; events are kept and sent later: {error}"


def front_marks(record: StudyRecord) -> dict[int, str]:
    """By trial: "knee" or "front" of those in the front; empty if there is one objective."""
    front = record.front()
    knee = record.ranking()[0].id if front else None
    return {trial.id: "knee" if trial.id == knee else "front" for trial in front}


def format_values(spec: StudySpec, values: Sequence[float]) -> str:
    """Each objective's name and value: "val/mean_iou 0.8123, time/epoch_seconds 1.2000"."""
    named = zip(spec.objectives, values, strict=True)
    return ", ".join(f"{objective.metric} {format_metric(value)}" for objective, value in named)


def fidelity_text(record: StudyRecord, trial: TrialRecord) -> str:
    """The values of scheduler.fidelity in a trial's last epoch; nothing in a study without."""
    values = record.spec.scheduler.fidelity_at(trial.epoch).items() if trial.epoch else ()
    return "".join(f"  {name} {_plain(value)}" for name, value in values)


def _plain(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else number(value)


def control_text(record: StudyRecord, trial: TrialRecord) -> str:
    """What early stopping would have done to a control trial; nothing of another."""
    epoch = would_stop_at(record, trial)
    return "" if not trial.control else "kept" if epoch is None else f"stop at {epoch}"


def _unwrapped(cell: str | Text) -> Text:
    """A cell that is never wrapped."""
    text = cell if isinstance(cell, Text) else Text(cell)
    text.no_wrap = True
    return text


def sparkline(values: list[float], width: int = 12) -> str:
    """The last `width` values as bars, scaled between their minimum and maximum."""
    values = values[-width:]
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in values)


def format_params(params: dict[str, Any]) -> str:
    return "  ".join(f"{name} {number(value)}" for name, value in params.items())


def format_metric(value: float) -> str:
    """Four decimals; scientific notation for very small and very large values."""
    return f"{value:.4f}" if value == 0 or 1e-2 <= abs(value) < 1e4 else f"{value:.3e}"


def number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"
