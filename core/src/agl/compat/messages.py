"""TraceToMessages: the conversations of an attempt, as chat messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agl.results import RolloutResult
from agl.spans import Span, answers_of


class TraceToMessages:
    """Makes conversations of recorded LLM calls."""

    def adapt(self, source: Sequence[Span] | RolloutResult, /) -> list[dict[str, Any]]:
        """One conversation per call, in order: `{"messages": [...], "tools": [...] or None}`, the first answer as the last message.

        Args:
            source: spans of one attempt, or its result. Calls that failed are left out, and so are those whose answer is not recorded
                (a stream from the agent's own endpoint, a role that is left alone).
        """
        spans = source.spans if isinstance(source, RolloutResult) else source
        calls = sorted(spans, key=lambda span: span.started_at)
        return [_conversation(span, answers[0]) for span in calls if (answers := answers_of(span))]


def _conversation(span: Span, answer: dict[str, Any]) -> dict[str, Any]:
    request: dict[str, Any] = span.attributes["agl.call"]["request"]
    return {"messages": [*request.get("messages", ()), {"role": "assistant", **answer}], "tools": request.get("tools")}
