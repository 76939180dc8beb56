"""Built-in reward: whether a tool call worked becomes a small reward of the LLM call that made it.

The automatic intermediate rewards of Agent Lightning (arXiv 2508.03680): signals that the run gives for free, at the call
that caused them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agl.errors import ConfigError
from agl.judges import Judge
from agl.results import RolloutResult
from agl.rewards import Reward, make_reward
from agl.spans import Span, SpanKind, SpanStatus, answers_of


class ToolOutcome(Judge):
    """Rewards each LLM call by the outcome of the tools that it called: the mean over them, so that many calls earn no more than one.

    A tool span belongs to the call whose answer holds its tool call id; without an id, to the last call before it, in the
    nearest span around both, that asked for a tool of its name (or whose answer has no tool calls, as where the agent reads
    them out of the text). A tool that no call asked for, or whose end was never seen, gives no reward.

    Args:
        success: value of a tool that ended without an error.
        failure: value of a tool that ended with one.
        weight: the value times this is added to the credit of the call; 0.1 unless told here or in `reward_weights`.

    Raises:
        ConfigError: success and failure are equal.
        RewardError: one of them is not a finite number.
    """

    name = "tool_outcome"
    default_weight = 0.1
    per_call = True
    judges_failures = True

    def __init__(self, *, success: float = 1.0, failure: float = -1.0, weight: float | None = None) -> None:
        if success == failure:
            raise ConfigError(f"`ToolOutcome` needs different values for success and failure, both are {success!r}")
        for name, value in (("success", success), ("failure", failure)):
            make_reward(value, name=self.name, source=f"`{name}`")
        self.success, self.failure, self.weight = success, failure, weight

    def config(self) -> dict[str, Any]:
        """The values."""
        return {"success": self.success, "failure": self.failure}

    def agl_reward(self, result: RolloutResult) -> list[Reward]:
        """A reward for each call that called tools."""
        finder, found = _Finder(result.spans), dict[str, list[Span]]()
        for span in result.spans:
            if span.kind == SpanKind.TOOL and span.status != SpanStatus.OPEN and (call := finder.caller(span)) is not None:
                found.setdefault(call.span_id, []).append(span)
        return [self._reward(span_id, tools) for span_id, tools in found.items()]

    def _reward(self, span_id: str, tools: list[Span]) -> Reward:
        values = [self.success if tool.status == SpanStatus.OK else self.failure for tool in tools]
        told = [{"tool": tool.name, "span_id": tool.span_id, "error": tool.error} for tool in tools]
        return make_reward(sum(values) / len(values), name=self.name, source=self.name, span_id=span_id, details={"tools": told})


class _Finder:
    """Finds the LLM call behind a tool span."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._spans = {span.span_id: span for span in spans}
        self._calls = sorted((span for span in self._spans.values() if _answered(span)), key=lambda span: span.started_at)
        self._above = {call.span_id: {span.span_id for span in self._around(call)} for call in self._calls}

    def caller(self, tool: Span) -> Span | None:
        call_id = tool.attributes.get("gen_ai.tool.call.id")
        # By its start: the record of a call may end after the client has its answer.
        before = [call for call in self._calls if call.started_at <= tool.started_at]
        if call_id is not None:
            # Engines count their ids from anew in each answer: the last one with this id is meant.
            return next((call for call in reversed(before) if call_id in _tool_calls(call)), None)
        fits = [call for call in before if tool.name in _tool_calls(call).values() or not _tool_calls(call)]
        for outer in self._around(tool):
            for call in reversed(fits):
                if outer.span_id in self._above[call.span_id]:
                    return call
            if outer.kind == SpanKind.TOOL:  # what a tool calls by itself, no model asked for
                return None
        return None

    def _around(self, span: Span) -> list[Span]:
        """The spans around a span, inside out."""
        found: list[Span] = []
        while (outer := self._spans.get(span.parent_id or "")) is not None and outer not in found:
            found.append(outer)
            span = outer
        return found


def _answered(span: Span) -> bool:
    return span.kind == SpanKind.LLM and span.status == SpanStatus.OK


def _tool_calls(call: Span) -> dict[str, str]:
    """Names of the tools that a call asked for, by tool call id."""
    found: dict[str, str] = {}
    for message in answers_of(call):
        calls: list[dict[str, Any]] = message.get("tool_calls") or []
        for asked in calls:
            function: dict[str, Any] = asked.get("function") or {}
            found[asked.get("id") or f"without id {len(found)}"] = function.get("name") or ""
    return found
