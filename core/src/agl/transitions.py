"""Transitions: LLM calls as learning data, and the rows that a policy loss reads.

Fail closed: a call is trainable only when the engine's own token ids, logprobs and version are there. What is left out
says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from agl.calltree import TOKEN, CallTree, Mismatch, packed
from agl.spans import LLMCall, Span, SpanKind, SpanStatus

UNTRAINED = "agl.untrained"
"""Attribute of an imported llm span: for each answer why it is not trained, or None."""


NO_IDS = "the endpoint gave no token ids"
NO_LOGPROBS = "the endpoint gave no logprob for each token"
NO_VERSION = "the endpoint gave no version of its weights"


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
    mismatch: Mismatch | None = None
    """Why it does not go on from the call before it; None when it does, and where there are no token ids."""
    step_advantage: float = 0.0
    """Put in by `agl_assign_credit` or the credit `gigpo`: what comparing this call with others like it adds to its advantage."""

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
    shared: int = 0
    """Leading tokens that an earlier call of the attempt has, too: never beyond the first sampled token of the row."""


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
            found.append(_transition(span, call, index, _unusable(span, call, index, superseded) or frozen or _told(span, index)))
    return _with_parents(found)


def call_of(span: Span) -> LLMCall | None:
    """The recorded call of an llm span."""
    recorded = span.attributes.get("agl.call")
    return None if recorded is None else msgspec.convert(recorded, LLMCall)


def was_cut(span: Span) -> bool:
    """Whether an answer of an llm span ended at its token limit."""
    call = call_of(span) if span.kind == SpanKind.LLM else None
    return call is not None and any(choice.finish_reason == "length" for choice in call.choices)


def _unusable(span: Span, call: LLMCall, index: int, superseded: bool) -> str | None:
    if span.status != SpanStatus.OK or call.response is None:
        return "the call failed"
    if superseded:
        return "the client retried the call"
    if not call.choices:
        return "the endpoint gave no answer"
    choice = call.choices[index]
    if call.prompt_ids is None or choice.response_ids is None:
        return NO_IDS
    if not call.prompt_ids or not choice.response_ids:
        return "no token was sampled"
    if choice.logprobs is None or len(choice.logprobs) != len(choice.response_ids) or not all(map(math.isfinite, choice.logprobs)):
        return NO_LOGPROBS
    if call.version is None:
        return NO_VERSION
    return None


def _told(span: Span, index: int) -> str | None:
    """Why an imported answer is not trained, as the file that it comes from says."""
    reasons: list[str | None] = span.attributes.get(UNTRAINED) or []
    return reasons[index] if index < len(reasons) else None


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


def _with_parents(transitions: list[Transition]) -> list[Transition]:
    """Each transition with the earlier call that it extends exactly: the one with the longest prompt + response."""
    tree, span_ids = CallTree(), list[str]()
    linked: list[Transition] = []
    for item in transitions:
        if not item.prompt_ids:
            linked.append(item)
            continue
        prompt = packed(item.prompt_ids)
        place = tree.find(prompt, item.role)
        parent = next((span_ids[node.calls[-1]] for node in place.node.upwards() if node.calls), None)
        linked.append(msgspec.structs.replace(item, parent=parent, mismatch=tree.mismatch(place, prompt, item.role)))
        if item.response_ids:
            tree.put(place, prompt, packed(item.response_ids), item.role)
            span_ids.append(item.span_id)
    return linked


def parents_of(transitions: Sequence[Transition]) -> list[int | None]:
    """(K,) index of each transition's parent, which stands before it: of several answers of a call, the one that was gone on from."""
    answers: dict[str, list[int]] = {}
    found: list[int | None] = []
    for index, item in enumerate(transitions):
        known = answers.get(item.parent or "", [])
        fits = [number for number in known if len(known) == 1 or _goes_on(item, transitions[number])]
        found.append(fits[-1] if fits else None)
        answers.setdefault(item.span_id, []).append(index)
    return found


def _goes_on(item: Transition, parent: Transition) -> bool:
    path = parent.prompt_ids + parent.response_ids
    return item.prompt_ids[: len(path)] == path


def rows_of(transitions: Sequence[Transition]) -> list[Row]:
    """Rows of one attempt: a call that extends another exactly goes on in its row; every sampled token is in one mask.

    Only rows with at least one trained token are returned. The first call that extends another continues its row; a
    second one (a fork) gets a row of its own, in which the shared tokens are context. Calls sampled at different
    temperatures do not share a row.
    """
    tree = CallTree()
    rows: list[tuple[list[Transition], int]] = []
    for item in transitions:
        if not item.prompt_ids or not item.response_ids:
            continue
        prompt = packed(item.prompt_ids)
        place = tree.find(prompt, item.role)
        row: list[Transition] = []
        for node in place.node.upwards():
            if node.held is not None and node.held[-1].temperature == item.temperature:
                row, node.held = node.held, None
                break
        if not row:
            rows.append((row, place.matched // TOKEN))
        row.append(item)
        tree.put(place, prompt, packed(item.response_ids), item.role).held = row
    return [made for row, shared in rows if (made := _make_row(row, shared)) is not None]


def _make_row(items: Sequence[Transition], shared: int) -> Row | None:
    last = items[-1]
    token_ids = last.prompt_ids + last.response_ids
    trained = [item for item in items if item.trainable]
    if not trained:
        return None
    mask, logprobs, owners = [False] * len(token_ids), [0.0] * len(token_ids), [-1] * len(token_ids)
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
        shared=shared,
    )
