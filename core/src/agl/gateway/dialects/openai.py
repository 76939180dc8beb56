"""What OpenAI's dialects share: the form of an error, and streams that go on as they arrive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from agl.gateway.problems import Problem
from agl.gateway.stream import Line


def error(problem: Problem) -> dict[str, Any]:
    """An error in OpenAI's form, so that its clients show the message."""
    return {"error": {"message": problem.message, "type": "agl_gateway", "param": problem.param, "code": problem.code}}


def refusal(status: int, body: bytes) -> bytes:
    """The upstream's own words: it speaks OpenAI's form, too."""
    return body


class PlainWriter:
    """Gives the upstream's lines as they are.

    Args:
        usage: whether the client asked for the token counts; else the chunk that holds nothing but them is left out.
    """

    def __init__(self, *, usage: bool) -> None:
        self._usage = usage
        self._left_out = False

    def write(self, lines: Sequence[Line]) -> bytes:
        """The lines, without the chunk of token counts where nobody asked for it."""
        return b"".join([line.raw for line in lines if self._wanted(line)])

    def end(self, response: dict[str, Any]) -> bytes:
        """Nothing: the upstream has told its end."""
        return b""

    def fail(self, problem: Problem) -> bytes:
        """The error as an event."""
        return b"data: " + msgspec.json.encode(error(problem)) + b"\n\n"

    def _wanted(self, line: Line) -> bool:
        if self._usage:
            return True
        blank_after = self._left_out and not line.raw.strip()
        self._left_out = line.chunk is not None and line.chunk.get("choices") == [] and line.chunk.get("usage") is not None
        return not (self._left_out or blank_after)


def wants_usage(asked: dict[str, Any]) -> bool:
    """Whether a request asks for the token counts at the end of a stream."""
    options: Any = asked.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
