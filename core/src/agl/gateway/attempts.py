"""The gateway's view of one attempt that may call."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import secrets
from collections import Counter
from collections.abc import Generator, Mapping
from typing import Any

from agl.context import ActiveAttempt
from agl.gateway.memory import Memory
from agl.gateway.wire import CALL_HEADER, IDEMPOTENCY_HEADER, RETRY_HEADER
from agl.resources import LLM
from agl.spans import new_span_id

KEY_PREFIX = "agl-"
_CALL_ID = re.compile(r"[0-9a-f]{16}")


class OpenAttempt:
    """One attempt that may call, with its key and its calls."""

    def __init__(self, attempt: ActiveAttempt, upstreams: Mapping[str, LLM]) -> None:
        self.attempt = attempt
        self.memory = Memory()
        self.key = KEY_PREFIX + secrets.token_hex(16)
        self._upstreams = dict(upstreams)
        self._counts: Counter[str | None] = Counter()
        self._numbers: dict[str, int] = {}
        self.otlp_ids: set[str] = set()
        """Ids of the spans that the agent's own tracing sent."""
        self._calls: set[asyncio.Task[Any]] = set()
        self.ended = False

    def upstream(self, model: Any = None, resource: str | None = None) -> LLM:
        """The language model that a request names, by its resource or else by its model; the first when it names none of them."""
        if resource in self._upstreams:
            return self._upstreams[resource]
        llms = list(self._upstreams.values())
        return next((llm for llm in llms if llm.model == model), llms[0])

    def has_key(self, given: str) -> bool:
        """Whether this is the attempt's own key."""
        return secrets.compare_digest(given.encode(), self.key.encode())

    def identify(self, headers: Mapping[str, str]) -> tuple[str, str | None, str | None]:
        """Span id, call id and, for a repeated call, the call that is retried; equal requests alone are never taken for a repetition.

        Args:
            headers: of the request. A call id of another form is not ours; an idempotency key stands in for one, unless the
                client's SDK says that this is its first try.
        """
        call_id = headers.get(CALL_HEADER)
        if call_id is None or not is_span_id(call_id):
            key = headers.get(IDEMPOTENCY_HEADER)
            if key is None:
                return new_span_id(), None, None
            call_id = hashlib.blake2b(f"{self.attempt.attempt_id}:{key}".encode(errors="replace"), digest_size=8).hexdigest()
            if call_id in self._numbers and headers.get(RETRY_HEADER) == "0":
                return new_span_id(), None, None
        if call_id in self._numbers:
            return new_span_id(), call_id, call_id
        return new_span_id() if call_id in self.otlp_ids else call_id, call_id, None

    def number(self, role: str | None, call_id: str | None) -> int:
        """Index of a call among those of its role, from 0; a retry has that of the call it repeats."""
        if call_id is not None and call_id in self._numbers:
            return self._numbers[call_id]
        number = self._counts[role]
        self._counts[role] += 1
        if call_id is not None:
            self._numbers[call_id] = number
        return number

    @contextlib.contextmanager
    def calling(self) -> Generator[None]:
        """Around a call that is on its way."""
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            yield
        finally:
            self._calls.discard(task)

    def stop_calls(self) -> set[asyncio.Task[Any]]:
        """The end of the attempt: cancel the calls that are on their way, and return them."""
        self.ended = True
        for task in self._calls:
            task.cancel()
        return set(self._calls)


def is_span_id(text: str) -> bool:
    """Whether it has the form of a span's or a call's id."""
    return _CALL_ID.fullmatch(text) is not None
