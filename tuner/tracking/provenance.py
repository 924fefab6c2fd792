"""The provenance of a study's results in its parent run: tags, of which MLflow's UI knows some, and files."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.events.event import RunBegan
from tuner.events.outcome import Comparison
from tuner.spec.study import StudySpec
from tuner.spec.toml import study_toml
from tuner.storage.address import HIDDEN, is_secret_name, without_secrets_in

_TAGGED = ("tuner", "python", "ray", "torch", "optuna", "mlflow")
"""Packages whose versions become tags; requirements.txt has all."""


def provenance_tags(event: RunBegan) -> dict[str, str]:
    """Tags for a run of the study. Those of a resume contain its number: its code and host may differ."""
    facts = {"command": event.command, "host": event.host, "overrides": ", ".join(event.overrides)}
    for group, found in (("git", event.git), ("hardware", event.hardware), ("data", event.data)):
        facts |= {f"{group}.{name}": value for name, value in (found or {}).items()}
    facts |= {f"version.{name}": event.versions[name] for name in _TAGGED if name in event.versions}
    prefix = "tuner." if event.number == 1 else f"tuner.resume_{event.number - 1}."
    tags = {f"{prefix}{name}": value for name, value in facts.items() if value}
    return tags if event.number > 1 else {**tags, **_known_to_mlflow(event)}


def earlier_tags(spec: StudySpec) -> dict[str, str]:
    """What the study took from earlier ones, a tag for each."""
    return {f"tuner.from_studies.{name}": taken for name, taken in spec.taken_from().items()}


def forecast_tags(rows: Sequence[Comparison]) -> dict[str, str]:
    """What the study was forecast to take."""
    return {f"tuner.forecast.{row.key}": row.forecast for row in rows}


def outcome_tags(rows: Sequence[Comparison]) -> dict[str, str]:
    """What it came to."""
    return {f"tuner.outcome.{row.key}": row.outcome for row in rows}


def _known_to_mlflow(event: RunBegan) -> dict[str, str]:
    # The UI shows only the part of a source's name after the last slash, which would truncate a command.
    tags = {"mlflow.source.name": "python -m tuner", "mlflow.source.type": "LOCAL"} if event.command else {}
    if git := event.git:
        tags |= {
            "mlflow.source.git.commit": git.get("commit", ""),
            "mlflow.source.git.branch": git.get("branch", ""),
            "mlflow.source.git.repoURL": git.get("repository", ""),
            "mlflow.source.git.dirty": str("changed" in git.get("tree", "")).lower(),
        }
    return {name: value for name, value in tags.items() if value}


def provenance_files(spec: StudySpec, event: RunBegan) -> dict[str, bytes]:
    """Files by name: the study file, for `python -m tuner run`, and the installed packages, for pip."""
    fixed = {name: HIDDEN if is_secret_name(name) else value for name, value in spec.fixed.items()}
    study = without_secrets_in(study_toml(spec.model_copy(update={"fixed": fixed})))
    python = event.versions.get("python")
    packages = [f"{name}=={version}" for name, version in event.versions.items() if name not in ("python", "tuner")]
    requirements = "\n".join([*([f"# Python {python}"] if python else []), *packages]) + "\n"
    return {"study.toml": study.encode(), "requirements.txt": requirements.encode()}
