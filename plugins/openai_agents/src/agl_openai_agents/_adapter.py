"""Recognises agents by name and runs them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

from agl.agents import AgentAdapter, is_instance_of
from agl.errors import ConfigError
from agl.resources import Resources
from agl.rollouts import Rollout

AGENT = "agents.agent:Agent"
REALTIME = "agents.realtime.agent:RealtimeAgent"
STATE = "agents.run_state:RunState"


def adapt(agent: Any) -> AgentAdapter | None:
    """An adapter for an agent, None for anything else.

    Raises:
        ConfigError: a realtime agent.
    """
    if is_instance_of(agent, REALTIME):
        raise ConfigError(
            f"the realtime agent `{agent.name}` speaks over a connection that lasts, which cannot be led to the attempt; "
            "give an `agents.Agent` with the same instructions and tools to AGL"
        )
    return AgentRun(agent) if is_instance_of(agent, AGENT) else None


class AgentRun(AgentAdapter):
    """Runs one agent for many attempts at once: what a run remembers is in the run, not in the agent."""

    name = "openai_agents"

    def __init__(self, agent: Any) -> None:
        self.agent = agent

    async def run(self, task: Any, resources: Resources, rollout: Rollout) -> Any:
        """Run it with `Runner.run`; gives the SDK's `RunResult`.

        Args:
            task: the input (a text or a list of items), or a mapping with more arguments of `Runner.run`:
                `{"input": …, "context": …, "max_turns": 5}`.
            resources: not looked at; the plugin and the core put them in.
            rollout: not looked at.

        Raises:
            ConfigError: `task` is nothing that the SDK takes.
        """
        from agents import Runner

        return await Runner.run(self.agent, **_arguments(task, Runner))


def _arguments(task: Any, runner: Any) -> dict[str, Any]:
    if isinstance(task, (str, list)) or is_instance_of(task, STATE):
        return {"input": task}
    if not isinstance(task, Mapping):
        raise ConfigError(
            f"an agent of the OpenAI Agents SDK takes a text, a list of items or a mapping of arguments of `Runner.run`, given was "
            f"{task!r:.200}; say which part of a task it gets: `agl.agent(agent, input=lambda task: task[…])`"
        )
    given = cast("dict[str, Any]", dict(task))
    known = [name for name in inspect.signature(runner.run).parameters if name not in ("cls", "starting_agent")]
    unknown = sorted(given.keys() - set(known))
    if unknown or "input" not in given:
        wrong = f"`Runner.run` has no {unknown}" if unknown else "it has no `input`"
        raise ConfigError(f"a mapping given to an agent holds the arguments of `Runner.run`, and {wrong}; they are {known}")
    return given
