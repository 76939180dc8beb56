"""Hook implementations for the OpenAI Agents SDK. Importing this module imports no framework."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from agl.agents import AgentAdapter
from agl.context import ActiveAttempt
from agl.hookspecs import hookimpl
from agl.resources import PromptTemplate
from agl_openai_agents import _activation, _adapter, _prompts, _runs


@hookimpl
def agl_adapt_agent(agent: Any) -> AgentAdapter | None:
    """`agents.Agent` and classes derived from it."""
    return _adapter.adapt(agent)


@hookimpl
def agl_list_prompts(agent: Any) -> Mapping[str, PromptTemplate] | None:
    """Static instructions and tool descriptions of an agent, and of all that it can hand over to or use as a tool."""
    return _prompts.list_prompts(agent)


@hookimpl
def agl_trace_rollout(attempt: ActiveAttempt) -> AbstractContextManager[Any]:
    """Record every run of the SDK inside the attempt, whoever starts it, and lead its models to the attempt."""
    _activation.watch()
    return _runs.traced(attempt)


def uninstall() -> None:
    """Give the SDK its own methods back; the next attempt patches it again. Call it between attempts."""
    _activation.uninstall()
