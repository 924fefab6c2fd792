"""python -m tuner.best: export the winner of a study, checked against what was logged."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuner.cli.options import DEFAULT_STORAGE, JsonOption, Name, StorageOption, run_app
from tuner.display import show as shows
from tuner.display.live import format_metric
from tuner.errors import StudyError
from tuner.events.constraints import no_winner
from tuner.events.state import StudyRecord
from tuner.events.trial import TrialRecord
from tuner.results.pick import Pick, picked, read_pick
from tuner.spec import workload as workloads
from tuner.storage import files
from tuner.storage.checkpoints import TrialCheckpoints, trial_folder
from tuner.storage.storage import Storage

# The logged score may come from reduced precision. If the export is another model, the difference is larger than this.
_TOLERANCE = 0.01

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(frozen=True)
class Best:
    """An exported winner."""

    record: StudyRecord
    trial: TrialRecord
    output: Path
    exported: workloads.Exported

    @property
    def rescored(self) -> float:
        """The objective, the first of several, scored on what was exported; NaN if the workload's export didn't."""
        return self.exported.metrics.get(self.record.spec.objective.metric, math.nan)

    @property
    def scores(self) -> list[tuple[str, float, float | None]]:
        """Of each objective its metric, what was logged, and what the export scores; None if it didn't score that."""
        metrics = [objective.metric for objective in self.record.spec.objectives]
        again = [self.exported.metrics.get(metric) for metric in metrics]
        return list(zip(metrics, self.trial.values, again, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Keys: study, trial, value, output, formats, rescored, scores (of each objective, by metric: logged, and
        rescored, null if the export didn't score it), params, test."""
        return {
            "study": self.record.spec.name,
            "trial": self.trial.id,
            "value": self.trial.value,
            "output": str(self.output),
            "formats": {
                name: {"file": form.file, "parity": form.parity} for name, form in self.exported.formats.items()
            },
            "rescored": None if math.isnan(self.rescored) else self.rescored,
            "scores": {metric: {"logged": logged, "rescored": again} for metric, logged, again in self.scores},
            "params": self.trial.params,
            "test": dict(self.exported.test_metrics),
        }


def export_best(storage: Storage, name: str | None, output: Path, pick: Pick | None = None) -> Best:
    """Export the best finished trial to a new folder and check its score.

    name: a study, None for the newest. pick: of several objectives, which trial of their front; its knee if left out.
    Raises StudyError, and leaves no output, if there is nothing to export or the
    exported model doesn't reach the logged score.
    """
    record = shows.find(storage, name)
    study = record.spec.name
    ranking = record.ranking()
    if why := no_winner(record):
        raise StudyError(
            f"study {study}: {why}; resume it with more trials (--set budget.trials=N), or start another study with "
            "wider limits"
        )
    if not ranking:
        raise StudyError(
            f"study {study}: a finished trial is needed, got {len(record.trials)} trials and none finished; "
            f"continue it with `python -m tuner resume {study}`"
        )
    winner = picked(record, pick) if pick else ranking[0]
    _check_output_is_free(output)
    assert winner.value is not None
    assert winner.best_epoch is not None
    with tempfile.TemporaryDirectory(prefix="tuner-best-") as scratch:
        checkpoints = TrialCheckpoints(trial_folder(storage / study, winner.id))
        directory = checkpoints.fetch(winner.best_epoch, Path(scratch))
        if directory is None:
            raise StudyError(
                f"study {study}: trial {winner.id} needs its checkpoint of epoch {winner.best_epoch}, got none in "
                f"{storage.uri} that is undamaged; was it deleted? Train its hyperparameters again: {winner.params}"
            )
        with _draft(record, output) as draft:
            exported = _export(record, directory, draft, output)
            best = Best(record, winner, output, exported)
            _check_score(best)
            (draft / "study.json").write_text(json.dumps(best.to_json(), indent=2) + "\n", encoding="utf-8")
            _move_into_place(draft, output)
    return best


def _check_output_is_free(output: Path) -> None:
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise StudyError(f"--output {output}: must be a folder that is new or empty; give another, or delete it")


@contextlib.contextmanager
def _draft(record: StudyRecord, output: Path) -> Iterator[Path]:
    """A path for a temporary folder beside the output: the finished export is then renamed to the output atomically."""
    try:
        parent = output.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=parent))
    except OSError as error:
        raise _failed(record, error) from error
    try:
        yield beside / output.name
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _export(record: StudyRecord, checkpoint: Path, draft: Path, output: Path) -> workloads.Exported:
    workload = workloads.load(record.spec.workload)
    try:
        return workload.export(checkpoint, draft)
    except (ValueError, OSError, RuntimeError) as error:
        # The draft is deleted by the time that the user reads this.
        raise _failed(record, str(error).replace(str(draft), str(output))) from error


def _failed(record: StudyRecord, why: object) -> StudyError:
    return StudyError(f"study {record.spec.name}: the export failed: {why}")


def _check_score(best: Best) -> None:
    # What a training takes, seconds for example, isn't scored again; an export of which nothing can be is refused.
    scored = [(metric, logged, again) for metric, logged, again in best.scores if again is not None]
    for metric, logged, again in scored or [(best.record.spec.objective.metric, best.trial.values[0], math.nan)]:
        # This is true for NaN as well.
        if not abs(again - logged) <= _TOLERANCE * max(1.0, abs(logged)):
            raise StudyError(
                f"study {best.record.spec.name}: the export must reach the score that trial {best.trial.id} logged, "
                f"got {metric} {format_metric(again)} for {format_metric(logged)}; "
                "nothing was exported: have the data or the library versions changed since?"
            )
    for constraint in best.record.spec.constraints:
        value = best.exported.metrics.get(constraint.metric)
        if value is None or constraint.keeps(value):
            continue
        if abs(value - constraint.limit) > _TOLERANCE * max(1.0, abs(constraint.limit)):
            raise StudyError(
                f"study {best.record.spec.name}: the export must keep the study's constraints, got {constraint.metric} "
                f"{format_metric(value)}, which must be {constraint}; nothing was exported: have the data or the "
                "library versions changed since?"
            )


def _move_into_place(draft: Path, output: Path) -> None:
    try:
        # A rename replaces an empty folder, but nothing else: of two simultaneous exports the second fails.
        files.publish(draft, output.absolute())
    except OSError as error:
        _check_output_is_free(output)
        raise StudyError(f"--output {output}: can't be made ({error.strerror}); give another folder") from error


@app.command()
def best(
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="A new folder for the export.")],
    name: Name = None,
    storage: StorageOption = DEFAULT_STORAGE,
    pick: Annotated[
        str | None,
        typer.Option(
            "--pick",
            metavar="RULE",
            help="Of several objectives, which trial of their front: knee (the default), max:METRIC, min:METRIC, or "
            "within:METRIC=VALUE, the best that keeps a limit.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export the winning model of a study: weights, pt2, ONNX, each loaded again and compared with the checkpoint."""
    console = Console(stderr=as_json, emoji=False, markup=False)
    with console.status("exporting, and checking each format …"):
        found = export_best(Storage(storage), name, output, read_pick(pick) if pick is not None else None)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        _print(found, console)


def _print(best: Best, console: Console) -> None:
    metric = best.record.spec.objective.metric
    scores = "; ".join(
        f"{name} {format_metric(logged)} logged"
        + (f", {format_metric(again)} scored again" if again is not None else "")
        for name, logged, again in best.scores
    )
    console.print(
        Text.assemble(
            (best.record.spec.name, "bold"), f"  trial {best.trial.id}, epoch {best.trial.best_epoch}: {scores}"
        ),
        soft_wrap=True,
    )
    # Not in the table, which would truncate a long path.
    console.print(f"exported to {best.output}", highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("format", "file", "MB", "largest difference of outputs"):
        table.add_column(title, justify="right" if title == "MB" else "left")
    for name, form in best.exported.formats.items():
        size = (best.output / form.file).stat().st_size / 1e6
        table.add_row(name, form.file, f"{size:.1f}", f"{form.parity:.1e}")
    console.print(table)
    test_metric = metric.replace("val/", "test/", 1)
    if test_metric in best.exported.test_metrics:
        console.print(f"{test_metric} {format_metric(best.exported.test_metrics[test_metric])}", highlight=False)
    usage: str | None = getattr(best.exported, "usage", None)
    if usage:
        console.print(f"  {usage.format(output=shlex.quote(str(best.output)))}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_app(app)
