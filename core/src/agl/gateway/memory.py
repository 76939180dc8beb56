"""What the gateway remembers of an attempt between its calls: it ends with the attempt."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


class Turn:
    """The messages that one call added to a conversation, and the turn before it."""

    def __init__(self, messages: list[Message], previous: Turn | None = None) -> None:
        self._messages, self._previous = messages, previous

    def history(self) -> list[Message]:
        """All chat messages up to the end of this turn."""
        turns: list[Turn] = []
        turn: Turn | None = self
        while turn is not None:
            turns.append(turn)
            turn = turn._previous
        return [message for turn in reversed(turns) for message in turn._messages]


@dataclass
class Conversation:
    """A conversation of the Responses API."""

    turn: Turn | None = None
    """The last one; None while nothing was said."""
    items: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    metadata: Any = None
    created_at: int = field(default_factory=lambda: int(time.time()))


class Memory:
    """State that a dialect leaves to its server."""

    def __init__(self) -> None:
        self.turns: dict[str, Turn] = {}
        """By id of a response."""
        self.responses: dict[str, dict[str, Any]] = {}
        """Stored responses by id, as they were given."""
        self.items: dict[str, dict[str, Any]] = {}
        """Items of stored responses and of conversations by id."""
        self.conversations: dict[str, Conversation] = {}
        self.arguments: dict[str, str] = {}
        """Arguments of tool calls by the call's id, as the model wrote them: JSON that is read and written again may differ."""
