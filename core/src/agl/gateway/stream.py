"""A streamed answer, put together again from its chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import msgspec

DONE = b"[DONE]"
_KNOWN = frozenset({"index", "delta", "text", "finish_reason", "token_ids", "logprobs"})


class Line(NamedTuple):
    """One line of an event stream, with its end."""

    raw: bytes
    chunk: dict[str, Any] | None = None
    """What it holds, where it is a chunk of an answer."""

    @property
    def tokens(self) -> bool:
        """Whether it holds a part of an answer."""
        return bool(self.chunk and (self.chunk.get("choices") or "delta" in self.chunk))


class StreamAssembler:
    """Puts the chunks of a streamed chat completion together to the response that an unstreamed call would have had."""

    kind = "chat.completion"

    def __init__(self) -> None:
        self.response: dict[str, Any] = {}
        self.error: str | None = None
        """What the endpoint said went wrong within the stream."""
        self._choices: dict[int, dict[str, Any]] = {}
        self._rest = b""
        self.done = False
        """Whether the stream has told its own end."""

    def feed(self, data: bytes) -> bool:
        """Take bytes of the event stream as they arrive; returns whether they held a token.

        Raises:
            msgspec.DecodeError: an event is not a chunk of a completion.
        """
        lines = list(self.lines(data))
        return any(line.tokens for line in lines)

    def lines(self, data: bytes) -> Iterator[Line]:
        """The same, line by line; what is no whole line yet comes with the bytes after it."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            yield self._line(line, line + b"\n")

    def last(self) -> Iterator[Line]:
        """The last line, where the server left out its end."""
        rest, self._rest = self._rest, b""
        if rest:
            yield self._line(rest, rest)

    def finished(self) -> dict[str, Any]:
        """The whole response.

        Raises:
            msgspec.DecodeError: the last event is not a chunk of a completion.
        """
        for _ in self.last():
            pass
        return {**self.response, "object": self.kind, "choices": [self._choices[index] for index in sorted(self._choices)]}

    @property
    def complete(self) -> bool:
        """Whether the stream came to its own end: it says so, or every choice has its reason to finish."""
        return self.done or (bool(self._choices) and all(choice["finish_reason"] for choice in self._choices.values()))

    def _line(self, line: bytes, raw: bytes) -> Line:
        if not line.startswith(b"data:"):
            return Line(raw)
        payload = line.removeprefix(b"data:").strip()
        if payload == DONE:
            self.done = True
            return Line(raw)
        try:
            chunk = msgspec.json.decode(payload, type=dict[str, Any])
            self._chunk(chunk)
        except (AttributeError, LookupError, TypeError) as error:
            raise msgspec.DecodeError(f"a chunk of unknown form: {error}") from error
        return Line(raw, chunk)

    def _chunk(self, chunk: dict[str, Any]) -> None:
        if chunk.get("error"):
            self.error = error_text(chunk["error"])
            return
        for name, value in chunk.items():
            if name not in ("choices", "object") and value is not None:
                self.response[name] = value
        for part in chunk.get("choices") or ():
            self._part(part)

    def _part(self, part: dict[str, Any]) -> None:
        index: int = part.get("index") or 0
        choice = self._choices.setdefault(index, self._empty(index))
        self._add_text(choice, part)
        choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
        if part.get("token_ids") is not None:
            choice.setdefault("token_ids", []).extend(part["token_ids"])
        logprobs: dict[str, Any] = part.get("logprobs") or {}
        for name, values in logprobs.items():
            if isinstance(values, list):
                choice.setdefault("logprobs", {}).setdefault(name, []).extend(cast("list[Any]", values))
        choice |= {name: value for name, value in part.items() if name not in _KNOWN and value is not None}

    def _empty(self, index: int) -> dict[str, Any]:
        return {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}

    def _add_text(self, choice: dict[str, Any], part: dict[str, Any]) -> None:
        message: dict[str, Any] = choice["message"]
        delta: dict[str, Any] = part.get("delta") or {}
        for name, value in delta.items():
            if name == "tool_calls":
                if value:
                    _merge_tool_calls(message.setdefault("tool_calls", []), value)
            elif isinstance(value, str) and name != "role":
                message[name] = (message.get(name) or "") + value
            elif value is not None:
                message[name] = value


class TextAssembler(StreamAssembler):
    """The same for a text completion."""

    kind = "text_completion"

    def _empty(self, index: int) -> dict[str, Any]:
        return {"index": index, "text": "", "finish_reason": None}

    def _add_text(self, choice: dict[str, Any], part: dict[str, Any]) -> None:
        choice["text"] += part.get("text") or ""


def error_text(error: Any) -> str:
    """What an error within an answer says."""
    message: Any = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else None
    return str(message or cast("object", error))


def _merge_tool_calls(calls: list[dict[str, Any]], parts: list[dict[str, Any]]) -> None:
    for part in parts:
        index: int = part.get("index", len(calls))
        while len(calls) <= index:
            calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
        call: dict[str, Any] = calls[index]
        function: dict[str, Any] = part.get("function") or {}
        for name in ("id", "type"):
            call[name] = part.get(name) or call.get(name)
        for name in ("name", "arguments"):
            call["function"][name] += function.get(name) or ""
