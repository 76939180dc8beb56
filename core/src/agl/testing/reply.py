"""Reply: one answer of a scripted model, in no dialect yet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from agl.testing.toy_tokens import END, call_text


@dataclass(frozen=True)
class Reply:
    """One answer of the script."""

    content: str | None = None
    tool_calls: Sequence[tuple[str, dict[str, Any]]] = ()
    """Names and arguments of the tools to call."""
    finish_reason: str | None = None
    """In the words of OpenAI chat completions; each dialect says it in its own."""
    delay: float = 0.0
    """Seconds before the first byte."""
    chunk_delay: float = 0.0
    """Seconds before each chunk of a stream."""
    status: int = 200
    """Above 399 it is an error with `content` as its message."""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    drop_after: int | None = None
    """Number of chunks of a stream after which the connection breaks; an answer that is no stream breaks before its first byte."""

    def text(self) -> str:
        """What the toy model samples: the content and its tool calls."""
        calls = [call_text(name, arguments) for name, arguments in self.tool_calls]
        return (self.content or "") + "".join(calls)


def as_reply(answer: Any) -> Reply:
    """A `Reply` from a text, an OpenAI message or a `Reply`."""
    if isinstance(answer, Reply):
        return answer
    if isinstance(answer, dict):
        message = cast("dict[str, Any]", answer)
        called = [call["function"] for call in message.get("tool_calls") or ()]
        return Reply(message.get("content"), [(call["name"], json.loads(call["arguments"])) for call in called])
    return Reply(str(answer))


class Sampled:
    """What the toy model samples for a reply under a request's limit of tokens (None for no limit)."""

    def __init__(self, reply: Reply, limit: int | None) -> None:
        ids = [*reply.text().encode(), END]
        self.ids = ids[: limit or len(ids)]
        """(T,) token ids."""
        self.cut = self.ids[-1] != END
        """Whether the limit came before the end."""
        self.content = bytes(self.ids).decode(errors="ignore") if self.cut else reply.content
        self.tool_calls = () if self.cut else tuple(reply.tool_calls)
        self.finish = reply.finish_reason or ("length" if self.cut else "tool_calls" if self.tool_calls else "stop")
