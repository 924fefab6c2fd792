"""A study's runs in MLflow: one parent run, and one child a trial. They are found by their tags before one is made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tuner.errors import StudyError
from tuner.spec.study import StudySpec
from tuner.storage.storage import Storage
from tuner.tracking.address import artifact_location
from tuner.tracking.calls import create_once, repeated

PARENT = "study"
"""In the tag tuner.trial, of the parent run."""
# The UI then opens on runs and charts, not on MLflow's pages for language models.
_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
_RUNS_A_PAGE = 1000


class Runs:
    """Of one study, at one MLflow."""

    def __init__(self, spec: StudySpec, study: Storage, uri: str, made: Callable[[], None]):
        """made: called for each run that is made. Raises StudyError if the experiment was deleted."""
        # Imported here: MLflow takes seconds, which the first trials need not wait for.
        from mlflow import MlflowClient

        self._spec, self._study, self._made = spec, study, made
        self.client: Any = MlflowClient(tracking_uri=uri)
        self.experiment = self._find_experiment(artifact_location(uri, study))
        self.ids: dict[str, str] = {}
        """MLflow's run id by trial, PARENT for the parent run."""
        self.doubtful = False
        """Whether a trial may have two runs, though each was made once: a request that timed out may still have been
        worked on, and the tracker of a study that was killed and resumed at once may still have been writing."""
        self.known: set[str] = set()
        """Runs of which is known what they hold: only what was written since they were made."""

    def _find_experiment(self, artifacts: str | None) -> str:
        name, client = self._spec.name, self.client

        def look() -> Any:
            return client.get_experiment_by_name(name)

        found = repeated(look)
        if found is None:

            def make() -> Any:
                return client.get_experiment(
                    client.create_experiment(name, artifact_location=artifacts, tags=_TRAINING)
                )

            found, _ = create_once(make, look)
        _check_not_deleted(found)
        return str(found.experiment_id)

    def find(self) -> bool:
        """Find the runs that MLflow has; of a trial that has two, one stays. Returns whether others were deleted."""
        found: dict[str, list[Any]] = defaultdict(list)
        for run in self._search(""):
            found[run.data.tags.get("tuner.trial", "")].append(run)
        found.pop("", None)
        # Whoever else looks at the same moment chooses alike.
        chosen = {key: min(runs, key=lambda run: run.info.run_id) for key, runs in found.items()}
        self.ids = {key: run.info.run_id for key, run in chosen.items()}
        self.known &= set(self.ids.values())
        self.doubtful = self.doubtful or bool(found)
        stay = set(self.ids.values())
        duplicates = [run.info.run_id for runs in found.values() for run in runs if run.info.run_id not in stay]
        for run in chosen.values():
            if run.data.tags.get("mlflow.parentRunId") in duplicates:
                repeated(partial(self.client.set_tag, run.info.run_id, "mlflow.parentRunId", self.ids[PARENT]))
        deleted = [self._delete(duplicate) for duplicate in duplicates]
        return any(deleted)

    def _delete(self, run: str) -> bool:
        """Returns whether it could be deleted: who may write runs need not have the right to."""
        try:
            repeated(partial(self.client.delete_run, run))
        except Exception as error:
            if getattr(error, "error_code", None) != "PERMISSION_DENIED":
                raise
            return False
        return True

    def of(self, trial: int | None, started: float) -> str:
        """The run of a trial, or the parent run for None; made if there is none."""
        key = PARENT if trial is None else str(trial)
        if key not in self.ids:
            self.ids[key] = self._make(key, started)
        return self.ids[key]

    def has(self, trial: int | None) -> bool:
        return (PARENT if trial is None else str(trial)) in self.ids

    def running_children(self) -> list[str]:
        filters = f" and tags.`mlflow.parentRunId` = '{self.ids[PARENT]}' and attributes.status = 'RUNNING'"
        return [run.info.run_id for run in self._search(filters)]

    def is_deleted(self, run: str) -> bool:
        """Whether somebody deleted this run. Raises StudyError if the whole experiment was, which can be undone,
        and what MLflow raises if it doesn't answer.
        """
        if repeated(lambda: self.client.get_run(run)).info.lifecycle_stage != "deleted":
            return False
        _check_not_deleted(repeated(lambda: self.client.get_experiment(self.experiment)))
        return True

    def _make(self, key: str, started: float) -> str:
        tags = {
            "tuner.trial": key,
            "tuner.study": self._spec.name,
            "tuner.storage": self._study.uri,
        }
        if self._spec.id:
            tags["tuner.study_id"] = self._spec.id
        if key != PARENT:
            tags["mlflow.parentRunId"] = self.of(None, started)
        name = self._spec.name if key == PARENT else f"trial {key}"

        def make() -> str:
            run = self.client.create_run(self.experiment, start_time=int(started * 1000), tags=tags, run_name=name)
            return str(run.info.run_id)

        def look() -> str | None:
            return min((run.info.run_id for run in self._search(f" and tags.`tuner.trial` = '{key}'")), default=None)

        run, certain = create_once(make, look)
        if certain:
            self.known.add(run)
        else:
            self.doubtful = True
        self._made()
        return run

    def _search(self, filters: str) -> Iterator[Any]:
        """This study's runs. filters: more conditions, each with its " and " before it."""
        # A path may hold what MLflow's filters can't: a study without an id is told apart here.
        mine = (
            f"tags.`tuner.study_id` = '{self._spec.id}'"
            if self._spec.id
            else f"tags.`tuner.study` = '{self._spec.name}'"
        )
        page = None
        while True:
            search = partial(self.client.search_runs, [self.experiment], mine + filters, max_results=_RUNS_A_PAGE)
            runs = repeated(partial(search, page_token=page))
            yield from (run for run in runs if self._spec.id or self._is_of_old(run.data.tags))
            page = runs.token
            if not page:
                return

    def _is_of_old(self, tags: dict[str, str]) -> bool:
        """Whether a run is of this study, which has no id: its folder has to do."""
        return "tuner.study_id" not in tags and tags.get("tuner.storage") == self._study.uri


def _check_not_deleted(experiment: Any) -> None:
    if experiment.lifecycle_stage == "deleted":
        raise StudyError(
            f"its experiment {experiment.name} was deleted; "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}` brings it back"
        )
