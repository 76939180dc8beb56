"""One thread that writes: what many callers ask for at the same time is committed in one transaction, then acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection

from agl.errors import StoreError
from agl.store.database import Database, UnsureError, cause_of

T = TypeVar("T")
BATCH = 256
"""Most operations in one transaction."""


class _Asked:
    """One operation, with the coroutine that waits for it (none does when there is no loop)."""

    __slots__ = ("error", "future", "loop", "operation", "value")

    def __init__(self, operation: Callable[[Connection], Any], loop: asyncio.AbstractEventLoop | None) -> None:
        self.operation, self.loop = operation, loop
        self.future: asyncio.Future[Any] | None = None if loop is None else loop.create_future()
        self.value: Any = None
        self.error: BaseException | None = None

    def given_up(self) -> bool:
        """Whether the caller was cancelled: a claim, say, must not be left to nobody."""
        return self.future is not None and self.future.cancelled()

    def acknowledge(self) -> None:
        """Wake the caller; runs in its loop."""
        assert self.future is not None
        if self.future.done():  # cancelled meanwhile
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


class Writer:
    """Group commit. When an operation fails, those of its transaction are run again one by one, so that it harms no other.

    A transaction that is certain to be undone, as when the server goes away before the commit, is made again. Where the
    connection is lost during the commit, its callers are told that nobody knows: writing twice could be as wrong as not at all.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="agl-store", daemon=True)
        self._thread.start()

    async def run(self, operation: Callable[[Connection], T]) -> T:
        """Run an operation; returns when its transaction is committed.

        Raises:
            StoreError: the database refused it, or the store is closed.
        """
        asked = _Asked(operation, asyncio.get_running_loop())
        self._put(asked)
        assert asked.future is not None
        return await asked.future

    def post(self, operation: Callable[[Connection], Any]) -> None:
        """Run an operation some time; nobody waits for it. May be called from any thread."""
        self._put(_Asked(operation, None))

    def _put(self, asked: _Asked) -> None:
        with self._lock:  # nothing may come after the end
            if self._closed:
                raise StoreError(f"store `{self._database.where}` is closed")
            self._queue.put(asked)

    def close(self) -> None:
        """Commit what was asked for, then stop."""
        with self._lock:
            if not self._closed:
                self._closed = True
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
            asked = [item for item in batch if item is not None]
            self._commit(asked)
            _acknowledge(asked)

    def _commit(self, batch: list[_Asked]) -> None:
        if not batch:
            return
        try:
            self._database.insist(lambda: self._transact(batch))
        except BaseException as error:  # the thread must live: everyone waits for it
            if len(batch) == 1 or not self._each_may_do(error):
                for item in batch:
                    item.error = self._database.readable(error) if isinstance(error, Exception) else error
            else:  # one of them failed and nothing is committed: each alone
                for item in batch:
                    self._commit([item])

    def _each_may_do(self, error: BaseException) -> bool:
        """Whether an operation may go well without the others of its transaction."""
        return not isinstance(error, UnsureError) and not (isinstance(error, Exception) and self._database.passing(error))

    def _transact(self, batch: list[_Asked]) -> None:
        with self._database.writing.connect() as connection, connection.begin() as transaction:
            for item in batch:
                if not item.given_up():
                    item.value = item.operation(connection)
            try:
                transaction.commit()
            except Exception as error:
                if self._database.unsure(error):
                    raise UnsureError(str(cause_of(error)).strip().partition("\n")[0]) from error
                raise


def _acknowledge(batch: list[_Asked]) -> None:
    """Wake the callers, each loop once."""
    loops: dict[asyncio.AbstractEventLoop, list[_Asked]] = {}
    for item in batch:
        if item.loop is not None:
            loops.setdefault(item.loop, []).append(item)
    for loop, items in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there
            loop.call_soon_threadsafe(_wake, items)


def _wake(items: list[_Asked]) -> None:
    for item in items:
        item.acknowledge()
