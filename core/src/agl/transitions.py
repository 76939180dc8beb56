"""Transitions: LLM calls as learning data, and the rows that a policy loss reads.

Fail closed: a call is trainable only when the engine's own token ids, logprobs and version are there. What is left out
says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from agl.errors import ConfigError
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


class RoleFilter:
    """Which roles are learned from: `agent_match` is a regular expression, `roles` maps names to `train` or `freeze`.

    A name in `roles` matches a role path when it equals the path or one of its parts; the longest name wins. Roles that
    no name matches are trained, unless some role is named `train`: then only the named ones are.

    Raises:
        ConfigError: not a regular expression, or a value that is neither `train` nor `freeze`.
    """

    def __init__(self, agent_match: str | None = None, roles: Mapping[str, str] | None = None) -> None:
        self.roles = dict(roles or {})
        for name, what in self.roles.items():
            if what not in ("train", "freeze"):
                raise ConfigError(f"`roles[{name!r}]` must be `train` or `freeze`, given was {what!r}")
        try:
            self.pattern = re.compile(agent_match) if agent_match is not None else None
        except re.error as error:
            raise ConfigError(f"`agent_match` must be a regular expression, given was {agent_match!r}: {error}") from None

    def why_not(self, role: str | None) -> str | None:
        """Why calls of a role are not learned from; None when they are."""
        if self.pattern is not None and not self.pattern.search(role or ""):
            return f"role `{role}` does not match `{self.pattern.pattern}`"
        if not self.roles:
            return None
        parts = (role or "").split("/")
        names = [name for name in self.roles if name == role or name in parts]
        if not names:
            return f"role `{role}` is not named in `roles`" if "train" in self.roles.values() else None
        name = max(names, key=len)
        return None if self.roles[name] == "train" else f"role `{name}` is frozen"


def transitions_of(spans: Sequence[Span], why_not: Callable[[str | None], str | None] = lambda role: None) -> list[Transition]:
    """Every sampled answer of an attempt, in the order of the calls, each with its parent in the call tree.

    Args:
        spans: all spans of one attempt, in order of their start.
        why_not: reason not to train a role, or None (`RoleFilter.why_not`).
    """
    calls = [span for span in spans if span.kind == SpanKind.LLM]
    retried = {call.retry_of for span in calls if (call := call_of(span)) is not None and call.retry_of}
    found: list[Transition] = []
    for span in sorted(calls, key=lambda s: s.started_at):
        call = call_of(span)
        if call is None:
            continue
        reason = _unusable(span, call, span.attributes.get("agl.call_id") in retried) or why_not(span.role)
        found.extend(_transition(span, call, index, reason) for index in range(max(1, len(call.choices))))
    return _with_parents(found)


def call_of(span: Span) -> LLMCall | None:
    """The recorded call of an llm span."""
    recorded = span.attributes.get("agl.call")
    return None if recorded is None else msgspec.convert(recorded, LLMCall)


def _unusable(span: Span, call: LLMCall, superseded: bool) -> str | None:
    if span.status != SpanStatus.OK or call.response is None:
        return "the call failed"
    if superseded:
        return "the client retried the call"
    if call.prompt_ids is None or any(choice.response_ids is None for choice in call.choices):
        return "the endpoint gave no token ids"
    if any(choice.logprobs is None or len(choice.logprobs) != len(choice.response_ids or ()) for choice in call.choices):
        return "the endpoint gave no logprob for each token"
    if call.version is None:
        return "the endpoint gave no version of its weights"
    if not any(choice.response_ids for choice in call.choices):
        return "no token was sampled"
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
        temperature=float(1.0 if call.request.get("temperature") is None else call.request["temperature"]),
        finish_reason=choice.finish_reason if choice else None,
        untrained=reason,
    )


def _with_parents(transitions: list[Transition]) -> list[Transition]:
    """Each transition with the earlier call that it extends exactly: the one with the longest prompt + response."""
    full: dict[tuple[int, ...], str] = {}
    lengths: set[int] = set()
    linked = []
    for item in transitions:
        parent = None
        for length in sorted((n for n in lengths if n <= len(item.prompt_ids)), reverse=True):
            parent = full.get(item.prompt_ids[:length])
            if parent is not None:
                break
        linked.append(item if parent is None else msgspec.structs.replace(item, parent=parent))
        if item.prompt_ids and item.response_ids:
            path = item.prompt_ids + item.response_ids
            full.setdefault(path, item.span_id)
            lengths.add(len(path))
    return linked


def rows_of(transitions: Sequence[Transition]) -> list[Row]:
    """Rows of one attempt: a call that extends another exactly goes on in its row; every sampled token is in one mask.

    Only rows with at least one trained token are returned. The first call that extends another continues its row; a
    second one (a fork) gets a row of its own, in which the shared tokens are context. Calls sampled at different
    temperatures do not share a row.
    """
    open_rows: dict[tuple[int, ...], list[Transition]] = {}
    rows: list[list[Transition]] = []
    for item in transitions:
        if not item.prompt_ids or not item.response_ids:
            continue
        path = _longest(open_rows, item)
        row = open_rows.pop(path) if path is not None else []
        if not row:
            rows.append(row)
        row.append(item)
        open_rows[item.prompt_ids + item.response_ids] = row
    return [made for row in rows if (made := _make_row(row)) is not None]


def _longest(open_rows: Mapping[tuple[int, ...], list[Transition]], item: Transition) -> tuple[int, ...] | None:
    fits = [path for path, row in open_rows.items() if item.prompt_ids[: len(path)] == path and row[-1].temperature == item.temperature]
    return max(fits, key=len, default=None)


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
