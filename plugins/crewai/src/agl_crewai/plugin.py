"""Hook implementations for CrewAI. Importing this module imports no framework."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from agl.agents import AgentAdapter
from agl.context import ActiveAttempt
from agl.hookspecs import hookimpl
from agl.resources import PromptTemplate
from agl_crewai import _activation, _adapter, _prompts, _tracing


@hookimpl
def agl_adapt_agent(agent: Any) -> AgentAdapter | None:
    """Crews, flows (objects and classes) and single agents."""
    return _adapter.adapt(agent)


@hookimpl
def agl_list_prompts(agent: Any) -> Mapping[str, PromptTemplate] | None:
    """Goals, backstories, task texts and tool descriptions; None for a flow, which makes its agents when it runs."""
    return _prompts.list_prompts(agent)


@hookimpl
def agl_trace_rollout(attempt: ActiveAttempt) -> AbstractContextManager[Any]:
    """Record every crew, task, agent, tool and flow inside the attempt, whoever starts it."""
    _activation.watch()
    return _tracing.traced(attempt)


def uninstall() -> None:
    """Give CrewAI its own functions back; the next attempt patches it again."""
    _activation.uninstall()
