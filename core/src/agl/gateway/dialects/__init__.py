"""Dialects: the APIs that agents speak, each as a way to read a request as one of the upstream's and to say its answer.

The upstream speaks chat completions (and text completions): Responses and Messages are translated to it and back, but for an endpoint
that says that it speaks them (`native`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from agl.gateway.memory import Memory
from agl.gateway.problems import Problem
from agl.gateway.stream import Line, StreamAssembler


class Writer(Protocol):
    """What the client gets of a streamed answer, piece by piece."""

    def write(self, lines: Sequence[Line]) -> bytes:
        """For lines of the upstream's stream, as they arrive."""
        ...

    def end(self, response: dict[str, Any]) -> bytes:
        """After the last one.

        Args:
            response: the whole answer of the upstream.
        """
        ...

    def fail(self, problem: Problem) -> bytes:
        """For an answer that broke: the status is sent, so it can only be told in the stream."""
        ...


class Reading(Protocol):
    """One request, read."""

    chat: dict[str, Any]
    """Body for the upstream, before the resource sets its own values."""

    @property
    def assembler(self) -> Callable[[], StreamAssembler]:
        """Puts a streamed answer of the upstream together."""
        ...

    def answer(self, response: dict[str, Any], span_id: str) -> dict[str, Any]:
        """The upstream's answer as the client is told it.

        Raises:
            Problem: it is none.
        """
        ...

    def writer(self, span_id: str) -> Writer:
        """The same for a streamed answer."""
        ...

    def recorded(self, response: dict[str, Any]) -> dict[str, Any]:
        """The upstream's answer as a chat completion, which is what is recorded."""
        ...


class Dialect(Protocol):
    """One API."""

    name: str
    path: str
    """Of the upstream's route."""
    token_fields: dict[str, Any]
    """Asked of an engine under training, in vLLM's field names."""
    translated: bool
    """Whether what goes upstream is another API's."""

    def read(self, asked: dict[str, Any], memory: Memory) -> Reading:
        """A request as the client sent it.

        Raises:
            Problem: it has not the form of this API, or asks for what the upstream cannot do.
        """
        ...

    def error(self, problem: Problem) -> dict[str, Any]:
        """A refusal as the client is told it."""
        ...

    def refusal(self, status: int, body: bytes) -> bytes:
        """The upstream's own refusal as the client is told it."""
        ...
