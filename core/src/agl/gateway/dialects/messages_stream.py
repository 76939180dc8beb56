"""A message of Anthropic's API as it grows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from agl.gateway.dialects.blocks import Answer, Block, BlockStream, Kind, Step, answer_of
from agl.gateway.dialects.events import event
from agl.gateway.problems import Problem
from agl.gateway.stream import Line

_DELTAS = {Kind.TEXT: "text", Kind.REFUSAL: "text", Kind.REASONING: "thinking", Kind.CALL: "input_json"}
_FIELDS = {"text": "text", "thinking": "thinking", "input_json": "partial_json"}


class _Message(Protocol):
    """What makes the message object."""

    def message(self, answer: Answer, response: dict[str, Any], span_id: str) -> dict[str, Any]: ...


class MessagesWriter:
    """Says chunks of a chat completion as events of a message."""

    def __init__(self, message: _Message, span_id: str) -> None:
        self._message, self._span_id = message, span_id
        self._blocks = BlockStream(span_id)
        self._begun = False

    def write(self, lines: Sequence[Line]) -> bytes:
        """The events that some lines bring."""
        told = [*self._beginning(lines), *(self._step(step) for step in self._blocks.feed(lines))]
        return b"".join(map(event, told))

    def end(self, response: dict[str, Any]) -> bytes:
        """The ends of what is open, why the message ended, and its token counts."""
        told = [*self._beginning([]), *(self._step(step) for step in self._blocks.close())]
        answer = answer_of(response, self._span_id)._replace(blocks=self._blocks.blocks)
        whole = self._message.message(answer, response, self._span_id)
        why = {name: whole[name] for name in ("stop_reason", "stop_sequence")}
        told += [{"type": "message_delta", "delta": why, "usage": whole["usage"]}, {"type": "message_stop"}]
        return b"".join(map(event, told))

    def fail(self, problem: Problem) -> bytes:
        """The error as an event."""
        return event({"type": "error", "error": {"type": "api_error", "message": problem.message}})

    def _beginning(self, lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
        chunks = [line.chunk for line in lines if line.chunk]
        if self._begun or (lines and not chunks):
            return
        self._begun = True
        first: dict[str, Any] = chunks[0] if chunks else {}
        read = len(first.get("prompt_token_ids") or ())  # engines under training tell it at once, others at the end
        about = {"id": f"msg_{self._span_id}", "type": "message", "role": "assistant", "model": first.get("model")}
        usage = {"input_tokens": read, "output_tokens": 0}
        yield {"type": "message_start", "message": {**about, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}}

    def _step(self, step: Step) -> dict[str, Any]:
        if step.what == "open":
            return {"type": "content_block_start", "index": step.place, "content_block": _empty(step.block)}
        if step.what == "close":
            return {"type": "content_block_stop", "index": step.place}
        kind = _DELTAS[step.block.kind]
        return {"type": "content_block_delta", "index": step.place, "delta": {"type": f"{kind}_delta", _FIELDS[kind]: step.text}}


def _empty(block: Block) -> dict[str, Any]:
    if block.kind == Kind.CALL:
        return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": {}}
    if block.kind == Kind.REASONING:
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}
