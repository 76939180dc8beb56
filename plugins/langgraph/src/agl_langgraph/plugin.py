"""Hook implementations for LangGraph and LangChain. Importing this module imports no framework."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from agl.agents import AgentAdapter
from agl.context import ActiveAttempt
from agl.hookspecs import hookimpl
from agl.resources import PromptTemplate
from agl_langgraph import _activation, _adapter, _prompts, _tracing


@hookimpl
def agl_adapt_agent(agent: Any) -> AgentAdapter | None:
    """Compiled graphs and LangChain runnables; a graph that is not compiled is refused."""
    return _adapter.adapt(agent)


@hookimpl
def agl_list_prompts(agent: Any) -> dict[str, PromptTemplate] | None:
    """System prompts and tool descriptions of `create_agent`, also in graphs around it; those of other nodes are not known."""
    return _prompts.list_prompts(agent)


@hookimpl
def agl_trace_rollout(attempt: ActiveAttempt) -> AbstractContextManager[Any]:
    """Record every LangChain run inside the attempt, whoever starts it."""
    _activation.watch()
    return _tracing.traced(attempt)


@hookimpl
def agl_callback_handler(framework: str) -> Any:
    """The handler of the current attempt, or one that does nothing outside of one."""
    if framework not in ("langchain", "langgraph"):
        return None
    from agl_langgraph._handler import current_handler

    return current_handler()


def uninstall() -> None:
    """Take back what attempts have left in LangChain: a hook that does nothing outside of one. Call it between attempts."""
    _activation.unwatch()
