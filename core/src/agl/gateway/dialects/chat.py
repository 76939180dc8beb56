"""OpenAI chat completions: what the upstream speaks itself."""

from __future__ import annotations

from typing import Any

from agl.gateway.dialects import openai
from agl.gateway.memory import Memory
from agl.gateway.record import answer_for_agent
from agl.gateway.stream import StreamAssembler


class ChatReading:
    """A request of chat completions, which goes on as it is."""

    assembler = StreamAssembler

    def __init__(self, asked: dict[str, Any]) -> None:
        self.chat = asked

    def answer(self, response: dict[str, Any], span_id: str) -> dict[str, Any]:
        """The answer without what only the gateway asked for."""
        return answer_for_agent(response, self.chat)

    def writer(self, span_id: str) -> openai.PlainWriter:
        """The stream as it is."""
        return openai.PlainWriter(usage=openai.wants_usage(self.chat))

    def recorded(self, response: dict[str, Any]) -> dict[str, Any]:
        """The answer itself."""
        return response


class Chat:
    """`/v1/chat/completions`."""

    name = "chat"
    path = "chat/completions"
    translated = False
    token_fields = {"return_token_ids": True, "logprobs": True}

    def read(self, asked: dict[str, Any], memory: Memory) -> ChatReading:
        """Anything: the upstream judges it."""
        return ChatReading(asked)

    error = staticmethod(openai.error)
    refusal = staticmethod(openai.refusal)
