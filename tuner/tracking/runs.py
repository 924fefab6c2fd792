"""A study's runs in MLflow: a parent run, and a child run for each trial. A run is searched for before its creation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tuner.errors import StudyError
from tuner.spec.study import StudySpec
from tuner.storage.storage import Storage
from tuner.tracking.address import artifact_location
from tuner.tracking.calls import create_once, with_retries

PARENT = "study"
"""In the tag tuner.trial, of the parent run."""
# With this the UI opens with runs and charts, not with MLflow's pages for language models.
_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
_RUNS_A_PAGE = 1000


class Runs:
    """The runs of one study in one MLflow."""

    def __init__(self, spec: StudySpec, study: Storage, uri: str, on_created: Callable[[], None]):
        """on_created: called for each run that is created. Raises StudyError if the experiment was deleted."""
        # Imported here: it takes seconds, and the first trials needn't wait for it.
        from mlflow import MlflowClient

        self._spec, self._study, self._on_created = spec, study, on_created
        self.client: Any = MlflowClient(tracking_uri=uri)
        self.experiment = self._find_experiment(artifact_location(uri, study))
        self.ids: dict[str, str] = {}
        """MLflow's run id by trial, PARENT for the parent run."""
        self.may_have_duplicates = False
        """Whether a trial may have two runs: the server may have completed a request that timed out, or the tracker of
        a killed study may still have been writing when the study was resumed."""
        self.created: set[str] = set()
        """Runs that this process has created, whose contents it therefore knows."""

    def _find_experiment(self, artifacts: str | None) -> str:
        name, client = self._spec.name, self.client

        def find() -> Any:
            return client.get_experiment_by_name(name)

        found = with_retries(find)
        if found is None:

            def create() -> Any:
                return client.get_experiment(
                    client.create_experiment(name, artifact_location=artifacts, tags=_TRAINING)
                )

            found, _ = create_once(create, find)
        _check_not_deleted(found)
        return str(found.experiment_id)

    def find(self) -> bool:
        """Find the study's runs, and delete duplicates of a trial's run. Returns whether there were any."""
        found: dict[str, list[Any]] = defaultdict(list)
        for run in self._search(""):
            found[run.data.tags.get("tuner.trial", "")].append(run)
        found.pop("", None)
        # Another process that does this at the same time keeps the same run.
        chosen = {key: min(runs, key=lambda run: run.info.run_id) for key, runs in found.items()}
        self.ids = {key: run.info.run_id for key, run in chosen.items()}
        self.created &= set(self.ids.values())
        self.may_have_duplicates = self.may_have_duplicates or bool(found)
        stay = set(self.ids.values())
        duplicates = [run.info.run_id for runs in found.values() for run in runs if run.info.run_id not in stay]
        for run in chosen.values():
            if run.data.tags.get("mlflow.parentRunId") in duplicates:
                with_retries(partial(self.client.set_tag, run.info.run_id, "mlflow.parentRunId", self.ids[PARENT]))
        deleted = [self._delete(duplicate) for duplicate in duplicates]
        return any(deleted)

    def _delete(self, run: str) -> bool:
        """Delete a run. Returns False without permission: who may write runs may not always delete them."""
        try:
            with_retries(partial(self.client.delete_run, run))
        except Exception as error:
            if getattr(error, "error_code", None) != "PERMISSION_DENIED":
                raise
            return False
        return True

    def of(self, trial: int | None, started: float) -> str:
        """The run of a trial, or for None the parent run; created if it doesn't exist."""
        key = PARENT if trial is None else str(trial)
        if key not in self.ids:
            self.ids[key] = self._create(key, started)
        return self.ids[key]

    def has(self, trial: int | None) -> bool:
        """Whether the run of a trial, or for None the parent run, is known."""
        return (PARENT if trial is None else str(trial)) in self.ids

    def running_children(self) -> list[str]:
        """Ids of the trials' runs with the status RUNNING."""
        filters = f" and tags.`mlflow.parentRunId` = '{self.ids[PARENT]}' and attributes.status = 'RUNNING'"
        return [run.info.run_id for run in self._search(filters)]

    def is_deleted(self, run: str) -> bool:
        """Whether this run was deleted in MLflow.

        Raises StudyError if the whole experiment was deleted, which can be undone, and what MLflow raises if it doesn't
        respond.
        """
        if with_retries(lambda: self.client.get_run(run)).info.lifecycle_stage != "deleted":
            return False
        _check_not_deleted(with_retries(lambda: self.client.get_experiment(self.experiment)))
        return True

    def _create(self, key: str, started: float) -> str:
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

        def create() -> str:
            run = self.client.create_run(self.experiment, start_time=int(started * 1000), tags=tags, run_name=name)
            return str(run.info.run_id)

        def find() -> str | None:
            return min((run.info.run_id for run in self._search(f" and tags.`tuner.trial` = '{key}'")), default=None)

        run, certain = create_once(create, find)
        if certain:
            self.created.add(run)
        else:
            self.may_have_duplicates = True
        self._on_created()
        return run

    def _search(self, filters: str) -> Iterator[Any]:
        """This study's runs. filters: more conditions, each preceded by " and "."""
        # MLflow's filters can't hold every path, so the runs of a study without an id are filtered here.
        mine = (
            f"tags.`tuner.study_id` = '{self._spec.id}'"
            if self._spec.id
            else f"tags.`tuner.study` = '{self._spec.name}'"
        )
        page = None
        while True:
            search = partial(self.client.search_runs, [self.experiment], mine + filters, max_results=_RUNS_A_PAGE)
            runs = with_retries(partial(search, page_token=page))
            yield from (run for run in runs if self._spec.id or self._is_in_folder(run.data.tags))
            page = runs.token
            if not page:
                return

    def _is_in_folder(self, tags: dict[str, str]) -> bool:
        """Whether a run belongs to this study, which has no id, by its folder."""
        return "tuner.study_id" not in tags and tags.get("tuner.storage") == self._study.uri


def _check_not_deleted(experiment: Any) -> None:
    if experiment.lifecycle_stage == "deleted":
        raise StudyError(
            f"its experiment {experiment.name} was deleted; "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}` restores it"
        )
