"""The executor `process`: workers are processes of this machine, each in a process group of its own.

An agent that needs the processor does not hold up the Trainer, one that crashes ends its own attempt, and one that is over its
deadline is killed with everything that it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from agl.errors import WorkerError
from agl.guard import guarded, ready
from agl.loop import run_in_loop
from agl.processes import DRAIN_SECONDS, signal_group, started
from agl.workers.parcel import Parcel
from agl.workers.pool import WorkerExecutor
from agl.workers.remote import Link
from agl.workers.wire import Order
from agl.workers.worker import Worker, load

_HEAD = struct.Struct("!Q")
_STOP = b""
_PROGRAM = "import sys; sys.path[:] = {path!r}; from agl.workers.process import main; main({channel})"


class ProcessExecutor(WorkerExecutor):
    """Runs a run's rollouts in `n_runners` processes of this machine. See `Executor`."""

    name = "process"

    def make_link(self) -> Link:
        ready()
        return ProcessLink()


class ProcessLink(Link):
    """A process, and a pair of sockets to it."""

    def __init__(self) -> None:
        self._held = contextlib.ExitStack()
        self._process: asyncio.subprocess.Process | None = None
        self._size: int | None = None
        """Of the message whose beginning was read."""

    async def open(self, parcel: Parcel) -> None:
        """Start it.

        Raises:
            WorkerError: the system does not let it start.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            program = _PROGRAM.format(path=parcel.preparation["sys_path"], channel=theirs.fileno())
            try:
                # `-P`: what lies in the working directory must not stand in for what Python itself imports.
                self._process = await started(
                    asyncio.create_subprocess_exec(
                        *(sys.executable, "-u", "-P", "-c", program),
                        stdin=asyncio.subprocess.DEVNULL,
                        pass_fds=[theirs.fileno()],
                        start_new_session=True,
                    )
                )
            except BaseException as error:
                ours.close()
                if not isinstance(error, OSError):
                    raise
                raise WorkerError(f"a worker process could not be started: {error}") from error
        self._held.enter_context(guarded(self._process.pid))
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._held.callback(self._writer.close)
        self._watch = asyncio.ensure_future(self._until_dead(self._process))
        self._held.callback(self._watch.cancel)
        await self._send(pickle.dumps(parcel))

    async def _until_dead(self, process: asyncio.subprocess.Process) -> None:
        """When the process is dead its children are, too, and nothing more comes: one that has left the group may hold the channel."""
        await process.wait()
        signal_group(process.pid, signal.SIGKILL)
        await asyncio.sleep(DRAIN_SECONDS)
        self._reader.feed_eof()

    async def _send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # it is gone, which `event` says
            self._writer.write(_HEAD.pack(len(data)) + data)
            await self._writer.drain()

    async def order(self, order: Order) -> None:
        await self._send(pickle.dumps(order))

    async def stop(self) -> None:
        await self._send(_STOP)

    async def event(self) -> bytes:
        try:
            if self._size is None:  # else a caller was cancelled between the two
                (self._size,) = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
            assert self._size is not None
            data, self._size = await self._reader.readexactly(self._size), None
            return data
        except (asyncio.IncompleteReadError, ConnectionError):
            raise WorkerError(f"the worker process {await self._ending()}; the attempt can be made again in another") from None

    async def _ending(self) -> str:
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                code = await self._process.wait()
                return f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code} ({signal.Signals(-code).name})"
        return "closed its channel"

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            signal_group(process.pid, signal.SIGKILL)
            await process.wait()
        self._held.close()


# In the worker.


def main(number: int) -> None:
    """A worker's life: load the agent, run what is ordered, end when the Trainer's process does."""
    os.set_inheritable(number, False)
    channel = _Channel(socket.socket(fileno=number))
    worker = load(pickle.loads(channel.receive()), channel.send)
    if worker is not None:
        run_in_loop(lambda: _serve(channel, worker), lambda line: None)


async def _serve(channel: _Channel, worker: Worker) -> None:
    loop = asyncio.get_running_loop()
    threading.Thread(target=_listen, args=(channel, worker, loop), daemon=True).start()
    worker.ready()
    await loop.create_future()


def _listen(channel: _Channel, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
    """Hand on what is ordered, from a thread: the agent may hold the event loop."""
    while True:
        data = channel.receive()
        act: Callable[[], object] = worker.stop if data == _STOP else lambda order=pickle.loads(data): worker.start(order)
        loop.call_soon_threadsafe(act)


class _Channel:
    """The worker's end: whole messages, from any thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def send(self, data: bytes) -> None:
        with self._lock:
            try:
                self._connection.sendall(_HEAD.pack(len(data)) + data)
            except OSError:
                _die()

    def receive(self) -> bytes:
        (size,) = _HEAD.unpack(self._exactly(_HEAD.size))
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            try:
                part = self._connection.recv(min(size, 2**20))
            except OSError:
                part = b""
            if not part:
                _die()
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _die() -> NoReturn:
    """Nobody is at the other end: nothing that the agent does counts any more."""
    os.killpg(0, signal.SIGKILL)
    os._exit(1)
