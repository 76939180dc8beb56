"""Stored responses and conversations of the Responses API, as far as the attempt made them itself."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from aiohttp import web

from agl.gateway.dialects.responses import unknown
from agl.gateway.dialects.responses_input import items_of, messages_of
from agl.gateway.forward import encode
from agl.gateway.memory import Conversation, Memory, Turn
from agl.gateway.problems import object_of

MemoryOf = Callable[[web.Request], Memory]
BodyOf = Callable[[web.Request], Any]


class Conversations:
    """Handlers below `/v1/responses/` and `/v1/conversations`.

    Args:
        memory_of: the memory of the attempt that a request belongs to; refuses those that may not.
        body_of: the JSON object of a request.
    """

    def __init__(self, memory_of: MemoryOf, body_of: BodyOf) -> None:
        self._memory_of, self._body_of = memory_of, body_of

    async def response(self, request: web.Request) -> web.Response:
        """A stored response; `DELETE` forgets it."""
        memory, name = self._memory_of(request), request.match_info["id"]
        if name not in memory.responses:
            raise unknown("id", "response", name, 404)
        if request.method == "GET":
            return _json(memory.responses[name])
        for item in memory.responses.pop(name)["output"]:
            memory.items.pop(item["id"], None)
        memory.turns.pop(name, None)
        return _json({"id": name, "object": "response", "deleted": True})

    async def create(self, request: web.Request) -> web.Response:
        """A new conversation, with items in it where some are given."""
        memory, body = self._memory_of(request), await self._body_of(request)
        made = Conversation(metadata=object_of(body.get("metadata") or {}, "metadata"))
        _add(memory, made, body.get("items"))
        name = f"conv_{secrets.token_hex(16)}"
        memory.conversations[name] = made
        return _json(_about(name, made))

    async def conversation(self, request: web.Request) -> web.Response:
        """A conversation; `POST` changes its metadata, `DELETE` forgets it."""
        memory, name = self._memory_of(request), request.match_info["id"]
        known = _known(memory, name)
        if request.method == "DELETE":
            del memory.conversations[name]
            return _json({"id": name, "object": "conversation.deleted", "deleted": True})
        if request.method == "POST":
            known.metadata = object_of((await self._body_of(request)).get("metadata"), "metadata")
        return _json(_about(name, known))

    async def items(self, request: web.Request) -> web.Response:
        """The items of a conversation, the newest first unless `order` is `asc`; `POST` adds some."""
        memory = self._memory_of(request)
        known = _known(memory, request.match_info["id"])
        if request.method == "POST":
            return _json(_list(_add(memory, known, (await self._body_of(request)).get("items")), None))
        shown = known.items if request.query.get("order") == "asc" else known.items[::-1]
        after = request.query.get("after")
        start = next((index + 1 for index, item in enumerate(shown) if item["id"] == after), 0) if after else 0
        limit = request.query.get("limit", "")
        return _json(_list(shown[start:], int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 6 else 20))


def _known(memory: Memory, name: str) -> Conversation:
    if name not in memory.conversations:
        raise unknown("id", "conversation", name, 404)
    return memory.conversations[name]


def _add(memory: Memory, conversation: Conversation, given: Any) -> list[dict[str, Any]]:
    """Items put to the end of a conversation, with their ids."""
    items = items_of(given or [])
    if messages := messages_of(items, memory):
        conversation.turn = Turn(messages, conversation.turn)
    conversation.items += items
    memory.items |= {item["id"]: item for item in items}
    return items


def _about(name: str, conversation: Conversation) -> dict[str, Any]:
    return {"id": name, "object": "conversation", "created_at": conversation.created_at, "metadata": conversation.metadata or {}}


def _list(items: list[dict[str, Any]], limit: int | None) -> dict[str, Any]:
    shown = items if limit is None else items[:limit]
    ends = {"first_id": shown[0]["id"] if shown else None, "last_id": shown[-1]["id"] if shown else None}
    return {"object": "list", "data": shown, **ends, "has_more": len(shown) < len(items)}


def _json(body: dict[str, Any]) -> web.Response:
    return web.Response(body=encode(body), content_type="application/json")
