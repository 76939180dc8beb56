"""OpenAI Responses, for an endpoint that speaks them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from agl.gateway.dialects import openai
from agl.gateway.dialects.blocks import Block, Kind, message_of
from agl.gateway.dialects.events import event
from agl.gateway.dialects.native import JSON, completion, told, without_texts
from agl.gateway.dialects.responses import Responses, ResponsesReading, unknown
from agl.gateway.memory import Memory
from agl.gateway.problems import Problem, unsupported
from agl.gateway.stream import StreamAssembler, error_text

_REFUSED = {
    "conversation": ("the endpoint's conversations are not an attempt's own", "go on with `previous_response_id`"),
    "background": ("an attempt waits for its answers", "leave it out"),
}
_FINISHED = {"max_output_tokens": "length", "content_filter": "content_filter"}


class _Part(msgspec.Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None


class _Item(msgspec.Struct):
    type: str = ""
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    content: list[_Part] | None = None
    summary: list[_Part] | None = None


class _Usage(msgspec.Struct):
    input_tokens: int
    output_tokens: int


class _Details(msgspec.Struct):
    reason: str | None = None


class _Response(msgspec.Struct):
    id: str
    output: list[dict[str, Any]]
    incomplete_details: _Details | None = None
    usage: _Usage | None = None


class ResponseAssembler(StreamAssembler):
    """Takes the whole response out of the last event of its stream.

    Args:
        keep: told of the response before the client is.
    """

    def __init__(self, keep: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._keep = keep

    @property
    def complete(self) -> bool:
        """Whether the response came to its end."""
        return self.done

    def finished(self) -> dict[str, Any]:
        """The whole response."""
        return self.response

    def _chunk(self, chunk: dict[str, Any]) -> None:
        kind = chunk.get("type")
        if kind in ("response.completed", "response.incomplete"):
            self.response, self.done = dict(chunk["response"]), True
            self._keep(self.response)
        elif kind == "response.failed":
            self.error = error_text(chunk["response"].get("error"))
        elif kind == "error" and self.error is None:
            self.error = error_text(chunk.get("error") or chunk)


class NativeResponsesReading:
    """A request of the Responses API, which goes on as it is.

    Raises:
        Problem: it goes on from what another attempt made, or is not to be answered at once.
    """

    def __init__(self, asked: dict[str, Any], memory: Memory) -> None:
        for name, (why, instead) in _REFUSED.items():
            if asked.get(name):
                raise unsupported(name, why, instead)
        before = asked.get("previous_response_id")
        if before is not None and str(before) not in memory.responses:
            raise unknown("previous_response_id", "response", before)
        self._asked, self._memory = asked, memory
        self._seen: ResponsesReading | None = None
        try:
            self._seen = ResponsesReading(asked, memory)
            self.chat = self._seen.chat
            self.chat.pop("stream_options", None)
        except Problem:  # the endpoint judges it; the record then has no view of what was said
            self.chat = without_texts(asked, "max_output_tokens")

    def assembler(self) -> ResponseAssembler:
        """Puts a stream together."""
        return ResponseAssembler(self._keep)

    def answer(self, response: dict[str, Any], span_id: str) -> dict[str, Any]:
        """The response itself, which is kept for requests that go on from it.

        Raises:
            Problem: it failed.
        """
        if response.get("status") not in ("completed", "incomplete"):
            said = error_text(response.get("error"))
            raise Problem(502, f"the endpoint's response has the status `{response.get('status')}`: {said}", "upstream_failed")
        self._keep(response)
        return response

    def writer(self, span_id: str) -> ResponsesPassed:
        """The stream as it is."""
        return ResponsesPassed(usage=True)

    def recorded(self, response: dict[str, Any]) -> dict[str, Any]:
        """The response as a chat completion."""
        whole = told(response, _Response)
        blocks, usage = _blocks(whole)[0], whole.usage
        cut = _FINISHED.get(whole.incomplete_details.reason or "") if whole.incomplete_details else None
        reason = cut or ("tool_calls" if any(block.kind == Kind.CALL for block in blocks) else "stop")
        return completion(response, blocks, reason, usage and (usage.input_tokens, usage.output_tokens))

    def _keep(self, response: dict[str, Any]) -> None:
        whole = told(response, _Response)
        blocks, all_known = _blocks(whole)
        if self._asked.get("store") is False:
            return
        self._memory.responses[whole.id] = response
        self._memory.items |= {item["id"]: item for item in whole.output if isinstance(item.get("id"), str)}
        if self._seen is not None and all_known:  # else what goes on from it has no view as a chat
            self._memory.turns[whole.id] = self._seen.turn(message_of(blocks))


class ResponsesPassed(openai.PlainWriter):
    """Gives the endpoint's events as they are."""

    def fail(self, problem: Problem) -> bytes:
        """The error as an event of this API, as it is documented and as clients of other events know it."""
        error = {"code": problem.code, "message": problem.message, "param": problem.param}
        return event({"type": "error", **error, "error": {"type": "agl_gateway", **error}})


class NativeResponses(Responses):
    """`/v1/responses` of an endpoint that has it."""

    path = "responses"
    translated = False
    token_fields: dict[str, Any] = {}
    limit = "max_output_tokens"
    key_header = "Authorization"

    def read(self, asked: dict[str, Any], memory: Memory) -> Any:
        """Nearly anything: the endpoint judges it."""
        return NativeResponsesReading(asked, memory)

    def headers(self, given: Mapping[str, str]) -> dict[str, str]:
        """None of the client's own."""
        return JSON


def _blocks(response: _Response) -> tuple[list[Block], bool]:
    """What a response says, and whether that is all of it: what a tool of the endpoint did has no form in a chat."""
    known = [told(item, _Item) for item in response.output if item.get("type") in ("function_call", "message", "reasoning")]
    return [block for item in known for block in _of_item(item)], len(known) == len(response.output)


def _of_item(item: _Item) -> list[Block]:
    if item.type == "function_call":
        return [Block(Kind.CALL, item.arguments or "", item.call_id or "", item.name or "")]
    if item.type == "message":
        return [
            Block(Kind.REFUSAL, part.refusal or "") if part.type == "refusal" else Block(Kind.TEXT, part.text or "")
            for part in item.content or ()
        ]
    return [Block(Kind.REASONING, "\n".join(part.text or "" for part in item.content or item.summary or ()))]
