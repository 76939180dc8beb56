"""Dialects: how the scripted server says one reply in the form of each API, whole or as a stream of events."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from agl.testing.reply import Reply


class Event(NamedTuple):
    """One event of a stream."""

    data: dict[str, Any]
    name: str | None = None


class Dialect(Protocol):
    """One API."""

    end: bytes
    """What closes a stream."""

    def answer(self, number: int, body: dict[str, Any], replies: Sequence[Reply], version: str | None) -> dict[str, Any]:
        """The whole answer to a request.

        Args:
            number: of the request, for ids.
            body: the request.
            replies: one for each sample that is asked for.
            version: of the weights, to be told with the answer where the dialect can.
        """
        ...

    def events(self, body: dict[str, Any], answer: dict[str, Any]) -> Iterable[Event]:
        """The same answer as a stream."""
        ...

    def error(self, status: int, message: str) -> dict[str, Any]:
        """A refusal."""
        ...


def dialect_of(path: str) -> Dialect:
    """The dialect of a request by the end of its path; chat completions for a path of no other."""
    from agl.testing.dialects import chat, messages, responses

    ends: dict[str, Dialect] = {"/responses": responses, "/messages": messages, "/messages/count_tokens": messages}
    if path.endswith("/completions") and not path.endswith("/chat/completions"):
        return chat.TEXT
    return next((dialect for end, dialect in ends.items() if path.endswith(end)), chat.CHAT)


def pieces(text: str) -> list[str]:
    """A text in the pieces that a stream brings: words with the space before them."""
    return re.findall(r"\s*\S+|\s+$", text)
