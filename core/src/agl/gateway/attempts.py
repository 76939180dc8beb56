"""The gateway's view of one attempt that may call."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections import Counter
from collections.abc import Generator, Mapping
from typing import Any

from agl.context import ActiveAttempt
from agl.resources import LLM
from agl.spans import new_span_id

KEY_PREFIX = "agl-"
_CALL_ID = re.compile(r"[0-9a-f]{16}")


class OpenAttempt:
    """One attempt that may call, with its key and its calls."""

    def __init__(self, attempt: ActiveAttempt, upstreams: Mapping[str, LLM]) -> None:
        self.attempt = attempt
        self.key = KEY_PREFIX + secrets.token_hex(16)
        self._upstreams = dict(upstreams)
        self._counts: Counter[str | None] = Counter()
        self._numbers: dict[str, int] = {}
        self._calls: set[asyncio.Task[Any]] = set()

    def upstream(self, model: Any = None, resource: str | None = None) -> LLM:
        """The language model that a request names, by its resource or else by its model; the first when it names none of them."""
        if resource in self._upstreams:
            return self._upstreams[resource]
        llms = list(self._upstreams.values())
        return next((llm for llm in llms if llm.model == model), llms[0])

    def has_key(self, given: str) -> bool:
        """Whether this is the attempt's own key."""
        return secrets.compare_digest(given.encode(), self.key.encode())

    def identify(self, call_id: str | None) -> tuple[str, str | None, str | None]:
        """Span id, call id and, for a repeated call id, the call that is retried. A call id of another form is not ours."""
        if call_id is None or _CALL_ID.fullmatch(call_id) is None:
            return new_span_id(), None, None
        if call_id in self._numbers:
            return new_span_id(), call_id, call_id
        return call_id, call_id, None

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
        """Cancel the calls that are on their way, and return them."""
        for task in self._calls:
            task.cancel()
        return set(self._calls)
