"""Recognises graphs and runnables by name and runs them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from typing import Any

from agl.agents import AgentAdapter, is_instance_of
from agl.errors import ConfigError
from agl.resources import Resources
from agl.rollouts import Rollout

GRAPH = "langgraph.pregel:Pregel"
BUILDER = "langgraph.graph:StateGraph"
REMOTE = "langgraph.pregel.remote:RemoteGraph"
RUNNABLE = "langchain_core.runnables:Runnable"

log = logging.getLogger("agl.langgraph")


def adapt(agent: Any) -> AgentAdapter | None:
    """An adapter for a compiled graph or a runnable, None for anything else.

    Raises:
        ConfigError: a graph that is not compiled, or that runs elsewhere.
    """
    if is_instance_of(agent, REMOTE):
        raise ConfigError(
            "a `RemoteGraph` runs in its server's process, where its calls cannot be led to the attempt; give the graph itself to "
            "AGL, or an `@agl.rollout` function that passes `llm.base_url` and `llm.api_key` on to the server"
        )
    if is_instance_of(agent, BUILDER):
        raise ConfigError(f"a `{type(agent).__name__}` is not compiled yet; give `graph.compile()` to AGL")
    return RunnableAdapter(agent) if is_instance_of(agent, GRAPH, RUNNABLE) else None


class RunnableAdapter(AgentAdapter):
    """Runs one runnable for many attempts at once: graphs keep their state in the thread, not in the object."""

    name = "langgraph"

    def __init__(self, runnable: Any) -> None:
        self.runnable = runnable
        self.checkpointer = _checkpointer_of(runnable)
        self._sync_only: bool | None = None if self.checkpointer else False

    async def run(self, task: Any, resources: Resources, rollout: Rollout) -> Any:
        """Run it on the framework's own input, `task`; nothing is retried."""
        config: dict[str, Any] = {}
        if self.checkpointer is not None:
            config["configurable"] = {"thread_id": uuid.uuid4().hex}
        if self._sync_only is None:
            self._sync_only = await _has_only_sync_methods(self.checkpointer, config)
        try:
            if self._sync_only:
                return await asyncio.to_thread(self.runnable.invoke, task, config)
            return await self.runnable.ainvoke(task, config)
        finally:
            await self._forget(config)

    async def _forget(self, config: Mapping[str, Any]) -> None:
        """Nobody comes back to an attempt's thread, and one per attempt would pile up in the user's checkpointer."""
        if self.checkpointer is None:
            return
        thread_id = config["configurable"]["thread_id"]
        try:
            if self._sync_only:
                await asyncio.to_thread(self.checkpointer.delete_thread, thread_id)
            else:
                await self.checkpointer.adelete_thread(thread_id)
        except Exception as error:
            log.debug("the checkpointer kept thread %s: %r", thread_id, error)


def _checkpointer_of(runnable: Any) -> Any:
    """The checkpointer of a graph, also of one inside a binding or as a step of a chain."""
    if is_instance_of(runnable, GRAPH):
        checkpointer = getattr(runnable, "checkpointer", None)
        return None if isinstance(checkpointer, bool) else checkpointer
    inner = [getattr(runnable, "bound", None), *(getattr(runnable, "steps", None) or ())]
    found = (_checkpointer_of(part) for part in inner if is_instance_of(part, RUNNABLE))
    return next((checkpointer for checkpointer in found if checkpointer is not None), None)


async def _has_only_sync_methods(checkpointer: Any, config: Mapping[str, Any]) -> bool:
    """Ask for a thread that does not exist: what a graph does first, and what a sync checkpointer refuses."""
    try:
        await checkpointer.aget_tuple({"configurable": {**config["configurable"], "checkpoint_ns": ""}})
    except NotImplementedError:
        return True
    return False
