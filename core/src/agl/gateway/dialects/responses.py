"""OpenAI Responses, by way of chat completions."""

from __future__ import annotations

import time
from typing import Any

from agl.gateway.dialects import openai
from agl.gateway.dialects.blocks import Answer, answer_of, message_of
from agl.gateway.dialects.responses_input import items_of, messages_of
from agl.gateway.dialects.responses_options import options_of
from agl.gateway.dialects.responses_output import ECHOED, item, logprobs_of, usage_of
from agl.gateway.dialects.responses_stream import ResponsesWriter
from agl.gateway.memory import Memory, Turn
from agl.gateway.problems import Problem, invalid, object_of, text_of
from agl.gateway.stream import StreamAssembler

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponsesReading:
    """A request of the Responses API as one of chat completions.

    Raises:
        Problem: see `Dialect.read`.
    """

    assembler = StreamAssembler

    def __init__(self, asked: dict[str, Any], memory: Memory) -> None:
        self._asked, self._memory = asked, memory
        self._conversation = _conversation(asked, memory)
        self._before = _before(asked, memory, self._conversation)
        self._new = messages_of(asked.get("input"), memory)
        self._created = int(time.time())
        instructions = asked.get("instructions")
        told = [] if instructions is None else [{"role": "system", "content": text_of(instructions, "instructions")}]
        history = self._before.history() if self._before else []
        if not history and not self._new:
            raise Problem(400, "`input` is needed: a text or a list of items", "invalid_request", param="input")
        self.chat = {"messages": [*told, *history, *self._new], **options_of(asked)}

    def answer(self, response: dict[str, Any], span_id: str) -> dict[str, Any]:
        """The response object, which is kept for requests that go on from it."""
        return self.finished(answer_of(response, span_id), response, span_id)

    def writer(self, span_id: str) -> ResponsesWriter:
        """The response as it grows."""
        return ResponsesWriter(self, span_id)

    def recorded(self, response: dict[str, Any]) -> dict[str, Any]:
        """The answer itself."""
        return response

    def begun(self, span_id: str, model: str | None) -> dict[str, Any]:
        """The response object before there is an answer."""
        given = {name: value if self._asked.get(name) is None else self._asked[name] for name, value in ECHOED.items()}
        about = {"id": f"resp_{span_id}", "object": "response", "created_at": self._created, "status": "in_progress", "model": model}
        conversation = {"conversation": {"id": self._conversation}} if self._conversation else {}
        return {**about, "error": None, "incomplete_details": None, "output": [], "usage": None, **given, **conversation}

    def finished(self, answer: Answer, response: dict[str, Any], span_id: str) -> dict[str, Any]:
        """The response object of a whole answer."""
        logprobs = logprobs_of(response, self._asked)
        reason = _INCOMPLETE.get(answer.finish_reason or "")
        told = self.begun(span_id, response.get("model")) | {
            "status": "incomplete" if reason else "completed",
            "completed_at": None if reason else int(time.time()),
            "incomplete_details": {"reason": reason} if reason else None,
            "output": [item(block, index, span_id, logprobs) for index, block in enumerate(answer.blocks)],
            "usage": usage_of(response.get("usage")),
        }
        self._keep(told, self.turn(message_of(answer.blocks)))
        return told

    def turn(self, message: dict[str, Any]) -> Turn:
        """What a request that goes on from the answer `message` begins with."""
        return Turn([*self._new, message], self._before)

    def _keep(self, told: dict[str, Any], turn: Turn) -> None:
        conversation = self._memory.conversations.get(self._conversation or "")
        if conversation is not None:
            conversation.turn = turn
            conversation.items += [*items_of(self._asked.get("input") or []), *told["output"]]
        if self._asked.get("store") is not False:
            self._memory.turns[told["id"]], self._memory.responses[told["id"]] = turn, told
            self._memory.items |= {item["id"]: item for item in told["output"]}


class Responses:
    """`/v1/responses`."""

    name = "responses"
    path = "chat/completions"
    translated = True
    token_fields = {"return_token_ids": True, "logprobs": True}

    def read(self, asked: dict[str, Any], memory: Memory) -> ResponsesReading:
        """The request as one of chat completions."""
        return ResponsesReading(asked, memory)

    error = staticmethod(openai.error)
    refusal = staticmethod(openai.refusal)


def _before(asked: dict[str, Any], memory: Memory, conversation: str | None) -> Turn | None:
    """What the request goes on from."""
    response_id = asked.get("previous_response_id")
    if response_id is None:
        return memory.conversations[conversation].turn if conversation else None
    if conversation is not None:
        raise invalid("previous_response_id", "left out where there is a `conversation`", response_id)
    if str(response_id) not in memory.turns:
        raise unknown("previous_response_id", "response", response_id)
    return memory.turns[str(response_id)]


def _conversation(asked: dict[str, Any], memory: Memory) -> str | None:
    """The id of the conversation that the request belongs to."""
    given = asked.get("conversation")
    if given is None:
        return None
    name = given if isinstance(given, str) else str(object_of(given, "conversation").get("id"))
    if name not in memory.conversations:
        raise unknown("conversation", "conversation", name)
    return name


def unknown(where: str, what: str, given: Any, status: int = 400) -> Problem:
    """The refusal of an id that the attempt does not know."""
    return Problem(
        status,
        f"this attempt has no {what} `{given}`: only what was made in the attempt itself is kept, until its end, and no response with "
        "`store: false`",
        f"{what}_not_found",
        param=where,
        infrastructure=True,
    )
