"""What becomes of one call of the OpenAI SDK inside an attempt: sent to the attempt's endpoint, or left alone and watched."""

from __future__ import annotations

import contextlib
import importlib
import logging
import secrets
from collections.abc import Callable, Generator, Mapping
from typing import Any, cast
from urllib.parse import quote

from agl import context
from agl.builtin.own_calls import recorded
from agl.context import ActiveAttempt
from agl.gateway.wire import CALL_HEADER, LLM_HEADER, NOT_THE_AGENTS, OVERRIDDEN_FIELD, ROLE_HEADER
from agl.prompting import put_in
from agl.resources import LLM, PromptTemplate
from agl.spans import SpanKind

log = logging.getLogger("agl")

Answered = Callable[[Any], None]
"""Is told what the SDK was answered."""
PATHS = frozenset({"/chat/completions", "/completions", "/responses"})
"""Calls that sample from a language model; embeddings, files and the rest stay on the user's endpoint."""
KEPT = ("/responses/", "/conversations")
"""What these calls leave with who answered them, by the beginning of its path: it is looked up there."""
OWN_FAILED = "the agent's own endpoint failed: "
_SAFE = "/ :,;@()[]<>=+&!$'*"


class Call:
    """One call on its way.

    Args:
        attempt: that it is made in.
        options: of the SDK; they belong to the user and are never changed.
    """

    def __init__(self, attempt: ActiveAttempt, options: Any) -> None:
        self.attempt, self.role = attempt, context.current_role()
        self.llm = attempt.llm_for(self.role)
        self.call_id, self._last_call = secrets.token_hex(8), attempt.last_call
        self.overridden: dict[str, Any] = {}
        """The agent's own texts, by the prompts that replace them."""
        self.options = options if attempt.roles.is_original(self.role) else self._changed(options)

    def _changed(self, options: Any) -> Any:
        update: dict[str, Any] = {}
        if prompts := self._prompts():
            body, self.overridden = put_in(_body(options), self.role or "", prompts)
            self.attempt.used_prompts.update(self.overridden)
            # Only the gateway knows the field, and only there a call is recorded.
            told = {OVERRIDDEN_FIELD: self.overridden} if self.llm is not None else {}
            update = {"json_data": body | told} if self.overridden else {}
        if self.llm is not None:
            update |= _redirected(options, self.attempt, self.llm, self.call_id, self.role)
        return options.model_copy(update=update) if update else options

    def _prompts(self) -> dict[str, PromptTemplate]:
        """The templates for this role that no plugin puts in itself."""
        if not self.role:
            return {}
        given = self.attempt.resources.prompts()
        return {name: given[name] for name in given.keys() - self.attempt.claimed_prompts if name.startswith(f"{self.role}.")}

    @contextlib.contextmanager
    def made(self) -> Generator[Answered]:
        """Around the call; yields what is to be told the answer. A call that does not pass the gateway is seen only here."""
        if self.llm is not None:
            yield _nothing
            self._ended()
            return
        try:
            with self._watched() as answered:
                yield answered
        except Exception as error:
            if why := _not_the_agents(error):
                self.attempt.infrastructure_error = OWN_FAILED + why
            raise
        if (self.attempt.infrastructure_error or "").startswith(OWN_FAILED):  # the gateway's says nothing of this endpoint
            self.attempt.infrastructure_error = None

    @contextlib.contextmanager
    def _watched(self) -> Generator[Answered]:
        """A span around a call to the agent's own endpoint, with what was sent and, where it came, the answer."""
        model, answers = str(_body(self.options).get("model")), list[Any]()
        about = {"gen_ai.request.model": model, "agl.endpoint": "the agent's own"}
        with context.operation(f"chat {model}", SpanKind.OPERATION, **about) as attributes:
            try:
                yield answers.append
            finally:
                attributes.update(self._recorded(*answers))

    def _recorded(self, answer: Any = None) -> dict[str, Any]:
        """What is kept of its texts: nothing in a role that is to be left alone. A call that works must not fail by that."""
        if self.attempt.roles.is_original(self.role):
            return {}
        try:
            return recorded(self.options.url, _body(self.options), self.overridden, answer)
        except Exception:
            log.warning("a call to the agent's own endpoint could not be recorded", exc_info=True)
            return {}

    def _ended(self) -> None:
        """Say which call was the last one, for rewards: of the attempt, of this context, and of the span around it."""
        context.set_call(self.call_id)
        span_id, attempt = context.current_span(), self.attempt
        if span_id is not None:
            # A framework may make the call in a context of its own; by its span the caller still finds it.
            attempt.call_spans[span_id] = attempt.call_spans.get(self.call_id, self.call_id)
        if attempt.last_call == self._last_call:  # else a gateway in this process has told, with the id of the try that succeeded
            attempt.last_call = self.call_id


class Lookup:
    """A request for what an earlier call left at its endpoint; it is no call itself.

    Args:
        attempt: that it is made in.
        options: of the SDK; they belong to the user and are never changed.
    """

    def __init__(self, attempt: ActiveAttempt, options: Any) -> None:
        role = context.current_role()
        llm = attempt.llm_for(role)
        update = {} if llm is None else _redirected(options, attempt, llm, secrets.token_hex(8), role)
        self.options = options.model_copy(update=update) if update else options

    def made(self) -> contextlib.AbstractContextManager[Answered]:
        """Around the request: nothing is noted of it."""
        return contextlib.nullcontext(_nothing)


def _nothing(answer: Any) -> None:
    """For calls that are recorded elsewhere."""


def _body(options: Any) -> dict[str, Any]:
    body = options.json_data
    return cast("dict[str, Any]", body) if isinstance(body, dict) else {}


def _redirected(options: Any, attempt: ActiveAttempt, llm: LLM, call_id: str, role: str | None) -> dict[str, Any]:
    """Where the request goes, and with what: an absolute URL wins over the client's own base URL."""
    ours = {
        "Authorization": f"Bearer {llm.api_key}",
        # Azure clients, and clients of gateways with Azure's manners, send the user's own key under this name.
        "api-key": str(llm.api_key),
        CALL_HEADER: call_id,
        "traceparent": f"00-{attempt.trace_id}-{context.current_span()}-01",
    }
    if role:
        ours[ROLE_HEADER] = quote(role, safe=_SAFE)
    if name := attempt.roles.llm_of(role):
        ours[LLM_HEADER] = quote(name, safe=_SAFE)
    replaced = {name.lower() for name in ours} | {ROLE_HEADER, LLM_HEADER}
    # Without headers of its own the request holds a marker that is no mapping.
    given: Any = options.headers
    theirs: dict[str, Any] = dict(given) if isinstance(cast(object, given), Mapping) else {}
    headers = {name: value for name, value in theirs.items() if name.lower() not in replaced} | ours
    return {"url": llm.endpoint.rstrip("/") + options.url, "headers": headers}


def _not_the_agents(error: Exception) -> str:
    """What is wrong at the endpoint; empty when the request was refused for what it says."""
    sdk = importlib.import_module("openai")
    if isinstance(error, sdk.APIConnectionError):  # a timeout is one
        return f"{type(error).__name__}: {error.__cause__ or error}"
    status = getattr(error, "status_code", None)
    ours = isinstance(error, sdk.APIStatusError) and isinstance(status, int) and (status >= 500 or status in NOT_THE_AGENTS)
    return f"it answered {status}" if ours else ""
