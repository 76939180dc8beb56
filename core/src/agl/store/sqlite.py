"""The store in an SQLite file (WAL)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from sqlalchemy import Connection, create_engine, event

from agl.errors import StoreError
from agl.store.database import Database
from agl.store.sql import SQLStore

LOCK_SECONDS = 15.0
"""How long a write waits for another process."""


class SQLiteStore(SQLStore):
    """Opens, and where needed creates or migrates, a store.

    Args:
        path: of the SQLite file; folders are made.

    Raises:
        StoreError: locked, not a database, or of a newer schema.
    """

    def __init__(self, path: str | Path = ".agl/store.sqlite") -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"store `{self.path}` cannot be opened: {error.strerror} ({error.filename})") from error
        super().__init__(SQLite(self.path), self.path.parent)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Open `sqlite:///runs.sqlite` (below the working directory) or `sqlite:////folder/runs.sqlite` (from the root).

        Raises:
            StoreError: the URL names no file.
        """
        place = url.partition("://")[2]
        if not place.startswith("/") or not place[1:] or {"?", "#"} & set(place):
            raise StoreError(f"the store's URL must be `sqlite:///` and a path, given was {url!r}; or give the path alone")
        return cls(unquote(place[1:]))


class SQLite(Database):
    """An SQLite file."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        connect = {"timeout": LOCK_SECONDS, "check_same_thread": False}
        self.reading = create_engine(f"sqlite:///{path}", connect_args=connect, paramstyle="named")
        event.listen(self.reading, "connect", _on_connect)
        event.listen(self.reading, "begin", _on_begin)
        self.writing = self.reading.execution_options(agl_write=True)

    def lock_schema(self, connection: Connection) -> None:
        """Nothing is left to do: a transaction that writes has the file for itself."""

    def words(self, cause: Exception) -> str:
        """What an error means, and what to do."""
        said = str(cause).splitlines()[0]
        if "locked" in said:
            return f"is locked by another process; stop it, or give this run a store of its own (`store='other.sqlite'`, `--store`): {said}"
        if "not a database" in said or "malformed" in said:
            return f"is no store: {said}; name another file (`store=`, `--store`)"
        if "unable to open" in said:
            return f"cannot be opened: {said}; is it a file in a folder that you may write to?"
        return said


def _on_connect(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy begins transactions itself, see _on_begin
    # A span is ten kilobytes: larger pages write it a quarter cheaper. A file that is there keeps the size that it has.
    try:
        for pragma in ("page_size=8192", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()  # SQLAlchemy 2.0 leaves a connection open whose events fail
        raise


def _on_begin(connection: Connection) -> None:
    # A write takes its lock at once: a transaction that reads first and then writes could only fail.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("agl_write") else "BEGIN")
