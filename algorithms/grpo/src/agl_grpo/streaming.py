"""Streamed answers of the server, whichever API they are of."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from typing import Any

from aiohttp import web

from agl.errors import EngineError
from agl_grpo.engine import Delta
from agl_grpo.protocol import RequestError
from agl_grpo.wire import sse, usage


class ChunkWriter(ABC):
    """Writes the chunks of one streamed request.

    Args:
        head: fields of every chunk.
        prompt_tokens: of the prompt, for the usage.
        include_usage: whether the usage was asked for.
    """

    def __init__(self, head: dict[str, Any], prompt_tokens: int, *, include_usage: bool) -> None:
        self.head, self.prompt_tokens, self.include_usage = head, prompt_tokens, include_usage
        self.sampled = 0
        """Tokens so far, over all choices."""

    @abstractmethod
    def opening(self) -> bytes:
        """What comes before the first token."""

    @abstractmethod
    def chunk(self, delta: Delta) -> bytes:
        """One token, or the end of one choice."""

    def closing(self) -> bytes:
        """Usage where it was asked for, and the end mark."""
        end = b"data: [DONE]\n\n"
        return self.event([], usage=usage(self.prompt_tokens, self.sampled)) + end if self.include_usage else end

    def event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        """One event with these choices."""
        return sse({**self.head, "choices": choices, **({"usage": None} if self.include_usage else {}), **more})


async def stream(request: web.Request, deltas: AsyncGenerator[Delta], writer_of: Callable[[str | None], ChunkWriter]) -> web.StreamResponse:
    """Answers a request with chunks as they are sampled.

    Args:
        request: to be answered.
        deltas: of the engine; closed at the end, also when the client goes away.
        writer_of: makes the writer, given the version of the weights.

    Raises:
        EngineError: there is no first token.
    """
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    async with contextlib.aclosing(deltas):
        # The first token decides whether there is an answer at all: until then an error still has a status.
        first = await anext(deltas)
        await response.prepare(request)
        writer = writer_of(first.version)
        await response.write(writer.opening() + writer.chunk(first))
        try:
            async for delta in deltas:
                await response.write(writer.chunk(delta))
        except EngineError as error:
            await response.write(sse(RequestError(str(error), code="engine_error", status=503).body()))
            return response
        await response.write(writer.closing())
    await response.write_eof()
    return response
