"""Dialects that an endpoint speaks itself: the request goes on as it is, and the record has a view of it as a chat.

There are no token ids in these APIs, so that nothing of such a call enters a policy loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from agl.gateway.dialects import Dialect
from agl.gateway.dialects.blocks import Block, message_of
from agl.gateway.problems import Problem

JSON = {"Content-Type": "application/json"}
T = TypeVar("T")
_TEXTS = frozenset({"messages", "input", "instructions", "system", "tools", "tool_choice"})


class Native(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it goes on."""

    body: dict[str, Any]
    headers: Mapping[str, str]
    key_header: str = "Authorization"
    """Where the endpoint looks for its key."""
    query: Mapping[str, str]

    def options(self) -> dict[str, Any]:
        """What `Forwarder.request` takes beside the body."""
        return {"headers": self.headers, "key_header": self.key_header, "params": self.query}


class NativeDialect(Dialect, Protocol):
    """One API that goes on as it is; `read` gives the view of the request that is recorded."""

    limit: str
    """Its name for the limit of tokens."""
    key_header: str

    def headers(self, given: Mapping[str, str]) -> dict[str, str]:
        """What of a client's headers belongs to the API."""
        ...


def native(
    dialect: NativeDialect,
    asked: dict[str, Any],
    sent: Mapping[str, Any],
    overridden: Mapping[str, Any],
    headers: Mapping[str, str],
    query: Mapping[str, str],
) -> Native:
    """The request itself.

    Args:
        asked: the body as the client sent it.
        sent: its view, in which the resource has set its values.
        overridden: names of these, as the view has them.
        headers: of the client's request.
        query: of its URL.
    """
    body = with_values(asked, sent, overridden, dialect.limit)
    return Native(body=body, headers=dialect.headers(headers), key_header=dialect.key_header, query=query)


def with_values(asked: dict[str, Any], sent: Mapping[str, Any], overridden: Mapping[str, Any], limit: str) -> dict[str, Any]:
    """A body with what the resource sets.

    Args:
        limit: the name that this API has for the limit of tokens; all else is put in under the name that the resource has for it.
    """
    names = {"max_tokens": limit, "max_completion_tokens": limit}
    return {**asked, **{names.get(name, name): sent[name] for name in overridden}}


def without_texts(asked: dict[str, Any], limit: str) -> dict[str, Any]:
    """The view of a request that has no form as a chat: without what was said, and without tools."""
    view = {name: value for name, value in asked.items() if name not in _TEXTS and name != limit and value is not None}
    return view if asked.get(limit) is None else view | {"max_completion_tokens": asked[limit]}


def told(value: Any, form: type[T]) -> T:
    """What an endpoint said, in the form that it must have.

    Raises:
        Problem: it has another one.
    """
    try:
        return msgspec.convert(value, form)
    except msgspec.ValidationError as error:
        raise Problem(502, f"the endpoint's answer has not the form of its API: {error}", "upstream_failed", infrastructure=True) from None


def completion(response: Mapping[str, Any], blocks: Sequence[Block], finish_reason: str, usage: tuple[int, int] | None) -> dict[str, Any]:
    """An answer as a chat completion.

    Args:
        usage: tokens that were read and written; None where the endpoint does not tell.
    """
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    counts = None if usage is None else dict(zip(names, (*usage, sum(usage)), strict=True))
    choice = {"index": 0, "message": message_of(blocks), "finish_reason": finish_reason}
    about = {"id": response.get("id"), "object": "chat.completion", "created": response.get("created_at"), "model": response.get("model")}
    return {**about, "choices": [choice], "usage": counts}
