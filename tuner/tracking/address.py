"""Where MLflow is: its address, and where its images are."""

from __future__ import annotations

from pathlib import Path

from tuner.errors import StudyError
from tuner.storage.storage import Storage


def default_tracking_uri(storage: Storage) -> str:
    """An SQLite file in the storage. Raises StudyError if the storage is a bucket."""
    if storage.local is None:
        raise StudyError(
            f"--tracking-uri: a storage in a bucket ({storage.uri}) can't hold MLflow's database; "
            "give the address of an MLflow server"
        )
    import sqlalchemy

    path = str(storage.local / "mlflow.db")
    plain = f"sqlite:///{path}"
    # Quoted only where SQLAlchemy takes a sign of the path for one of its own, as it does % and ?.
    return plain if sqlalchemy.make_url(plain).database == path else str(sqlalchemy.URL.create("sqlite", database=path))


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite database's address, None for any other."""
    import sqlalchemy

    if not uri.startswith("sqlite:///"):
        return None
    return Path(sqlalchemy.make_url(uri).database or "")


def artifact_location(uri: str, study: Storage) -> str | None:
    """Where a study's images are: beside an SQLite file, else in the storage; None: where the server puts them."""
    if database := sqlite_file(uri):
        return (database.resolve().parent / "artifacts").as_uri()
    if uri.startswith("http") or study.local is None:
        return None
    return (study.local.parent / "artifacts").as_uri()
