"""A place of its own for a check: empty folders for everything that code writes, and no way to the network."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Generator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast
from unittest import mock

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_ELSEWHERE = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "NO_PROXY")
_watching: list[list[str]] = []
"""Lists of what was reached for; the audit hook below fills the last one, and without one does nothing."""


class Place:
    """Folders of one check.

    Args:
        folder: an empty one.
        reached: what the check tried to reach beyond this machine.
    """

    def __init__(self, folder: Path, reached: list[str]) -> None:
        self.reached, self._folder = reached, folder
        self.given, self._runs, self.home, self.working, self.temporary = (
            folder / name for name in ("given", "runs", "home", "working", "tmp")
        )
        for path in (self.given, self._runs, self.home, self.working, self.temporary):
            path.mkdir()

    def directory(self, run_id: str) -> Path:
        """A run's own directory, as the Trainer makes it."""
        found = self._runs / run_id
        found.mkdir(exist_ok=True)
        return found

    def strays(self, known: tuple[str, ...]) -> list[str]:
        """Files in the working directory, the home and the temporary folder, without those in the home that match a pattern."""
        found: list[str] = []
        for root, name in ((self.working, "."), (self.home, "~"), (self.temporary, "$TMPDIR")):
            for path in sorted(root.rglob("*")):
                inside = path.relative_to(root).as_posix()
                if path.is_file() and not (root == self.home and any(fnmatch(inside, pattern) for pattern in known)):
                    found.append(f"{name}/{inside}")
        return found


@contextlib.contextmanager
def secluded(variables: Mapping[str, str]) -> Generator[Place]:
    """Work in empty folders, with these variables set. Connections beyond this machine are refused and noted in `Place.reached`.

    Python's own are seen by an audit hook; those of other processes where they honour the usual variables for a proxy, as clients in Go
    and libcurl do.
    """
    reached: list[str] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, _proxy(reached) as proxy:
        place = Place(Path(folder).resolve(), reached)
        told = {name: proxy for upper in _PROXIES for name in (upper, upper.lower())}
        told |= {"HOME": str(place.home), "TMPDIR": str(place.temporary), **variables}
        kept = {name: value for name, value in os.environ.items() if name.upper() not in _ELSEWHERE}
        with (
            mock.patch.dict(os.environ, {**kept, **told}, clear=True),
            mock.patch.object(tempfile, "tempdir", None),
            mock.patch.object(urllib.request, "_opener", None),  # which keeps the proxies of the process's first request for all others
            contextlib.chdir(place.working),
            _watched(reached),
        ):
            yield place


def running_processes() -> dict[int, str]:
    """Processes below this one, by id, with their command; none where the system has no `/proc`."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    return {pid: _command(pid) for pid in parents if os.getpid() in _above(pid, parents)}


def processes_left(before: Mapping[int, str], seconds: float = 5.0) -> list[str]:
    """Commands of processes below this one that were not there before, and are still there after `seconds`."""
    until = time.monotonic() + seconds
    while found := {pid: command for pid, command in running_processes().items() if pid not in before}:
        if time.monotonic() > until:
            return list(found.values())
        time.sleep(0.02)
    return []


def _above(pid: int, parents: Mapping[int, int]) -> list[int]:
    found: list[int] = []
    while (pid := parents.get(pid, 0)) and pid not in found:
        found.append(pid)
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return str(pid)


@contextlib.contextmanager
def _proxy(reached: list[str]) -> Generator[str]:
    """The URL of a proxy that notes what is asked of it, and gives nothing."""
    listener = socket.create_server(("127.0.0.1", 0))

    def note() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # it is closed
                return
            with connection:
                connection.settimeout(1.0)
                with contextlib.suppress(OSError):
                    reached.append(connection.recv(1000).split(b"\r\n")[0].decode(errors="replace") or "the proxy")
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    thread = threading.Thread(target=note, name="agl-loop-proxy", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        with contextlib.suppress(OSError):  # wakes `accept`, which `close` alone does not
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(2.0)


@contextlib.contextmanager
def _watched(reached: list[str]) -> Generator[None]:
    _hook()
    _watching.append(reached)
    try:
        yield
    finally:
        _watching.remove(reached)


@functools.cache
def _hook() -> None:
    sys.addaudithook(_audit)  # Python cannot take it away again: it is one for all checks, and idle between them


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching or event not in ("socket.connect", "socket.getaddrinfo"):
        return
    address: Any = arguments[1] if event == "socket.connect" else arguments
    host: Any = cast("tuple[Any, ...]", address)[0] if isinstance(address, tuple) else None  # else it is the path of a socket here
    if host is not None and not _is_here(host):
        _watching[-1].append(str(host))
        raise ConnectionRefusedError(f"the kit lets nobody reach {host!r}")


def _is_here(host: Any) -> bool:
    name = host.decode(errors="replace") if isinstance(host, bytes) else str(host)
    if name in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False
