"""Processes: one program run to its end with its whole process group, and what it prints, kept within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agl.guard import guarded, ready

KEPT_BYTES = 2**20
"""Bytes kept of each stream of a process: the first and the last half of it."""
GRACE_SECONDS = 2.0
"""From the polite signal to the one that nothing survives."""
DRAIN_SECONDS = 1.0
"""How long what was printed may take to arrive when the group is dead; only a process that left the group can hold it up."""
_CHUNK = 2**16


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A process that has ended."""

    exit_code: int
    """Negative: the signal that ended it."""
    stdout: str
    """What it printed; a text in the middle stands for what is not kept."""
    stderr: str


async def run_process(
    arguments: Sequence[str], *, environment: Mapping[str, str], folder: str | Path | None, stdin: Path, stdout: Path, stderr: Path
) -> Ended:
    """Run a program in a process group of its own; when this returns or is cancelled, nothing of the group is left.

    Args:
        arguments: the program and what it is called with; no shell is between.
        environment: the whole of it.
        folder: its working directory; None for this process's own.
        stdin: file that it reads.
        stdout: file to write what it prints to, as it comes.
        stderr: the same for the other stream.

    Raises:
        OSError: it cannot be started.
    """
    ready()
    with stdin.open("rb") as given, contextlib.closing(_Kept(stdout)) as out, contextlib.closing(_Kept(stderr)) as err:
        process = await started(
            asyncio.create_subprocess_exec(
                *arguments, env=environment, cwd=folder, stdin=given, stdout=out.write_end, stderr=err.write_end, start_new_session=True
            )
        )
        out.close_write_end()
        err.close_write_end()
        try:
            await _ended(process)
        finally:
            await asyncio.wait({out.over, err.over}, timeout=DRAIN_SECONDS)
    assert process.returncode is not None
    return Ended(exit_code=process.returncode, stdout=_text(stdout), stderr=_text(stderr))


async def started(starting: Coroutine[Any, Any, asyncio.subprocess.Process]) -> asyncio.subprocess.Process:
    """The process; where the caller is cancelled meanwhile, none is left."""
    start = asyncio.ensure_future(starting)
    try:
        return await asyncio.shield(start)
    except asyncio.CancelledError:
        process = await start
        signal_group(process.pid, signal.SIGKILL)
        await process.wait()
        raise


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Wait for the end of a process; a caller that is cancelled ends it. Its group dies with it, and with this process."""
    with guarded(process.pid):
        try:
            await process.wait()
        finally:
            try:
                if process.returncode is None:
                    signal_group(process.pid, signal.SIGTERM)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(process.wait(), GRACE_SECONDS)
            finally:
                signal_group(process.pid, signal.SIGKILL)
            await process.wait()


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group, if anybody of it is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left, or only what the system is about to remove
        os.killpg(group, number)


class _Kept:
    """A pipe whose reading end goes to a file: the first half of the limit as it comes, the last half at the end."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = self._loop.create_future()
        """Done when nobody writes any more."""
        self._file = path.open("wb", buffering=0)
        self._room = KEPT_BYTES // 2
        self._tail = bytearray()
        self._left_out = 0
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self._loop.add_reader(self._read_end, self._take)

    def close_write_end(self) -> None:
        """In this process; the program has its own."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def close(self) -> None:
        """Write what is left and let go."""
        self._loop.remove_reader(self._read_end)
        os.close(self._read_end)
        self.close_write_end()
        self._forget()
        if self._left_out:
            self._file.write(f"\n… {self._left_out} bytes are not kept …\n".encode())
        self._file.write(self._tail)
        self._file.close()

    def _take(self) -> None:
        try:
            data = os.read(self._read_end, _CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._read_end)
            self.over.set_result(None)
        if self._room:
            self._file.write(data[: self._room])
        self._tail += data[self._room :]
        self._room = max(0, self._room - len(data))
        if len(self._tail) > 2 * KEPT_BYTES:
            self._forget()

    def _forget(self) -> None:
        surplus = len(self._tail) - KEPT_BYTES // 2
        if surplus > 0:
            del self._tail[:surplus]
            self._left_out += surplus


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")
