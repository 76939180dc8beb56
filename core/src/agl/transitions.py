"""Transitions: LLM calls as learning data, and the rows that a policy loss reads.

Fail closed: a call is trainable only when the engine's own token ids, logprobs and version are there. What is left out
says why.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from agl.spans import LLMCall, Span, SpanKind, SpanStatus


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One sampled answer of one LLM call as (state, action, reward)."""

    span_id: str
    rollout_id: str
    attempt_id: str
    choice: int = 0
    """Index among the call's `n` answers."""
    role: str | None = None
    parent: str | None = None
    """Span id of the call whose prompt + response this prompt begins with; the longest such call."""
    prompt_ids: tuple[int, ...] = ()
    """(P,)"""
    response_ids: tuple[int, ...] = ()
    """(T,)"""
    logprobs: tuple[float, ...] = ()
    """(T,) natural log, as sampled."""
    version: str | None = None
    """Version of the weights that sampled."""
    temperature: float = 1.0
    """The logprobs are those of the distribution at this temperature."""
    finish_reason: str | None = None
    reward: float | None = None
    """This call's own share, put in by `agl_assign_credit`."""
    untrained: str | None = None
    """Why it does not enter a policy loss; None when it does."""

    @property
    def trainable(self) -> bool:
        """Whether its tokens enter a policy loss."""
        return self.untrained is None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence for a loss: calls that extend each other exactly, end to end."""

    rollout_id: str
    token_ids: tuple[int, ...]
    """(S,)"""
    mask: tuple[bool, ...]
    """(S,) true where a token was sampled by a trained call and is in no other row."""
    logprobs: tuple[float, ...]
    """(S,) as sampled; 0 outside the mask."""
    owners: tuple[int, ...]
    """(S,) index into `transitions` of the call that sampled the token; -1 outside the mask."""
    transitions: tuple[Transition, ...]
    """The trained calls of the row, in order."""
    temperature: float = 1.0


def transitions_of(spans: Sequence[Span], why_not: Callable[[str | None], str | None] = lambda role: None) -> list[Transition]:
    """Every sampled answer of an attempt, in the order of the calls, each with its parent in the call tree.

    Args:
        spans: all spans of one attempt, in order of their start.
        why_not: reason not to train a role, or None (`agl.roles.Roles.why_not`).
    """
    calls = sorted((span for span in spans if span.kind == SpanKind.LLM), key=lambda span: span.started_at)
    last_try = {call_id: span.span_id for span in calls if (call_id := span.attributes.get("agl.call_id")) is not None}
    found: list[Transition] = []
    for span in calls:
        call = call_of(span)
        if call is None:
            continue
        superseded = last_try.get(span.attributes.get("agl.call_id"), span.span_id) != span.span_id
        frozen = why_not(span.role)
        for index in range(max(1, len(call.choices))):
            found.append(_transition(span, call, index, _unusable(span, call, index, superseded) or frozen))
    return _with_parents(found)


def call_of(span: Span) -> LLMCall | None:
    """The recorded call of an llm span."""
    recorded = span.attributes.get("agl.call")
    return None if recorded is None else msgspec.convert(recorded, LLMCall)


def _unusable(span: Span, call: LLMCall, index: int, superseded: bool) -> str | None:
    if span.status != SpanStatus.OK or call.response is None:
        return "the call failed"
    if superseded:
        return "the client retried the call"
    if not call.choices:
        return "the endpoint gave no answer"
    choice = call.choices[index]
    if call.prompt_ids is None or choice.response_ids is None:
        return "the endpoint gave no token ids"
    if not call.prompt_ids or not choice.response_ids:
        return "no token was sampled"
    if choice.logprobs is None or len(choice.logprobs) != len(choice.response_ids) or not all(map(math.isfinite, choice.logprobs)):
        return "the endpoint gave no logprob for each token"
    if call.version is None:
        return "the endpoint gave no version of its weights"
    return None


def _transition(span: Span, call: LLMCall, index: int, reason: str | None) -> Transition:
    choice = call.choices[index] if index < len(call.choices) else None
    return Transition(
        span_id=span.span_id,
        rollout_id=span.rollout_id,
        attempt_id=span.attempt_id,
        choice=index,
        role=span.role,
        prompt_ids=tuple(call.prompt_ids or ()),
        response_ids=tuple(choice.response_ids or ()) if choice else (),
        logprobs=tuple(choice.logprobs or ()) if choice else (),
        version=call.version,
        temperature=_temperature(call.request.get("temperature")),
        finish_reason=choice.finish_reason if choice else None,
        untrained=reason,
    )


def _temperature(value: Any) -> float:
    try:
        return 1.0 if value is None else float(value)
    except (TypeError, ValueError):  # the agent asked for nonsense and the endpoint refused
        return 1.0


def _packed(ids: Sequence[int]) -> bytes:
    """Token ids as bytes of a fixed width, which compare at memory speed."""
    return array("q", ids).tobytes()


class _Paths:
    """What has been sampled so far: prompt + response of each call, found again by the prompts that begin with it."""

    def __init__(self) -> None:
        self._paths: dict[bytes, Any] = {}

    def put(self, item: Transition, value: Any) -> None:
        """A later call of the same path takes its place."""
        self._paths[_packed(item.prompt_ids + item.response_ids)] = value

    def take(self, path: bytes) -> Any:
        return self._paths.pop(path)

    def longest(self, item: Transition, fits: Callable[[Any], bool] = lambda value: True) -> tuple[bytes, Any] | None:
        """The longest path that a call's prompt begins with."""
        prompt, best = _packed(item.prompt_ids), None
        for path, value in reversed(self._paths.items()):  # the newest mostly is the longest
            if (best is None or len(path) > len(best[0])) and prompt.startswith(path) and fits(value):
                best = path, value
        return best


def _with_parents(transitions: list[Transition]) -> list[Transition]:
    """Each transition with the earlier call that it extends exactly: the one with the longest prompt + response."""
    paths = _Paths()
    linked: list[Transition] = []
    for item in transitions:
        found = paths.longest(item)
        linked.append(item if found is None else msgspec.structs.replace(item, parent=found[1]))
        if item.prompt_ids and item.response_ids:
            paths.put(item, item.span_id)
    return linked


def rows_of(transitions: Sequence[Transition]) -> list[Row]:
    """Rows of one attempt: a call that extends another exactly goes on in its row; every sampled token is in one mask.

    Only rows with at least one trained token are returned. The first call that extends another continues its row; a
    second one (a fork) gets a row of its own, in which the shared tokens are context. Calls sampled at different
    temperatures do not share a row.
    """
    open_rows = _Paths()
    rows: list[list[Transition]] = []
    for item in transitions:
        if not item.prompt_ids or not item.response_ids:
            continue
        found = open_rows.longest(item, lambda row: row[-1].temperature == item.temperature)  # noqa: B023
        row: list[Transition] = [] if found is None else open_rows.take(found[0])
        if not row:
            rows.append(row)
        row.append(item)
        open_rows.put(item, row)
    return [made for row in rows if (made := _make_row(row)) is not None]


def _make_row(items: Sequence[Transition]) -> Row | None:
    last = items[-1]
    token_ids = last.prompt_ids + last.response_ids
    mask, logprobs, owners = [False] * len(token_ids), [0.0] * len(token_ids), [-1] * len(token_ids)
    trained = [item for item in items if item.trainable]
    if not trained:
        return None
    for index, item in enumerate(trained):
        start = len(item.prompt_ids)
        stop = start + len(item.response_ids)
        mask[start:stop] = [True] * (stop - start)
        logprobs[start:stop] = item.logprobs
        owners[start:stop] = [index] * (stop - start)
    return Row(
        rollout_id=last.rollout_id,
        token_ids=token_ids,
        mask=tuple(mask),
        logprobs=tuple(logprobs),
        owners=tuple(owners),
        transitions=tuple(trained),
        temperature=last.temperature,
    )
