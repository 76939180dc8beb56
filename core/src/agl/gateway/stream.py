"""A streamed answer, put together again from its chunks."""

from __future__ import annotations

from typing import Any

import msgspec

DONE = b"[DONE]"
_KNOWN = frozenset({"index", "delta", "finish_reason", "token_ids", "logprobs"})


class StreamAssembler:
    """Puts the chunks of a streamed chat completion together to the response that an unstreamed call would have had."""

    def __init__(self) -> None:
        self.response: dict[str, Any] = {}
        self.error: str | None = None
        """What the endpoint said went wrong within the stream."""
        self._choices: dict[int, dict[str, Any]] = {}
        self._rest = b""
        self._done = False

    def feed(self, data: bytes) -> bool:
        """Take bytes of the event stream as they arrive; returns whether they held a token.

        Raises:
            msgspec.DecodeError: an event is not a chunk of a chat completion.
        """
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        held_tokens = [self._line(line) for line in lines]
        return any(held_tokens)

    def finished(self) -> dict[str, Any]:
        """The whole response.

        Raises:
            msgspec.DecodeError: the last event is not a chunk of a chat completion.
        """
        self._line(self._rest)  # a server may leave out the last line's end
        self._rest = b""
        return {**self.response, "object": "chat.completion", "choices": [self._choices[index] for index in sorted(self._choices)]}

    @property
    def complete(self) -> bool:
        """Whether the stream came to its own end: it says so, or every choice has its reason to finish."""
        return self._done or (bool(self._choices) and all(choice["finish_reason"] for choice in self._choices.values()))

    def _line(self, line: bytes) -> bool:
        if not line.startswith(b"data:"):
            return False
        payload = line.removeprefix(b"data:").strip()
        if payload == DONE:
            self._done = True
            return False
        try:
            return self._chunk(msgspec.json.decode(payload, type=dict[str, Any]))
        except (AttributeError, LookupError, TypeError) as error:
            raise msgspec.DecodeError(f"a chunk of unknown form: {error}") from error

    def _chunk(self, chunk: dict[str, Any]) -> bool:
        if chunk.get("error"):
            self.error = str(chunk["error"])
            return False
        for name, value in chunk.items():
            if name not in ("choices", "object") and value is not None:
                self.response[name] = value
        deltas: list[dict[str, Any]] = chunk.get("choices") or []
        for part in deltas:
            self._delta(part)
        return bool(deltas)

    def _delta(self, part: dict[str, Any]) -> None:
        index: int = part.get("index") or 0
        choice = self._choices.setdefault(index, {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None})
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
        choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
        if part.get("token_ids") is not None:
            choice.setdefault("token_ids", []).extend(part["token_ids"])
        logprobs: dict[str, Any] = part.get("logprobs") or {}
        if logprobs.get("content") is not None:
            choice.setdefault("logprobs", {"content": []})["content"].extend(logprobs["content"])
        choice |= {name: value for name, value in part.items() if name not in _KNOWN and value is not None}


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
