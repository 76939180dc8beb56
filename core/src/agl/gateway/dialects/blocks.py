"""Blocks: the parts of a chat message that other dialects tell one by one: reasoning, text, refusal, tool calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, cast

from agl.gateway.problems import Problem
from agl.gateway.stream import Line


class Kind(StrEnum):
    """What a block is."""

    REASONING = "reasoning"
    TEXT = "text"
    REFUSAL = "refusal"
    CALL = "call"


@dataclass
class Block:
    """One part of a message."""

    kind: Kind
    text: str = ""
    """What it says; of a call its arguments, as the model wrote them."""
    call_id: str = ""
    name: str = ""
    """Of the tool that is called."""


class Step(NamedTuple):
    """What a piece of a stream does to a block."""

    what: str
    """`open`, `add` or `close`."""
    place: int
    """Index of the block."""
    block: Block
    text: str = ""


class Answer(NamedTuple):
    """The one answer in a chat completion."""

    blocks: list[Block]
    finish_reason: str | None
    stop_reason: Any
    """The stop text that was met, where the upstream tells it."""


_TEXTS = (("reasoning_content", Kind.REASONING), ("reasoning", Kind.REASONING), ("content", Kind.TEXT), ("refusal", Kind.REFUSAL))
"""Fields of a message; engines name the reasoning in either way."""


def answer_of(response: dict[str, Any], span_id: str) -> Answer:
    """The answer of a chat completion.

    Args:
        span_id: of the call; makes ids for tool calls that have none.

    Raises:
        Problem: there is none.
    """
    choices: Any = response.get("choices")
    choice: Any = cast("list[Any]", choices)[0] if isinstance(choices, list) and choices else None
    message: Any = cast("dict[str, Any]", choice).get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise Problem(502, "the endpoint's answer has no choice with a message", "upstream_failed", infrastructure=True)
    told = cast("dict[str, Any]", choice)
    return Answer(_blocks(cast("dict[str, Any]", message), span_id), told.get("finish_reason"), told.get("stop_reason"))


def _blocks(message: dict[str, Any], span_id: str) -> list[Block]:
    found: dict[Kind, Block] = {}
    for name, kind in _TEXTS:
        if isinstance(message.get(name), str) and message[name]:
            found.setdefault(kind, Block(kind, message[name]))
    return [*found.values(), *(_call(call, number, span_id) for number, call in enumerate(message.get("tool_calls") or ()))]


def _call(call: dict[str, Any], number: int, span_id: str) -> Block:
    function: dict[str, Any] = call.get("function") or {}
    return Block(Kind.CALL, function.get("arguments") or "", call.get("id") or f"call_{span_id}_{number}", function.get("name") or "")


@dataclass
class BlockStream:
    """Blocks as the chunks of a stream bring them."""

    span_id: str
    blocks: list[Block] = field(default_factory=list[Block])
    _open: int | None = None
    """Index of the block that is being written; tool calls stay open to the end, since their deltas may be mixed."""
    _calls: dict[int, int] = field(default_factory=dict[int, int])

    def feed(self, lines: Sequence[Line]) -> Iterator[Step]:
        """What the deltas in some lines do."""
        for line in lines:
            choices: list[dict[str, Any]] = (line.chunk or {}).get("choices") or []
            for choice in choices:
                delta: dict[str, Any] = choice.get("delta") or {}
                yield from self._texts(delta)
                parts: list[dict[str, Any]] = delta.get("tool_calls") or []
                for part in parts:
                    yield from self._part(part)

    def close(self) -> Iterator[Step]:
        """The end of what is open."""
        yield from self._close()
        yield from (Step("close", index, self.blocks[index]) for index in sorted(self._calls.values()))

    def _texts(self, delta: dict[str, Any]) -> Iterator[Step]:
        told = set[Kind]()
        for name, kind in _TEXTS:
            text = delta.get(name)
            if isinstance(text, str) and text and kind not in told:
                told.add(kind)
                if self._open is None or self.blocks[self._open].kind != kind:
                    yield from self._close()
                    self._open = len(self.blocks)
                    yield self._new(Block(kind))
                yield self._add(self._open, text)

    def _part(self, part: dict[str, Any]) -> Iterator[Step]:
        number: int = part.get("index", len(self._calls))
        function: dict[str, Any] = part.get("function") or {}
        if number not in self._calls:
            yield from self._close()
            self._calls[number] = len(self.blocks)
            named = Block(Kind.CALL, "", part.get("id") or f"call_{self.span_id}_{number}", function.get("name") or "")
            yield self._new(named)
        if function.get("arguments"):
            yield self._add(self._calls[number], function["arguments"])

    def _new(self, block: Block) -> Step:
        self.blocks.append(block)
        return Step("open", len(self.blocks) - 1, block)

    def _add(self, index: int, text: str) -> Step:
        self.blocks[index].text += text
        return Step("add", index, self.blocks[index], text)

    def _close(self) -> Iterator[Step]:
        if self._open is not None:
            yield Step("close", self._open, self.blocks[self._open])
            self._open = None


def arguments_of(blocks: Sequence[Block]) -> dict[str, str]:
    """The arguments of tool calls by the calls' ids."""
    return {block.call_id: block.text for block in blocks if block.kind == Kind.CALL}


def message_of(blocks: Sequence[Block]) -> dict[str, Any]:
    """The chat message that blocks were taken from, as it goes back into a conversation."""
    texts = {kind: "".join(block.text for block in blocks if block.kind == kind) for kind in Kind}
    message: dict[str, Any] = {"role": "assistant", "content": texts[Kind.TEXT] or None}
    for name, kind in (("reasoning_content", Kind.REASONING), ("refusal", Kind.REFUSAL)):
        if texts[kind]:
            message[name] = texts[kind]
    calls = [tool_call(block.call_id, block.name, block.text) for block in blocks if block.kind == Kind.CALL]
    return message | ({"tool_calls": calls} if calls else {})


def tool_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """A tool call of a chat message."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
