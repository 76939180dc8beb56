"""A response of the Responses API as it grows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from agl.gateway.dialects.blocks import Answer, Block, BlockStream, Kind, Step, answer_of
from agl.gateway.dialects.events import event
from agl.gateway.dialects.responses_output import item, part
from agl.gateway.problems import Problem
from agl.gateway.stream import Line

_TOLD = {
    Kind.TEXT: "response.output_text",
    Kind.REFUSAL: "response.refusal",
    Kind.REASONING: "response.reasoning_text",
    Kind.CALL: "response.function_call_arguments",
}
_Event = tuple[str, dict[str, Any]]


class _Response(Protocol):
    """What makes the response object."""

    def begun(self, span_id: str, model: str | None) -> dict[str, Any]: ...

    def finished(self, answer: Answer, response: dict[str, Any], span_id: str) -> dict[str, Any]: ...


class ResponsesWriter:
    """Says chunks of a chat completion as events of a response; every event has its number in the stream."""

    def __init__(self, response: _Response, span_id: str) -> None:
        self._response, self._span_id = response, span_id
        self._blocks = BlockStream(span_id)
        self._model: str | None = None
        self._number = 0
        self._begun = False

    def write(self, lines: Sequence[Line]) -> bytes:
        """The events that some lines bring."""
        told = [*self._beginning(lines), *(told for step in self._blocks.feed(lines) for told in self._step(step))]
        return self._encoded(told)

    def end(self, response: dict[str, Any]) -> bytes:
        """The ends of what is open, and the whole response."""
        told = [*self._beginning([]), *(told for step in self._blocks.close() for told in self._step(step))]
        answer = answer_of(response, self._span_id)
        # In a stream blocks stand in the order in which they were begun.
        whole = self._response.finished(answer._replace(blocks=self._blocks.blocks), response, self._span_id)
        return self._encoded([*told, (f"response.{whole['status']}", {"response": whole})])

    def fail(self, problem: Problem) -> bytes:
        """The error, as it is documented and as clients of other events know it, and the end of the response."""
        error = {"code": problem.code, "message": problem.message, "param": problem.param}
        failed = self._response.begun(self._span_id, self._model) | {
            "status": "failed",
            "error": {"code": "server_error", "message": problem.message},
        }
        return self._encoded([("error", {**error, "error": {"type": "agl_gateway", **error}}), ("response.failed", {"response": failed})])

    def _encoded(self, told: Sequence[_Event]) -> bytes:
        encoded: list[bytes] = []
        for kind, fields in told:
            encoded.append(event({"type": kind, "sequence_number": self._number, **fields}))
            self._number += 1
        return b"".join(encoded)

    def _beginning(self, lines: Sequence[Line]) -> Iterator[_Event]:
        chunks = [line.chunk for line in lines if line.chunk]
        if self._begun or (lines and not chunks):
            return
        self._begun = True
        self._model = chunks[0].get("model") if chunks else None
        begun = self._response.begun(self._span_id, self._model)
        yield "response.created", {"response": begun}
        yield "response.in_progress", {"response": begun}

    def _step(self, step: Step) -> Iterator[_Event]:
        block, place = step.block, {"output_index": step.place}
        shown = item(block, step.place, self._span_id, status="completed" if step.what == "close" else "in_progress")
        inner = {**place, "item_id": shown["id"]} | ({} if block.kind == Kind.CALL else {"content_index": 0})
        if step.what == "add":
            more: dict[str, Any] = {"logprobs": []} if block.kind == Kind.TEXT else {}
            yield f"{_TOLD[block.kind]}.delta", {**inner, "delta": step.text, **more}
        elif step.what == "open":
            yield "response.output_item.added", {**place, "item": shown}
            if block.kind != Kind.CALL:
                yield "response.content_part.added", {**inner, "part": part(Block(block.kind))}
        else:
            yield f"{_TOLD[block.kind]}.done", {**inner, **_whole(block)}
            if block.kind != Kind.CALL:
                yield "response.content_part.done", {**inner, "part": part(block)}
            yield "response.output_item.done", {**place, "item": shown}


def _whole(block: Block) -> dict[str, Any]:
    if block.kind == Kind.CALL:
        return {"name": block.name, "arguments": block.text}
    if block.kind == Kind.REFUSAL:
        return {"refusal": block.text}
    return {"text": block.text} | ({"logprobs": []} if block.kind == Kind.TEXT else {})
