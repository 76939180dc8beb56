"""The store in a PostgreSQL database, for many runs on many machines."""

from __future__ import annotations

import importlib
from typing import Any, Self

from sqlalchemy import Connection, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError

from agl.errors import StoreError
from agl.store.database import Database, cause_of
from agl.store.sql import SQLStore
from agl.store.urls import without_password

LOCK_SECONDS = 15
"""How long a statement waits for another process's transaction."""
IDLE_SECONDS = 10
"""How long the server waits for a process that stopped in the middle of a transaction, before it undoes it."""
CONNECTIONS = 3
"""Most connections of one process: one that writes, and one for each thread that reads."""
_SCHEMA_LOCK = int.from_bytes(b"agl", "big")
_NETWORK = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 30_000}
"""libpq's options, in seconds (`tcp_user_timeout` in milliseconds), so that a machine that vanished is noticed within a minute."""
_GONE = {"57P01", "57P02", "57P03"}
"""The server shuts down, has crashed, is starting."""
_UNDONE = {"25P03", "40001", "40P01"}
"""The server undid a transaction: it stood still, could not be put in a row with others, or was one side of a deadlock."""


class PostgreSQLStore(SQLStore):
    """Opens a PostgreSQL database, and makes or migrates the tables in it where needed.

    Args:
        url: `postgresql://user:password@host:port/database`, with options of libpq after a `?`. What it leaves out is taken
            from where PostgreSQL's own programs take it: `PGHOST`, `PGPASSWORD` and their like, and `~/.pgpass`.

    Raises:
        StoreError: psycopg is missing, the server cannot be reached, it refuses user or database, or the schema is newer.
    """

    def __init__(self, url: str = "postgresql://") -> None:
        super().__init__(PostgreSQL(url))

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Open the database that a URL names."""
        return cls(url)


class PostgreSQL(Database):
    """A PostgreSQL database, over psycopg 3."""

    def __init__(self, url: str) -> None:
        self.where = without_password(url)
        try:
            self._psycopg: Any = importlib.import_module("psycopg")
        except ImportError as error:
            raise StoreError(
                f'store `{self.where}` needs psycopg 3, which cannot be imported ({error}): pip install "agl-core[postgresql]"'
            ) from error
        address = _address(url)
        engine = create_engine(
            address,
            connect_args={name: value for name, value in _NETWORK.items() if name not in address.query},
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_pre_ping=True,
        )
        event.listen(engine, "connect", _on_connect)
        self.reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self.writing = engine.execution_options(isolation_level="READ COMMITTED")

    def lock_schema(self, connection: Connection) -> None:
        """Take the database's advisory lock for migrations, until the transaction ends."""
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})

    def unsure(self, error: Exception) -> bool:
        """Whether the connection was lost: libpq's own errors have no code, those of the server that end it have."""
        cause = cause_of(error)
        code = getattr(cause, "sqlstate", None)
        if code is None:
            return isinstance(cause, (self._psycopg.OperationalError, self._psycopg.InterfaceError))
        return code.startswith("08") or code in _GONE

    def passing(self, error: Exception) -> bool:
        """Whether the connection was lost, or another process was in the way."""
        return self.unsure(error) or getattr(cause_of(error), "sqlstate", None) in _UNDONE

    def words(self, cause: Exception) -> str:
        """What an error means, and what to do."""
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
        code = getattr(cause, "sqlstate", None)
        if code == "55P03":
            return f"is locked by another process, which has not let go for {LOCK_SECONDS} s; stop it: {lines[0]}"
        if code == "42501":
            return f"does not let this user do that: {lines[0]}; let the database's owner grant it, or make the user its owner"
        if code is None and isinstance(cause, self._psycopg.OperationalError):
            return _unreachable(" ".join(" ".join(lines).partition("Is the server running")[0].split()))
        return lines[0]


def _address(url: str) -> Any:
    """The URL as SQLAlchemy has it."""
    shown = without_password(url)
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        address = None  # its message may hold a part of the password
    if address is None or "@" in (address.host or ""):
        raise StoreError(
            f"`{shown}` is no URL of a store: it must be `postgresql://user:password@host:port/database`, in user and password "
            "with `%40` for `@`, `%3A` for `:` and `%2F` for `/`"
        )
    if address.drivername not in ("postgresql", "postgresql+psycopg"):
        raise StoreError(f"`{shown}` asks for another driver than psycopg 3; write `postgresql://…`")
    return address.set(drivername="postgresql+psycopg")


def _on_connect(connection: Any, _: Any) -> None:
    connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
    connection.commit()


def _unreachable(said: str) -> str:
    """Words for a connection that did not come about; libpq gives no codes for its reasons."""
    if "password" in said or "authentication" in said:
        return f"refuses the user: {said}; give the right password in the URL, in PGPASSWORD or in ~/.pgpass"
    if "database" in said and "does not exist" in said:
        return f"does not exist: {said}; make it with `createdb`, or name another database"
    return f"cannot be reached: {said}; is the server running, and are host, port and user right?"
