"""A fresh copy of an agent or a team for each attempt: they keep their history in themselves.

What is live stays shared: the functions behind tools, servers of tools, code executors. Model clients are shared by the
attempts of one event loop: their connections belong to it, and to make one takes longer than to make a team.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

from agl.agents import is_instance_of
from agl.errors import ConfigError
from agl_autogen import _names
from agl_autogen._clients import CACHE, CLIENT, REPLAY, Clients
from agl_autogen._names import private

log = logging.getLogger("agl.autogen")

BENCH = "autogen_core.tools:Workbench"
EXECUTOR = "autogen_core.code_executor:CodeExecutor"
SDK = ("openai:OpenAI", "openai:AsyncOpenAI")
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
        _check(agent, parts)
        self._shared = [part for found in parts for part in _live(found)]
        self._clients = Clients([part for part in self._shared if is_instance_of(part, CLIENT)])
        self._pristine = self._copy(agent, {})
        if _forget(self._pristine):
            log.warning("`%s` has been used before; every attempt starts without that conversation", agent.name)

    async def make(self) -> Any:
        """A copy of its own for one attempt, with model clients for the running event loop."""
        return self._copy(self._pristine, await self._clients.of_this_loop())

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


def _check(agent: Any, parts: list[Any]) -> None:
    """Refuse what no copy can have, and warn of what copies would share."""
    for part in parts:
        if is_instance_of(part, _names.TEAM) and not private(part, "_embedded_runtime"):
            raise ConfigError(
                f"the team `{part.name}` was made with `runtime=`, which copies of it cannot share; leave that out, or make the "
                "team inside a function with `@agl.rollout`"
            )
        if is_instance_of(part, CACHE):
            log.warning("`%s` has a model client with a cache: an answer from it is not the policy's and is not trained on", agent.name)
        if is_instance_of(part, _names.FUNCTION_TOOL) and (inner := _agent_in(private(part, "_func"))):
            log.warning(
                "the tool `%s` is a function that uses `%s`, whose conversation all attempts then share; give `AgentTool` or "
                "`TeamTool` instead, or make that agent inside the function",
                part.name,
                inner,
            )


def _live(part: Any) -> Iterator[Any]:
    """What copies share of one part."""
    connected = is_instance_of(part, CLIENT, EXECUTOR, BENCH, *SDK) and not is_instance_of(part, REPLAY, _names.WORKBENCH)
    if connected:
        yield part
    elif is_instance_of(part, _names.FUNCTION_TOOL):
        function = private(part, "_func")
        owner = function.__self__ if isinstance(function, MethodType) else None
        if not is_instance_of(owner, _names.AGENT, _names.TEAM):  # an agent's own method belongs to the copy of the agent
            yield function


def _agent_in(function: Any) -> str | None:
    """Name of an agent or a team that a function takes from around itself."""
    if not isinstance(function, FunctionType):
        return None
    try:
        used = inspect.getclosurevars(function)
    except ValueError:  # it uses what is not there yet
        return None
    held = [*used.nonlocals.values(), *used.globals.values()]
    return next((value.name for value in held if is_instance_of(value, _names.AGENT, _names.TEAM)), None)


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
        if not is_instance_of(part, CLIENT, EXECUTOR, RUNTIME, *SDK):
            waiting.extend(_inner(part))


def _inner(part: Any) -> Iterator[Any]:
    if isinstance(part, dict):
        yield from part.values()
    elif isinstance(part, (list, tuple, set, frozenset)):
        yield from part
    else:
        yield from (getattr(part, "__dict__", None) or {}).values()
