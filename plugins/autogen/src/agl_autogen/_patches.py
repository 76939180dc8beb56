"""The patches: AutoGen's own spans need a recording OpenTelemetry provider, and tell neither who is inside whom nor what was said."""

from __future__ import annotations

from agl.patching import Patch, Patches
from agl_autogen import _watched

_TEAMS = "autogen_agentchat.teams._group_chat"

PATCHES = Patches(
    "autogen",
    [
        Patch("autogen_agentchat.agents:BaseChatAgent.run", "calls carry the agent's role", _watched.agent_run, ("task",)),
        Patch("autogen_agentchat.agents:BaseChatAgent.run_stream", "calls carry the agent's role", _watched.agent_stream, ("task",)),
        Patch(
            "autogen_agentchat.agents:AssistantAgent.on_messages_stream",
            "its tool calls are seen, also when it is called without `run`",
            _watched.assistant_stream,
            ("messages", "cancellation_token"),
        ),
        Patch(
            "autogen_agentchat.teams:BaseGroupChat.run_stream",
            "roles hold the team, and it can be stopped",
            _watched.team_stream,
            ("task",),
        ),
        Patch(
            f"{_TEAMS}._sequential_routed_agent:SequentialRoutedAgent.on_message_impl",
            "calls of members and of the manager carry their roles",
            _watched.member_message,
            ("message", "ctx"),
        ),
        Patch(
            f"{_TEAMS}._chat_agent_container:ChatAgentContainer._log_message",
            "spans of members hold what they say",
            _watched.member_said,
            ("message",),
        ),
        Patch(
            "autogen_core.tools:BaseTool.run_json",
            "tool calls are spans, and sync tools keep their attempt",
            _watched.tool_run,
            ("args", "cancellation_token", "call_id"),
        ),
        Patch(
            "autogen_core.tools:BaseStreamTool.run_json_stream",
            "agents and teams as tools are below their caller",
            _watched.tool_stream,
            ("args", "cancellation_token", "call_id"),
        ),
    ],
    supported="autogen-agentchat>=0.7.5,<0.8",
)
