"""Model clients of an agent, copied once for each event loop: their connections belong to the loop that they were made in."""

from __future__ import annotations

import asyncio
import copy
import logging
import weakref
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from agl.agents import is_instance_of

log = logging.getLogger("agl.autogen")

CLIENT = "autogen_core.models:ChatCompletionClient"
REPLAY = "autogen_ext.models.replay:ReplayChatCompletionClient"
CACHE = "autogen_ext.models.cache:ChatCompletionCache"

_open: dict[int, AsyncGenerator[None]] = {}
"""What closes clients, by the id of their list, until their loop ends."""


class Clients:
    """The clients that the attempts of one event loop share; a user's own loop and those of two runs never do."""

    def __init__(self, clients: Sequence[Any]) -> None:
        self._clients = list(clients)
        self._of_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[dict[int, Any]]] = weakref.WeakKeyDictionary()

    async def of_this_loop(self) -> dict[int, Any]:
        """Copies by the id of the original."""
        loop = asyncio.get_running_loop()
        if loop not in self._of_loops:
            self._of_loops[loop] = asyncio.create_task(_copies(self._clients))
        return await asyncio.shield(self._of_loops[loop])  # who is stopped here stops nobody else


async def _copies(clients: Sequence[Any]) -> dict[int, Any]:
    copies = await asyncio.to_thread(lambda: {id(client): _copied(client) for client in clients})  # each reads certificates
    made = [copies[id(client)] for client in clients if copies[id(client)] is not client]
    _open[id(made)] = closing = _closed_with_the_loop(made)
    await anext(closing)
    return copies


def _copied(client: Any) -> Any:
    """A client of its own; one that cannot be copied, or that answers from a cache, is used as it is."""
    if is_instance_of(client, CACHE):
        return client
    try:
        return copy.deepcopy(client)
    except Exception as error:
        log.debug("a %s cannot be copied: %r", type(client).__name__, error)
        return client


async def _closed_with_the_loop(clients: list[Any]) -> AsyncGenerator[None]:
    """A loop that ends closes its generators, and with this one the connections."""
    try:
        yield
    finally:
        del _open[id(clients)]
        for client in clients:
            await client.close()
