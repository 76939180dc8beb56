"""What stands in place of AutoGen's own methods: inside an attempt they are runs of its trace, outside they are as before."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Callable
from typing import Any

from agl import context
from agl.agents import is_instance_of
from agl.context import ContextExecutor
from agl.spans import SpanKind, SpanStatus
from agl_autogen import _names
from agl_autogen._prompts import put_in
from agl_autogen._streams import ended, followed, in_a_task
from agl_autogen._tracing import Run, Trace, current_run, current_trace, joined
from agl_autogen._values import told

_MESSAGES = "autogen_agentchat.messages"
_ASKED_OF_MANAGERS = frozenset({"GroupChatStart", "GroupChatAgentResponse", "GroupChatTeamResponse"})
"""Messages upon which a manager decides who speaks next."""

_elsewhere: dict[str, Run] = {}
"""Runs of teams whose members work in a runtime that was started outside of the attempt, by the team's id."""
_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def agent_run(original: Callable[..., Any]) -> Callable[..., Any]:
    """`BaseChatAgent.run`."""

    async def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        trace = current_trace()
        if trace is None:
            return await original(self, *args, **kwargs)
        own = _start_agent(trace, self, kwargs.get("task"))
        result = await _inside(own, original, self, *args, **kwargs)
        for message in result.messages:
            _said(own, message)
        ended(own)
        return result

    return run


def agent_stream(original: Callable[..., Any]) -> Callable[..., Any]:
    """`BaseChatAgent.run_stream`."""

    def run_stream(self: Any, *args: Any, **kwargs: Any) -> Any:
        trace, stream = current_trace(), original(self, *args, **kwargs)
        return stream if trace is None else _agent_stream(trace, self, stream, kwargs.get("task"))

    return run_stream


def assistant_stream(original: Callable[..., Any]) -> Callable[..., Any]:
    """`AssistantAgent.on_messages_stream`, which user code may call without `run`."""

    def on_messages_stream(self: Any, messages: Any, cancellation_token: Any) -> Any:
        trace, stream = current_trace(), original(self, messages, cancellation_token)
        return stream if trace is None else _agent_stream(trace, self, stream, messages)

    return on_messages_stream


async def _agent_stream(trace: Trace, agent: Any, stream: Any, given: Any) -> Any:
    outer = current_run()
    if outer is not None and outer.subject is agent:  # it is being run already, and says here what it does
        async with contextlib.aclosing(stream) as items:
            async for item in items:
                _said(outer, item)
                yield item
        return
    run = _start_agent(trace, agent, given)
    with put_in(agent, run.role, trace.attempt):
        async with contextlib.aclosing(followed(run, stream, lambda item: _said(run, item))) as items:
            async for item in items:
                yield item


def team_stream(original: Callable[..., Any]) -> Callable[..., Any]:
    """`BaseGroupChat.run_stream`, which `run` calls, too."""

    def run_stream(self: Any, *args: Any, **kwargs: Any) -> Any:
        trace, stream = current_trace(), original(self, *args, **kwargs)
        return stream if trace is None else _team_stream(trace, self, stream, kwargs.get("task"))

    return run_stream


async def _team_stream(trace: Trace, team: Any, stream: Any, given: Any) -> Any:
    team_id = str(_names.private(team, "_team_id"))
    about = {"gen_ai.operation.name": "invoke_agent", "agl.autogen.team_id": team_id, "agl.input": told(given)}
    run = trace.start(SpanKind.AGENT, team.name, about, subject=team)
    if not _names.private(team, "_embedded_runtime"):
        _elsewhere[team_id] = run
    try:
        async with contextlib.aclosing(followed(run, stream, lambda item: _team_said(run, item), in_a_task)) as items:
            async for item in items:
                yield item
    finally:
        if _elsewhere.get(team_id) is run:
            del _elsewhere[team_id]


def _team_said(run: Run, item: Any) -> None:
    if is_instance_of(item, "autogen_agentchat.base:TaskResult"):
        last = item.messages[-1] if item.messages else None
        run.attributes |= {
            "agl.output": told(last),
            "agl.autogen.stop_reason": item.stop_reason,
            "agl.autogen.messages": len(item.messages),
        }


def member_message(original: Callable[..., Any]) -> Callable[..., Any]:
    """`SequentialRoutedAgent.on_message_impl`: what a team's members and its manager are asked, in the team's runtime."""

    async def on_message_impl(self: Any, message: Any, ctx: Any) -> Any:
        outside = _elsewhere.get(self.id.key) if _elsewhere and current_trace() is None else None
        with joined(outside) if outside is not None else contextlib.nullcontext():
            run = _start_member(self, type(message).__name__)
            if run is None:
                return await original(self, message, ctx)
            result = await _inside(run, original, self, message, ctx)
            if run.subject is self:  # a manager: whom has it chosen?
                run.attributes["agl.output"] = list(getattr(self, "_active_speakers", ()))
            ended(run)
            return result

    return on_message_impl


def _start_member(member: Any, message: str) -> Run | None:
    trace = current_trace()
    if trace is None:
        return None
    if message == "GroupChatRequestPublish" and is_instance_of(member, _names.CONTAINER):
        agent = _names.private(member, "_agent")
        heard = list(_names.private(member, "_message_buffer"))
        return None if is_instance_of(agent, _names.TEAM) else _start_agent(trace, agent, heard, str(member.id))
    if message in _ASKED_OF_MANAGERS and is_instance_of(member, _names.MANAGER) and hasattr(member, "_model_client"):
        name = str(_names.private(member, "_name"))
        return trace.start(SpanKind.NODE, name, {"gen_ai.agent.id": str(member.id)}, subject=member)
    return None


def member_said(original: Callable[..., Any]) -> Callable[..., Any]:
    """`ChatAgentContainer._log_message`: everything that a member of a team says."""

    async def _log_message(self: Any, message: Any) -> Any:
        run = current_run()
        if run is not None and run.subject is _names.private(self, "_agent"):
            _said(run, message)
        return await original(self, message)

    return _log_message


def tool_run(original: Callable[..., Any]) -> Callable[..., Any]:
    """`BaseTool.run_json`."""

    async def run_json(self: Any, args: Any, cancellation_token: Any, call_id: str | None = None) -> Any:
        trace = current_trace()
        if trace is None:
            return await original(self, args, cancellation_token, call_id=call_id)
        _keep_context_in_threads()
        run = _start_tool(trace, self, args, call_id)
        result = await _inside(run, original, self, args, cancellation_token, call_id=call_id)
        ended(run, None, **{"gen_ai.tool.call.result": told(result)})
        return result

    return run_json


def tool_stream(original: Callable[..., Any]) -> Callable[..., Any]:
    """`BaseStreamTool.run_json_stream`: agents and teams as tools."""

    def run_json_stream(self: Any, args: Any, cancellation_token: Any, call_id: str | None = None) -> Any:
        trace, stream = current_trace(), original(self, args, cancellation_token, call_id=call_id)
        return stream if trace is None else _tool_stream(trace, self, stream, args, call_id)

    return run_json_stream


async def _tool_stream(trace: Trace, tool: Any, stream: Any, args: Any, call_id: str | None) -> Any:
    run = _start_tool(trace, tool, args, call_id)

    def see(item: Any) -> None:
        if not is_instance_of(item, f"{_MESSAGES}:BaseMessage"):  # the last item; those before are messages from below
            run.attributes["gen_ai.tool.call.result"] = told(item)

    async with contextlib.aclosing(followed(run, stream, see)) as items:
        async for item in items:
            yield item


async def _inside(run: Run, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the framework's own method gives, called inside a run; a failure ends the run."""
    try:
        with run, put_in(run.subject, run.role, run.trace.attempt):
            return await original(*args, **kwargs)
    except BaseException as error:
        ended(run, error)
        raise


def _start_agent(trace: Trace, agent: Any, given: Any, agent_id: str | None = None) -> Run:
    about = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": agent.name,
        "gen_ai.agent.id": agent_id,
        "agl.input": told(given),
    }
    return trace.start(SpanKind.AGENT, agent.name, about, subject=agent)


def _start_tool(trace: Trace, tool: Any, args: Any, call_id: str | None) -> Run:
    outer = current_run()
    about = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": tool.name,
        "gen_ai.tool.call.id": call_id,
        "gen_ai.tool.call.arguments": told(args),
    }
    if outer is not None:
        outer.seen.add(str(call_id))
        if outer.span_id in trace.attempt.call_spans:  # rewards of the tool belong to the call that asked for it
            context.set_call(outer.span_id)
    return trace.start(SpanKind.TOOL, tool.name, about, named=False, subject=tool)


def _said(run: Run, item: Any) -> None:
    """Note what an agent says: its answer, its handoffs, and the tool calls that nobody has seen running."""
    kind = type(item).__name__
    if kind == "ModelClientStreamingChunkEvent":
        return
    message = item.chat_message if kind == "Response" else item
    if kind != "Response" and getattr(message, "source", None) != run.subject.name:  # of an agent below, on its way up
        return
    if is_instance_of(message, f"{_MESSAGES}:BaseChatMessage"):
        run.attributes["agl.output"] = told(message)
        if is_instance_of(message, f"{_MESSAGES}:HandoffMessage") and message.id not in run.seen:
            run.seen.add(message.id)
            about = {"agl.handoff.source": message.source, "agl.handoff.target": message.target, "agl.output": message.content}
            run.trace.add(run, SpanKind.OPERATION, f"handoff to {message.target}", time.time(), about)
    elif kind == "ToolCallRequestEvent":
        run.asked_at = time.time()
        run.asked |= {call.id: call.arguments for call in message.content}
    elif kind == "ToolCallExecutionEvent":
        for result in message.content:
            if result.call_id not in run.seen:
                run.seen.add(result.call_id)
                _add_tool(run, result)


def _add_tool(run: Run, result: Any) -> None:
    """A tool call that ran on a server, or that was refused: only its result is known."""
    about = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": result.name,
        "gen_ai.tool.call.id": result.call_id,
        "gen_ai.tool.call.arguments": told(run.asked.get(result.call_id)),
        "gen_ai.tool.call.result": told(result.content),
    }
    status, error = (SpanStatus.ERROR, str(result.content)[:2000]) if result.is_error else (SpanStatus.OK, None)
    run.trace.add(run, SpanKind.TOOL, result.name, run.asked_at, about, status=status, error=error)


def _keep_context_in_threads() -> None:
    """Sync tools run in the loop's own threads, which lose the attempt in a loop that the user has started."""
    loop = asyncio.get_running_loop()
    if loop not in _loops:
        _loops.add(loop)
        if not isinstance(getattr(loop, "_default_executor", None), ContextExecutor):
            loop.set_default_executor(ContextExecutor())
