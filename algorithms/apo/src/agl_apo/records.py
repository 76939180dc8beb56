"""Records: what a critic reads of one rollout for one prompt.

Only calls that the prompt belongs to are shown: those of its role, or those that hold its text. All of it is text of agents, models
and tools; it is shortened and quoted, never evaluated.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agl.resources import PromptTemplate
from agl.results import RolloutResult
from agl.spans import LLMCall, Span, SpanKind, answers_of
from agl.transitions import call_of

FIELD = 1500
"""Characters of a task, an output, an error or a message; more is cut in the middle."""
TELLING = 12
"""Characters of a template's longest literal part from which on a call that holds it is one of its calls."""
HIDDEN = "(the prompt that is worked on)"


def record(result: RolloutResult, name: str, template: str, limit: int = 6000) -> str:
    """One rollout as text.

    Args:
        name: of the prompt's resource.
        template: its text in this rollout.
        limit: characters of the whole.
    """
    parts = [f"reward: {_number(result.reward)}", f"task: {_json(result.task.data)}"]
    parts += _calls(result, name, template)
    if result.output is not None and result.output != result.reward:  # functions return the reward itself
        parts.append(f"output: {_json(result.output)}")
    parts += _judged(result)
    if error := _error(result):
        parts.append(f"error ({result.failure}): {error}")
    return cut("\n".join(parts), limit)


def training_text(data: Mapping[str, Any]) -> str:
    """All texts of a task, one after the other: what a prompt must not copy."""
    return "\n".join(_texts(data))


def belongs(spans: Sequence[Span], name: str, template: str) -> list[tuple[Span, LLMCall]]:
    """The calls of a rollout that a prompt belongs to.

    Those into which it was put, or whose role is the prompt's; else those that hold the prompt's longest literal part. A prompt
    without a role (a template that the user's own code fills in) belongs to all calls where no call holds its text.
    """
    calls = [(span, call) for span in spans if (call := call_of(span)) is not None]
    role = role_of(name)
    own = [(span, call) for span, call in calls if name in call.overridden or _has_role(span, role)]
    if own:
        return own
    literal = longest_literal(template)
    holding = [(span, call) for span, call in calls if len(literal) >= TELLING and literal in _request_text(call)]
    return holding or ([] if role else calls)


def role_of(name: str) -> str:
    """The role that a prompt's name begins with; empty for a template of the user's own code."""
    head, tool, _ = name.partition(".tools.")
    return head if tool else name.rpartition(".")[0]


def longest_literal(template: str) -> str:
    """The longest part of a template that stands as it is in what is made of it."""
    try:
        parts = [part for part, *_ in string.Formatter().parse(template)]
    except ValueError:  # braces that are text
        parts = [template]
    return max((part.strip() for part in parts), key=len, default="")


def cut(text: str, limit: int = FIELD) -> str:
    """A text, shortened in its middle where it has more characters than `limit`."""
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 4
    return f"{text[:head]}\n… ({len(text) - head - tail} characters left out) …\n{text[-tail:]}"


def _has_role(span: Span, role: str) -> bool:
    return bool(role) and span.role is not None and (span.role == role or span.role.endswith(f"/{role}"))


def _calls(result: RolloutResult, name: str, template: str) -> Iterator[str]:
    shown: set[str] = set()
    found = belongs(result.spans, name, template)
    for number, (span, call) in enumerate(found, 1):
        yield f"call {number}" + (f" by {span.role}" if span.role else "") + (f", failed: {cut(span.error)}" if span.error else "")
        for message in _messages(call):
            line = _line(message, name in call.overridden, template)
            if line not in shown:  # a conversation sends its history again and again
                shown.add(line)
                yield f"  {line}"
        for message in answers_of(span):
            line = _line({"role": "assistant", **message}, False, template)
            shown.add(line)
            yield f"  {line}"
        if call.response is None and call.streamed and not span.error:
            yield "  assistant: (streamed from the agent's own endpoint, not recorded)"
    if not found and any(span.attributes.get("agl.endpoint") for span in result.spans):
        yield "calls: not recorded, they went to the agent's own endpoint"
    elif not found:
        yield "calls: none of this prompt's agent"


def _messages(call: LLMCall) -> list[dict[str, Any]]:
    request = call.request
    messages = request.get("messages")
    if isinstance(messages, list):
        return [message for message in messages if isinstance(message, dict)]
    return [{"role": "user", "content": request.get("prompt")}]


def _line(message: Mapping[str, Any], overridden: bool, template: str) -> str:
    role, content = str(message.get("role")), message.get("content")
    if role in ("system", "developer") and (overridden or _plain(content) == template):
        return f"{role}: {HIDDEN}"
    said = cut(_plain(content))
    calls = [call.get("function") or {} for call in message.get("tool_calls") or () if isinstance(call, dict)]
    called = [f"calls {call.get('name')}({cut(str(call.get('arguments')))})" for call in calls]
    return f"{role}: " + " ".join(filter(None, [said, *called]))


def _plain(content: Any) -> str:
    """The text of a message, whose content may be a list of parts."""
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        return "\n".join(str(text) for text in texts if text is not None)
    return "" if content is None else str(content)


def _request_text(call: LLMCall) -> str:
    return "\n".join(_plain(message.get("content")) for message in _messages(call)) + json.dumps(call.request.get("tools") or "")


def _judged(result: RolloutResult) -> Iterator[str]:
    """What judges and the agent's own code said of the rollout."""
    for reward in result.rewards:
        about = f" of {reward.role}" if reward.role else ""
        why = reward.details.get("rationale") or reward.details.get("feedback") or reward.details.get("reason")
        if reward.name != "reward" or why or about:
            yield f"judged {reward.name}{about}: {reward.value:g}" + (f", since {cut(_plain(why))}" if why else "")
    for span in result.spans:
        if span.kind == SpanKind.MESSAGE:
            yield f"feedback: {cut(_plain(span.attributes.get('body')))}"
        elif span.kind == SpanKind.OBJECT:
            yield f"{span.name}: {cut(_json(span.attributes.get('value')))}"
        elif span.kind == SpanKind.REWARD and span.error:
            yield f"not judged: {cut(span.error)}"


def _error(result: RolloutResult) -> str:
    attempt = result.rollout.attempt
    text = (attempt.error if attempt else None) or ""
    return cut(text.strip().splitlines()[-1] if text.strip() else "")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)


def _json(value: Any) -> str:
    return cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def is_plain(name: str, template: str) -> bool:
    """Whether braces in a prompt are text: nothing fills it in.

    A template of the user's own code is filled in by `format`. One that is put into an agent is sent as it is, but frameworks that fill
    in their inputs do so there, too: names in braces that stand in it are kept.
    """
    if not role_of(name):
        return False
    try:
        found = PromptTemplate(template=template).placeholders()
    except ValueError:
        return True
    return not found or not all(each.isidentifier() for each in found)
