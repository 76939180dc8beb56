"""Fixtures for tests of agents and plugins, there for everyone who has pytest and agl-core: nothing is imported until one is used."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from agl.plugins import Plugins
    from agl.testing.memory import MemoryStore
    from agl.testing.scripted import ScriptedServer


@pytest.fixture
def agl_plugins() -> Callable[..., Plugins]:
    """Makes `agl.plugins.Plugins` of the plugins given and the core's own: `agl_plugins(MyPlugin())`; what is installed plays no part."""
    from agl.plugins import Plugins
    from agl.testing.bench import BUILT_IN

    def make(*plugins: Any) -> Plugins:
        return Plugins([*plugins, *(built for built in BUILT_IN if built not in plugins)], discover=False)

    return make


@pytest.fixture
def memory_store(tmp_path: Path) -> Iterator[MemoryStore]:
    """An empty store in memory, closed after the test; files of its runs go below the test's own folder."""
    from agl.testing.memory import MemoryStore

    store = MemoryStore(tmp_path / ".agl")
    yield store
    store.close()


@pytest.fixture
def scripted_llm() -> Iterator[ScriptedServer]:
    """A running scripted server, in a thread: set `scripted_llm.answer`, give `scripted_llm.llm()` to the agent, read `.requests`."""
    from agl.testing.scripted import ScriptedServer

    with ScriptedServer() as server:
        yield server


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Refuses connections and look-ups of names beyond this machine; its value is the list of what was refused.

    Code that goes past Python's `socket` (uvloop, libraries in C) is not seen.
    """
    refused: list[str] = []

    def check(host: object) -> None:
        if not _is_here(host):
            refused.append(str(host))
            raise ConnectionRefusedError(f"the fixture `no_network` refuses {host!r}; start what the test needs on 127.0.0.1")

    def connecting(original: Callable[..., Any]) -> Callable[..., Any]:
        def connect(self: socket.socket, address: Any, /) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                check(address[0])
            return original(self, address)

        return connect

    original_lookup = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        check(host)
        return original_lookup(host, *args, **kwargs)

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, connecting(getattr(socket.socket, name)))
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return refused


def _is_here(host: object) -> bool:
    name = host.decode(errors="replace") if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(name).partition("%")[0]).is_loopback
    except ValueError:
        return False
