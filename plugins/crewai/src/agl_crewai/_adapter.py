"""Recognises crews, flows and agents by name and runs a fresh copy for each attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agl import context
from agl.agents import AgentAdapter, is_instance_of
from agl.errors import ConfigError
from agl.resources import Resources
from agl.rollouts import Rollout
from agl_crewai import _names


def adapt(agent: Any) -> AgentAdapter | None:
    """An adapter for a crew, a flow, a flow's class or an agent; None for anything else.

    Raises:
        ConfigError: it cannot be run as it is; the message says what to give instead.
    """
    if is_instance_of(agent, _names.CREW):
        return CrewAdapter(agent)
    if _names.is_flow_class(agent) or is_instance_of(agent, _names.FLOW):
        return FlowAdapter(agent)
    if is_instance_of(agent, _names.BASE_AGENT, _names.LITE_AGENT):
        return SingleAgentAdapter(agent)
    return None


class CrewAdapter(AgentAdapter):
    """Runs copies of a crew. Its input are the values of its placeholders by name, its output is a `CrewOutput`."""

    name = "crewai"

    def __init__(self, crew: Any) -> None:
        from agl_crewai._copies import pristine_crew

        self._crew = pristine_crew(crew)

    async def run(self, task: Any, resources: Resources, rollout: Rollout) -> Any:
        """Run a copy with `akickoff(inputs=task)`."""
        from crewai.crews.utils import enable_agent_streaming

        from agl_crewai._copies import copy_crew

        inputs = _inputs(task, "a crew")
        crew = copy_crew(self._crew, context.current())
        if crew.stream:  # the answers stay streams; nobody reads the crew's own one
            enable_agent_streaming(crew.agents)
            crew.stream = False
        return await crew.akickoff(inputs=inputs)


class FlowAdapter(AgentAdapter):
    """Runs new objects of a flow. Its input are values for its state by name, or None."""

    name = "crewai"

    def __init__(self, flow: Any) -> None:
        from agl_crewai._flows import Flows

        self._flows = Flows(flow)

    async def run(self, task: Any, resources: Resources, rollout: Rollout) -> Any:
        """Run a new flow with `akickoff(inputs=task)`; gives the output of its last method."""
        inputs = None if task is None else _inputs(task, "a flow")
        flow = self._flows.make()
        flow.stream = False
        return await flow.akickoff(inputs=inputs)


class SingleAgentAdapter(AgentAdapter):
    """Runs copies of one agent without a crew. Its input is a text or a list of messages, its output a `LiteAgentOutput`."""

    name = "crewai"

    def __init__(self, agent: Any) -> None:
        from agl_crewai._copies import pristine_agent

        if not hasattr(agent, "akickoff"):
            raise ConfigError(f"a `{type(agent).__name__}` cannot be run alone; give AGL a `Crew` with it as its agent, and a task")
        self._agent = pristine_agent(agent)

    async def run(self, task: Any, resources: Resources, rollout: Rollout) -> Any:
        """Run a copy with `akickoff(task)`."""
        from agl_crewai._copies import copy_agent

        return await copy_agent(self._agent, context.current()).akickoff(task)


def _inputs(task: Any, what: str) -> dict[str, Any]:
    if not isinstance(task, Mapping):
        raise ConfigError(
            f'{what} takes its inputs by name, given was {task!r}; say which: `agl.agent(…, input=lambda task: {{"topic": task[…]}})`'
        )
    return dict(task)
