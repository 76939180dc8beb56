"""Database: what the SQL store must know of one database system; all else is the same for all of them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from agl.errors import StoreError

T = TypeVar("T")
PATIENCE_SECONDS = 15.0
"""How long what failed for a passing reason is tried again."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0


class UnsureError(Exception):
    """The connection was lost while a transaction was committed: nobody knows whether it was."""


class Database(ABC):
    """One database of one system.

    Attributes:
        where: names it in messages; without a password.
        reading: transactions that see one state of the database.
        writing: transactions that change it; of the same pool of connections.
    """

    where: str
    reading: Engine
    writing: Engine

    @abstractmethod
    def lock_schema(self, connection: Connection) -> None:
        """Keep other processes from migrating until the connection's transaction ends."""

    @abstractmethod
    def words(self, cause: Exception) -> str:
        """What the driver's error means and what to do, to stand after "store `…` "."""

    def passing(self, error: Exception) -> bool:
        """Whether the transaction that failed was undone and may go well when it is made again."""
        return False

    def unsure(self, error: Exception) -> bool:
        """Whether a commit that failed so may have been kept all the same."""
        return False

    def close(self) -> None:
        """Let go of all connections."""
        self.writing.dispose()

    def insist(self, transaction: Callable[[], T]) -> T:
        """Make a transaction, again and again for some seconds where it fails for a passing reason."""
        until, pause = time.monotonic() + PATIENCE_SECONDS, _FIRST_PAUSE
        while True:
            try:
                return transaction()
            except Exception as error:
                if not self.passing(error) or time.monotonic() + pause > until:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def readable(self, error: Exception) -> Exception:
        """A database's error in words that say what to do; another error as it is."""
        if isinstance(error, UnsureError):
            return StoreError(f"store `{self.where}` lost its connection during a commit: whether this was kept is not known ({error})")
        cause = cause_of(error)
        if not isinstance(cause, (SQLAlchemyError, self.writing.dialect.loaded_dbapi.Error)):
            return error
        return StoreError(f"store `{self.where}` {self.words(cause)}")


def cause_of(error: Exception) -> Exception:
    """The driver's own error where SQLAlchemy has wrapped it."""
    if isinstance(error, DBAPIError) and isinstance(error.orig, Exception):
        return error.orig
    return error
