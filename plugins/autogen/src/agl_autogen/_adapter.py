"""Recognises agents and teams by name and runs a copy for each attempt."""

from __future__ import annotations

from typing import Any

from agl.agents import AgentAdapter, is_instance_of
from agl.errors import ConfigError
from agl.resources import Resources
from agl.rollouts import Rollout
from agl_autogen import _names
from agl_autogen._streams import stoppable

BUILDER = "autogen_agentchat.teams:DiGraphBuilder"


def adapt(agent: Any) -> AgentAdapter | None:
    """An adapter for an agent or a team, None for anything else.

    Raises:
        ConfigError: it cannot be run as it is; the message says what to give instead.
    """
    if is_instance_of(agent, BUILDER):
        raise ConfigError("a `DiGraphBuilder` is no team yet; give AGL `GraphFlow(participants, builder.build(), …)`")
    return MemberAdapter(agent) if is_instance_of(agent, _names.AGENT, _names.TEAM) else None


class MemberAdapter(AgentAdapter):
    """Runs copies of one agent or team, for many attempts at once."""

    name = "autogen"

    def __init__(self, member: Any) -> None:
        from agl_autogen._copies import Copies

        self._copies = Copies(member)

    async def run(self, task: Any, resources: Resources, rollout: Rollout) -> Any:
        """Run a copy on the framework's own input (a text, a message or a list of them); gives its `TaskResult`."""
        from autogen_core import CancellationToken

        token, member = CancellationToken(), await self._copies.make()
        return await stoppable(member.run(task=task, cancellation_token=token), token.cancel)
