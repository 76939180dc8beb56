"""Worker: the thread that samples.

Requests join between two decoding steps, finished answers leave, and while it is paused nothing runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from agl.errors import EngineError
from agl_grpo.batch import Batch, Finished, Row, Sampled


class Request:
    """One request between its coroutine and the worker."""

    def __init__(self, rows: Sequence[Row], deliver: Callable[[Any], None]) -> None:
        self.rows = list(rows)
        self.deliver = deliver
        self.loop = asyncio.get_running_loop()
        self.version: str | None = None
        self.answers: dict[int, Finished] = {}
        for row in rows:
            row.request = self

    def cancel(self) -> None:
        for row in self.rows:
            row.cancelled = True

    @property
    def cancelled(self) -> bool:
        return self.rows[0].cancelled


class Worker:
    """Runs a batch in a thread of its own.

    Args:
        batch: the rows.
        max_wait: seconds that a request to an idle worker waits for others to join.
        threads: CPU threads of torch in the worker; None leaves its choice.
        version: of the weights.
    """

    def __init__(self, batch: Batch, max_wait: float, threads: int | None, version: str) -> None:
        self.batch, self.max_wait, self.threads, self.version = batch, max_wait, threads, version
        self.closed = False
        self.pauses = 0
        self._waiting: deque[Request] = deque()
        self._wake = threading.Condition()
        self._idle = threading.Event()
        self._thread: threading.Thread | None = None

    def submit(self, request: Request) -> None:
        """Puts a request in the queue.

        Raises:
            EngineError: the worker is closed.
        """
        with self._wake:
            if self.closed:
                raise EngineError("the engine is closed")
            self._start()
            self._waiting.append(request)
            self._wake.notify()

    def pause(self, timeout: float) -> None:
        """Returns when nothing is being sampled any more; nothing will be until `resume`.

        Raises:
            EngineError: running answers did not end in time; the worker goes on.
        """
        with self._wake:
            self._start()
            self.pauses += 1
            self._idle.clear()
            self._wake.notify()
        if not self._idle.wait(timeout):
            running = self.batch.size
            self.resume()
            raise EngineError(f"{running} answers did not end within {timeout:g} s; shorten `max_tokens` or wait longer")

    def resume(self) -> None:
        """Ends one `pause`."""
        with self._wake:
            self.pauses -= 1
            # What is remembered of prompts was computed with the old weights.
            self.batch.slots.prefixes.clear()
            self._wake.notify()

    def close(self) -> None:
        """Stops the thread; requests in work fail."""
        with self._wake:
            self.closed = True
            self._wake.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=30)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="agl-engine", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        if self.threads:
            torch.set_num_threads(self.threads)
        with torch.inference_mode():
            while not self.closed:
                try:
                    self._turn()
                except Exception as error:
                    failure = EngineError(f"sampling failed: {type(error).__name__}: {error}")
                    failure.__cause__ = error
                    self._fail({row.request for row in self.batch.rows}, failure)
                    self.batch.clear()
        with self._wake:
            left = {row.request for row in self.batch.rows} | set(self._waiting)
        self._fail(left, EngineError("the engine was closed"))
        self._idle.set()

    def _turn(self) -> None:
        """Lets requests join, samples one token for each row, hands out what is done."""
        self.batch.drop_cancelled()
        requests = self._take()
        events: list[Finished | Sampled] = []
        if requests:
            rows = [row for request in requests for row in request.rows]
            try:
                events += self.batch.admit(rows)
            except Exception:
                self.batch.rows.extend(row for row in rows if row not in self.batch.rows)
                raise
        if self.batch.size:
            events += self.batch.step()
        self._hand_out(events)

    def _take(self) -> list[Request]:
        """The requests that join now; waits when there is nothing to do."""
        with self._wake:
            if not self.batch.size:
                waited = False
                while not self.closed and (self.pauses or not self._waiting):
                    if self.pauses:
                        self._idle.set()
                    waited = True
                    self._wake.wait()
                if waited and self._waiting and self.max_wait:
                    self._gather()
            taken: list[Request] = []
            free = self.batch.limit - self.batch.size
            while not self.pauses and self._waiting and (self._waiting[0].cancelled or len(self._waiting[0].rows) <= free):
                request = self._waiting.popleft()
                if not request.cancelled:
                    request.version = self.version
                    free -= len(request.rows)
                    taken.append(request)
            return taken

    def _gather(self) -> None:
        """Waits a little for more requests: an agent's siblings start together, and one prefill is cheaper than many."""
        deadline = time.monotonic() + self.max_wait
        while (left := deadline - time.monotonic()) > 0 and len(self._waiting) < self.batch.limit and not self.closed:
            self._wake.wait(left)

    def _hand_out(self, events: Iterable[Finished | Sampled]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Request, Any]]] = {}
        for event in events:
            request: Request = event.row.request
            if isinstance(event, Finished):
                request.answers[event.row.choice] = event
            by_loop.setdefault(request.loop, []).append((request, event))
        for loop, items in by_loop.items():
            _call(loop, items)

    def _fail(self, requests: Iterable[Request], error: EngineError) -> None:
        for request in requests:
            _call(request.loop, [(request, error)])


def _call(loop: asyncio.AbstractEventLoop, items: list[tuple[Request, Any]]) -> None:
    def deliver() -> None:
        for request, event in items:
            request.deliver(event)

    # A closed loop has nobody left to tell.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(deliver)
