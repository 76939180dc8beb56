"""One thread that writes: what many callers ask for at the same time is committed in one transaction, then acknowledged."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from agl.errors import StoreError

T = TypeVar("T")
BATCH = 256
"""Most operations in one transaction."""

Operation = Callable[[Connection], Any]


class Writer:
    """Group commit. When an operation fails, those of its transaction are run again one by one, so that it harms no other."""

    def __init__(self, engine: Engine, where: str) -> None:
        self._engine = engine
        self._where = where
        self._queue: queue.SimpleQueue[tuple[Operation, Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="agl-store", daemon=True)
        self._thread.start()

    def submit(self, operation: Callable[[Connection], T]) -> Future[T]:
        """Run an operation; the future is done when its transaction is committed."""
        future: Future[T] = Future()
        if not self._thread.is_alive():
            raise StoreError(f"store `{self._where}` is closed")
        self._queue.put((operation, future))
        return future

    def close(self) -> None:
        """Commit what was asked for, then stop."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        open_ = True
        while open_:
            batch = [self._queue.get()]
            while len(batch) < BATCH:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            open_ = None not in batch
            self._commit([item for item in batch if item is not None])

    def _commit(self, batch: list[tuple[Operation, Future[Any]]]) -> None:
        if not batch:
            return
        try:
            values = self._together([operation for operation, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(readable(error, self._where))
            else:  # one of them failed and nothing is committed: each alone
                for item in batch:
                    self._commit([item])
            return
        for (_, future), value in zip(batch, values, strict=True):
            future.set_result(value)

    def _together(self, operations: list[Operation]) -> list[Any]:
        with self._engine.begin() as connection:
            return [operation(connection) for operation in operations]


def readable(error: Exception, where: str) -> Exception:
    """A database's error in words that say what to do."""
    if "locked" in str(error):
        return StoreError(
            f"store `{where}` is locked by another process; stop it, or give this run a store of its own (`store='other.sqlite'`, `--store`)"
        )
    if isinstance(error, (DBAPIError, SQLAlchemyError)):
        return StoreError(f"store `{where}`: {str(error).splitlines()[0]}")
    return error
