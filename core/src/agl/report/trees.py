"""A rollout as a page shows it: its spans as a tree, with texts, tokens, rewards and what is learned from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from agl.results import RolloutResult
from agl.rewards import Reward
from agl.roles import Roles
from agl.spans import LLMCall, Span, SpanKind, SpanStatus
from agl.transitions import Transition, call_of, transitions_of

TEXT_LIMIT = 20_000
"""Characters of one text that a page holds; the store has the rest."""
COMPACT = 140
"""Characters of a JSON value that stands on one line."""
_OF_A_PLUGIN = re.compile(r"^agl\.\w+\.")
"""Names under which plugins keep their own records, which say nothing to a reader."""
_PREFIX = re.compile(r"^(agl|gen_ai(\.tool(\.call)?)?)\.(?=\w+$)")


class Message(msgspec.Struct, frozen=True):
    """A text and who says it."""

    role: str
    text: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One sampled answer of a call."""

    text: str
    finish_reason: str | None
    tokens: int | None
    """None when the endpoint does not tell."""
    untrained: str | None
    """Why AGL does not learn from such a call; None when it does."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One span."""

    kind: str
    name: str
    role: str | None
    seconds: float
    status: str
    error: str | None
    prompt: tuple[Message, ...] = ()
    prompt_tokens: int | None = None
    answers: tuple[Answer, ...] = ()
    details: tuple[Message, ...] = ()
    """What else its attributes say."""
    rewards: tuple[Reward, ...] = ()
    children: tuple[Node, ...] = ()


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout."""

    rollout_id: str
    step: int
    version: int
    reward: float | None
    failure: str | None
    error: str | None
    seconds: float | None
    output: str | None
    """None when the agent returned nothing but its reward."""
    rewards: tuple[Reward, ...]
    """Those that belong to no span that is shown."""
    nodes: tuple[Node, ...]
    calls: int


def view(result: RolloutResult, roles: Roles) -> RolloutView:
    """A rollout's tree; `roles` is the run's, for what is learned from."""
    learned: dict[str, list[Transition]] = {}
    for item in transitions_of(result.spans, roles.why_not):
        learned.setdefault(item.span_id, []).append(item)
    known = {span.span_id for span in result.spans}
    children: dict[str | None, list[Span]] = {}
    for span in sorted(result.spans, key=lambda span: span.started_at):
        children.setdefault(span.parent_id if span.parent_id in known else None, []).append(span)
    attempt = result.rollout.attempt
    return RolloutView(
        rollout_id=result.rollout.rollout_id,
        step=result.rollout.step,
        version=result.rollout.resources_version,
        reward=result.reward,
        failure=str(result.failure) if result.failure else None,
        error=_cut(attempt.error.strip()) if attempt and attempt.error else None,
        seconds=attempt.ended_at - attempt.started_at if attempt and attempt.ended_at else None,
        output=None if result.output is None or result.output == result.reward else text_of(result.output),
        rewards=tuple(reward for reward in result.rewards if reward.span_id not in known),
        nodes=_nodes(children.get(None, []), children, result, learned),
        calls=sum(span.kind == SpanKind.LLM for span in result.spans),
    )


def _nodes(
    spans: Sequence[Span],
    children: Mapping[str | None, list[Span]],
    result: RolloutResult,
    learned: Mapping[str, list[Transition]],
) -> tuple[Node, ...]:
    nodes: list[Node] = []
    for span in spans:
        inner = _nodes(children.get(span.span_id, []), children, result, learned)
        node = _node(span, result, inner, learned.get(span.span_id, []))
        # A framework's view of a call says again what the call below it says.
        nodes.extend(inner if _repeats(span, node) else [node])
    return tuple(nodes)


def _repeats(span: Span, node: Node) -> bool:
    calls = bool(node.children) and all(child.kind == SpanKind.LLM for child in node.children)
    return span.kind == SpanKind.MODEL and calls and not node.rewards and span.status == SpanStatus.OK


def _node(span: Span, result: RolloutResult, inner: tuple[Node, ...], learned: Sequence[Transition]) -> Node:
    call = call_of(span)
    usage = span.attributes.get("gen_ai.usage.input_tokens")
    return Node(
        kind=str(span.kind),
        name=span.name,
        role=span.role,
        seconds=max(0.0, span.ended_at - span.started_at),
        status=str(span.status),
        error=_cut(span.error) if span.error else None,
        prompt=_prompt(call.request) if call else (),
        prompt_tokens=len(call.prompt_ids) if call and call.prompt_ids is not None else usage,
        answers=_answers(span, call, learned) if call else (),
        details=() if call else _details(span),
        rewards=tuple(reward for reward in result.rewards if reward.span_id == span.span_id),
        children=inner,
    )


def _prompt(request: Mapping[str, Any]) -> tuple[Message, ...]:
    """The messages of a chat, of a completion or of the responses interface."""
    for name in ("messages", "input", "prompt"):
        given = request.get(name)
        if isinstance(given, str):
            return (Message("prompt", _cut(given)),)
        if isinstance(given, list):
            return tuple(_message(item) for item in cast(list[Any], given))
    return ()


def _message(item: Any) -> Message:
    if not isinstance(item, dict):
        return Message("prompt", text_of(item))
    fields = cast(dict[str, Any], item)
    return Message(str(fields.get("role") or fields.get("type") or "message"), message_text(fields))


def message_text(message: Mapping[str, Any]) -> str:
    """What a message says: its content, its reasoning where the endpoint tells it, and its tool calls."""
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(_part(part) for part in cast(list[Any], content))
    texts = [message.get("reasoning_content"), content, *(_tool_call(call) for call in message.get("tool_calls") or ())]
    found = [text if isinstance(text, str) else text_of(text) for text in texts if text]
    return _cut("\n".join(found)) if found or not message or "content" in message else text_of(message)


def _part(part: Any) -> str:
    text: Any = cast(dict[str, Any], part).get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else text_of(part)


def _tool_call(call: Any) -> str:
    function: Any = cast(dict[str, Any], call).get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return text_of(call)
    named = cast(dict[str, Any], function)
    return f"→ {named.get('name')}({named.get('arguments') or ''})"


def _answers(span: Span, call: LLMCall, learned: Sequence[Transition]) -> tuple[Answer, ...]:
    response: dict[str, Any] = call.response or {}
    texts = [_choice_text(choice) for choice in response.get("choices") or ()]
    if not texts and response.get("output"):  # of the responses interface: one answer in several items
        texts = ["\n".join(message_text(item) for item in response["output"])]
    usage = span.attributes.get("gen_ai.usage.output_tokens") if len(texts) == 1 else None
    return tuple(
        Answer(
            text=texts[item.choice] if item.choice < len(texts) else "",
            finish_reason=item.finish_reason,
            tokens=len(item.response_ids) or usage,
            untrained=item.untrained,
        )
        for item in learned
    )


def _choice_text(choice: Mapping[str, Any]) -> str:
    text = choice.get("text")
    return _cut(text) if isinstance(text, str) else message_text(choice.get("message") or {})


def _details(span: Span) -> tuple[Message, ...]:
    skipped = ("gen_ai.operation.name", "gen_ai.tool.name")
    given = {name: value for name, value in span.attributes.items() if name not in skipped and value is not None}
    shown = {name: value for name, value in given.items() if not _OF_A_PLUGIN.match(name)}
    if span.parent_id is None:
        shown.pop("output", None)  # stands on the rollout
    return tuple(Message(_PREFIX.sub("", name), text_of(value)) for name, value in shown.items())


def text_of(value: Any) -> str:
    """A JSON value as text to read."""
    if isinstance(value, str):
        return _cut(value)
    line = json.dumps(value, ensure_ascii=False, default=str)
    return line if len(line) <= COMPACT else _cut(json.dumps(value, ensure_ascii=False, default=str, indent=1))


def _cut(text: str) -> str:
    left_out = len(text) - TEXT_LIMIT
    return text if left_out <= 0 else f"{text[:TEXT_LIMIT]}\n… {left_out:,} more characters are in the store"
