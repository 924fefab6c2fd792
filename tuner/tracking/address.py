"""The address of MLflow, and where it stores images."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

from tuner.errors import StudyError
from tuner.storage.address import without_secrets
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
    # Quoted only if the path has characters that SQLAlchemy interprets, such as % and ?.
    return plain if sqlalchemy.make_url(plain).database == path else str(sqlalchemy.URL.create("sqlite", database=path))


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite address; None for any other address."""
    import sqlalchemy

    if not uri.startswith("sqlite:///"):
        return None
    return Path(sqlalchemy.make_url(uri).database or "")


def artifact_location(uri: str, study: Storage) -> str | None:
    """Where a study's images are stored: beside an SQLite file, else in the storage; None: the server decides."""
    if database := sqlite_file(uri):
        return (database.resolve().parent / "artifacts").as_uri()
    if uri.startswith("http") or study.local is None:
        return None
    return (study.local.parent / "artifacts").as_uri()


_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_CONNECT_SECONDS = 5.0


def check_tracking_uri(uri: str) -> None:
    """Raises StudyError for an address that MLflow can't track to."""
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in _SCHEMES:
        raise StudyError(
            f"--tracking-uri: an MLflow server (http://host:port) or a database (sqlite:///FILE, postgresql://…) is "
            f"needed, got {without_secrets(uri)!r}; correct it, or leave it out to use an SQLite file in the storage"
        )


def unreachable(uri: str) -> str | None:
    """Why nothing answers at MLflow's address, as a sentence; None if something does, or if it is a file."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    try:
        port = parts.port or _PORTS.get(scheme)
        if not parts.hostname or port is None:
            return None
        socket.create_connection((parts.hostname, port), _CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        return f"nothing answers at {without_secrets(uri)} ({error})"
    return None


def server_page(uri: str) -> str | None:
    """The URL of an MLflow server for a browser, without user and password; None for a database."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return None
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
