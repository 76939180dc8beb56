"""A fresh copy of an agent or a team for each attempt: they keep their history in themselves.

What is live stays shared: the functions behind tools, servers of tools, code executors. Model clients are shared by the
attempts of one event loop: their connections belong to it, and to make one takes longer than to make a team.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import weakref
from collections.abc import AsyncGenerator, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

from agl.agents import is_instance_of
from agl.errors import ConfigError
from agl_autogen import _names
from agl_autogen._names import private

log = logging.getLogger("agl.autogen")

CLIENT = "autogen_core.models:ChatCompletionClient"
REPLAY = "autogen_ext.models.replay:ReplayChatCompletionClient"
CACHE = "autogen_ext.models.cache:ChatCompletionCache"
BENCH = "autogen_core.tools:Workbench"
EXECUTOR = "autogen_core.code_executor:CodeExecutor"
RUNTIME = "autogen_core:SingleThreadedAgentRuntime"
HISTORY = "autogen_core.model_context:ChatCompletionContext"

_LEAVES = (str, bytes, int, float, bool, complex, type(None), type, FunctionType, MethodType, ModuleType)


class Copies:
    """Makes copies of an agent as it was when it was handed over, without what it has said before.

    Raises:
        ConfigError: it cannot be copied; the message says what to do instead.
    """

    def __init__(self, agent: Any) -> None:
        parts = list(_parts(agent))
        self._shared = [part for found in parts for part in _live(found)]
        self._clients = [part for part in self._shared if is_instance_of(part, CLIENT)]
        self._of_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[_Clients]] = weakref.WeakKeyDictionary()
        for team in (part for part in parts if is_instance_of(part, _names.TEAM)):
            if not private(team, "_embedded_runtime"):
                raise ConfigError(
                    f"the team `{team.name}` was made with `runtime=`, which copies of it cannot share; leave that out, or make the "
                    "team inside a function with `@agl.rollout`"
                )
        if any(is_instance_of(part, CACHE) for part in parts):
            log.warning("`%s` has a model client with a cache: an answer from it is not the policy's and is not trained on", agent.name)
        self._pristine = self._copy(agent, {})
        if _forget(self._pristine):
            log.warning("`%s` has been used before; every attempt starts without that conversation", agent.name)

    async def make(self) -> Any:
        """A copy of its own for one attempt, with model clients for the running event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._of_loops:
            self._of_loops[loop] = asyncio.create_task(_opened(self._clients))
        clients = await asyncio.shield(self._of_loops[loop])
        return self._copy(self._pristine, clients.copies)

    def _copy(self, agent: Any, clients: dict[int, Any]) -> Any:
        from autogen_core import SingleThreadedAgentRuntime

        memo: dict[int, Any] = {id(part): part for part in self._shared} | clients
        for team in (part for part in _parts(agent) if is_instance_of(part, _names.TEAM)):
            # As a new team has them: these hold tasks, loops and the user's tracer.
            memo[id(private(team, "_runtime"))] = SingleThreadedAgentRuntime(ignore_unhandled_exceptions=False)
            memo[id(private(team, "_output_message_queue"))] = asyncio.Queue()
        try:
            copied = copy.deepcopy(agent, memo)
        except Exception as error:
            raise ConfigError(
                f"`{agent.name}` cannot be copied for each attempt ({type(error).__name__}: {error}); make it inside a function "
                "instead: `@agl.rollout` and `async def …(task)`, which builds it and calls `run`"
            ) from error
        for team in (part for part in _parts(copied) if is_instance_of(part, _names.TEAM)):
            team._initialized = team._is_running = False
        return copied


class _Clients:
    """Copies of model clients for one event loop, by the id of the original; closed when the loop ends."""

    def __init__(self, copies: dict[int, Any], closing: AsyncGenerator[None]) -> None:
        self.copies, self._closing = copies, closing


async def _opened(clients: list[Any]) -> _Clients:
    """Copy the clients in a thread: each reads the machine's certificates."""
    copies = await asyncio.to_thread(lambda: {id(client): _copied(client) for client in clients})
    closing = _closed_with_the_loop([copies[id(client)] for client in clients if copies[id(client)] is not client])
    await anext(closing)
    return _Clients(copies, closing)


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
        for client in clients:
            await client.close()


def _live(part: Any) -> Iterator[Any]:
    """What copies share of one part."""
    connected = is_instance_of(part, CLIENT, EXECUTOR, BENCH) and not is_instance_of(part, REPLAY, _names.WORKBENCH)
    if connected:
        yield part
    elif is_instance_of(part, _names.FUNCTION_TOOL):
        function = private(part, "_func")
        owner = function.__self__ if isinstance(function, MethodType) else None
        if not is_instance_of(owner, _names.AGENT, _names.TEAM):  # an agent's own method belongs to the copy of the agent
            yield function


def _forget(agent: Any) -> bool:
    """Take the conversations out of an agent's contexts; whether there were any."""
    used = False
    for part in _parts(agent):
        if is_instance_of(part, HISTORY):
            first = list(private(part, "_initial_messages") or ())
            used = used or list(private(part, "_messages")) != first
            part._messages = first
    return used


def _parts(root: Any) -> Iterator[Any]:
    """Every object that a copy of `root` would hold, each once; nothing is looked for inside of what is live."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, _LEAVES):
            continue
        seen.add(id(part))
        yield part
        if not is_instance_of(part, CLIENT, EXECUTOR, RUNTIME):
            waiting.extend(_inner(part))


def _inner(part: Any) -> Iterator[Any]:
    if isinstance(part, dict):
        yield from part.values()
    elif isinstance(part, (list, tuple, set, frozenset)):
        yield from part
    else:
        yield from (getattr(part, "__dict__", None) or {}).values()
