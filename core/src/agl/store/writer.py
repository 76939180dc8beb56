"""One thread that writes: what many callers ask for at the same time is committed in one transaction, then acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from agl.errors import StoreError

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
    """Group commit. When an operation fails, those of its transaction are run again one by one, so that it harms no other."""

    def __init__(self, engine: Engine, where: str) -> None:
        self._engine = engine
        self._where = where
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
                raise StoreError(f"store `{self._where}` is closed")
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
            with self._engine.begin() as connection:
                for item in batch:
                    if not item.given_up():
                        item.value = item.operation(connection)
        except BaseException as error:  # the thread must live: everyone waits for it
            if len(batch) == 1:
                batch[0].error = readable(error, self._where)
            else:  # one of them failed and nothing is committed: each alone
                for item in batch:
                    self._commit([item])


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


def readable(error: BaseException, where: str) -> BaseException:
    """A database's error in words that say what to do; another error as it is."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if not isinstance(cause, SQLAlchemyError) and not any(base.__name__ == "DatabaseError" for base in type(cause).__mro__):
        return error
    said = str(cause).splitlines()[0]
    if "locked" in said:
        said = f"is locked by another process; stop it, or give this run a store of its own (`store='other.sqlite'`, `--store`): {said}"
    elif "not a database" in said or "malformed" in said:
        said = f"is no store: {said}; name another file (`store=`, `--store`)"
    elif "unable to open" in said:
        said = f"cannot be opened: {said}; is it a file in a folder that you may write to?"
    return StoreError(f"store `{where}` {said}")
