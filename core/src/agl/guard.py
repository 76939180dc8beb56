"""Guard: a small process that outlives this one for a moment, and ends the process groups that it has left behind.

Nothing in a process can run when it is killed with SIGKILL, or dies in a library. The guard reads from a pipe whose other end this
process alone holds: the system closes it, however the process ends. It works wherever there are pipes and process groups.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from typing import IO

_SCRIPT = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""
_guard: subprocess.Popen[bytes] | None = None
_lock = threading.Lock()


def ready() -> None:
    """Start the guard, where it is not at work: what begins after this is told to it without delay."""
    with _lock:
        _stdin()


@contextlib.contextmanager
def guarded(group: int) -> Generator[None]:
    """While the block runs, the death of this process ends that process group, too."""
    _tell(f"+{group}\n")
    try:
        yield
    finally:
        _tell(f"-{group}\n")


def _tell(line: str) -> None:
    with _lock, contextlib.suppress(BrokenPipeError):  # somebody has ended the guard: the groups are as safe as without it
        _stdin().write(line.encode())


def _stdin() -> IO[bytes]:
    global _guard
    if _guard is None:
        _guard = _started()
        atexit.register(_end)
    assert _guard.stdin is not None
    return _guard.stdin


def _started() -> subprocess.Popen[bytes]:
    # In a session of its own, so that Ctrl-C in a terminal leaves it at work.
    command = [sys.executable, "-I", "-S", "-c", _SCRIPT]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0, cwd=os.sep, start_new_session=True)


def _end() -> None:
    """Close the pipe: the guard ends what is left, and itself."""
    global _guard
    if _guard is not None:
        with _guard as ended:
            _guard = None
            ended.communicate()


def _forget() -> None:
    """In a forked child: the pipe is its parent's, and would not be closed with the parent while the child has it."""
    global _guard, _lock
    if _guard is not None and _guard.stdin is not None:
        _guard.stdin.close()
        _guard.returncode = 0  # it is no child of this process
    _guard, _lock = None, threading.Lock()  # another thread may have held it in the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
