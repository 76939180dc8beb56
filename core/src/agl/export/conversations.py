"""Rollouts as conversations, for fine-tuning on texts: what an LLM was asked and answered, each answer once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from agl.export.calls import Message, answer_of, function_of, messages_of, tool_calls_of, tools_of, with_object_arguments
from agl.results import RolloutResult
from agl.roles import Roles
from agl.spans import SpanStatus
from agl.transitions import call_of


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of an LLM call, as chat."""

    prompt: list[Message]
    answer: Message
    tools: list[dict[str, Any]] | None
    learned: bool
    """Whether its role is one that is learned from."""
    reward: float | None
    """Its own share of the rewards."""


class Conversation(msgspec.Struct, kw_only=True):
    """Exchanges that go on from each other, end to end."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    learned: set[int]
    """Indexes of the messages that were sampled by a role that is learned from, and stand in no conversation before."""


def exchanges_of(result: RolloutResult, roles: Roles) -> list[Exchange]:
    """The answered chat calls of a rollout, in their order. Failed calls, and those that the client tried again, are left out."""
    spans = {span.span_id: span for span in result.spans}
    last_try = {call_id: item.span_id for item in result.transitions if (call_id := spans[item.span_id].attributes.get("agl.call_id"))}
    found: list[Exchange] = []
    for item in result.transitions:
        span = spans[item.span_id]
        call = call_of(span)
        if call is None or span.status != SpanStatus.OK or last_try.get(span.attributes.get("agl.call_id"), item.span_id) != item.span_id:
            continue
        prompt, answer = messages_of(call), answer_of(call, item.choice)
        if prompt and answer is not None and (answer.get("content") or answer.get("tool_calls")):
            learned = roles.why_not(item.role) is None
            found.append(Exchange(prompt=prompt, answer=answer, tools=tools_of(call), learned=learned, reward=item.reward))
    return found


def conversations_of(exchanges: Sequence[Exchange]) -> list[Conversation]:
    """Each exchange goes on in the longest conversation that its prompt begins with; a fork has one of its own.

    So every learned answer is learned in exactly one conversation.
    """
    made: list[Conversation] = []
    for exchange in exchanges:
        before = [item for item in made if item.tools == exchange.tools and _begins(exchange.prompt, item.messages)]
        longest = max(before, key=lambda item: len(item.messages), default=None)
        if longest is None:
            longest = Conversation(messages=[], tools=exchange.tools, learned=set())
            made.append(longest)
        if exchange.learned:
            longest.learned.add(len(exchange.prompt))
        # What was sampled stays as it was, however the client wrote it when it sent it again.
        since = exchange.prompt[len(longest.messages) :]
        longest.messages = [*longest.messages, *since, {"role": "assistant", **exchange.answer}]
    return made


def _begins(prompt: Sequence[Message], with_: Sequence[Message]) -> bool:
    return len(with_) <= len(prompt) and all(_said(a) == _said(b) for a, b in zip(prompt, with_, strict=False))


def _said(message: Message) -> tuple[Any, ...]:
    """What a message says, however a client writes it when it sends it again."""
    calls = map(with_object_arguments, tool_calls_of(message))
    called = [(call.get("id"), function_of(call).get("name"), function_of(call).get("arguments")) for call in calls]
    return message.get("role", "assistant"), message.get("content") or None, called, message.get("tool_call_id")
