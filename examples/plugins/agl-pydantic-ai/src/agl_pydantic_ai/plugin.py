"""Hook implementations for Pydantic AI. Importing this module imports no framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import agl

from agl_pydantic_ai._patches import PATCHES

uninstall = PATCHES.undo
"""Takes back what the plugin has put into the process; AGL's kit calls it."""

AGENT = "pydantic_ai.agent:AbstractAgent"


@agl.hookimpl
def agl_adapt_agent(agent: Any) -> agl.AgentAdapter | None:
    """A `pydantic_ai.Agent`, or one that wraps it."""
    return Adapter(agent) if agl.is_instance_of(agent, AGENT) else None


@agl.hookimpl
def agl_trace_rollout() -> None:
    """Record and route every agent run inside the attempt, whoever starts it.

    There is nothing to undo: outside an attempt the patch hands on to the original.
    """
    PATCHES.apply_when_imported()


class Adapter(agl.AgentAdapter):
    """Runs one agent for many attempts at once: Pydantic AI keeps the state of a run in the run, not in the agent."""

    name = "pydantic_ai"

    def __init__(self, agent: Any) -> None:
        self.agent = agent

    async def run(self, task: Any, resources: agl.Resources, rollout: agl.Rollout) -> Any:
        """Run it on a prompt, or on a mapping of arguments of `Agent.run` (`user_prompt`, `deps`, …); gives the run's output."""
        arguments = dict(task) if isinstance(task, Mapping) else {"user_prompt": task}
        # A name would be taken from the variables of this function, and kept by the user's agent.
        result = await self.agent.run(**{"infer_name": False, **arguments})
        return result.output
