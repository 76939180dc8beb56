"""Counting the tokens of a request before it is made, by the engine's own tokenizer."""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec

from agl.gateway.answers import object_in
from agl.gateway.forward import Forwarder, encode, unreachable
from agl.gateway.problems import Problem
from agl.resources import LLM


async def count(forwarder: Forwarder, llm: LLM, chat: dict[str, Any]) -> int:
    """How many tokens the prompt of a chat request has.

    Engines tell it at `/tokenize` beside their `/v1`: vLLM and the native one do.

    Raises:
        Problem: the endpoint does not tell, or refuses the messages.
    """
    at = msgspec.structs.replace(llm, endpoint=llm.endpoint.rstrip("/").removesuffix("/v1"))
    body = {name: chat[name] for name in ("messages", "tools", "chat_template_kwargs") if name in chat} | {"model": llm.model}
    try:
        async with forwarder.request(at, "POST", "tokenize", data=encode(body)) as upstream:
            told, status = object_in(await upstream.read()), upstream.status
    except (aiohttp.ClientError, TimeoutError) as error:
        raise unreachable(llm, error) from error
    number = (told or {}).get("count")
    if status == 200 and type(number) is int:
        return number
    if status in (400, 413, 422):
        raise Problem(
            status, f"the endpoint cannot count the tokens of this request: {msgspec.json.encode(told).decode()[:500]}", "not_counted"
        )
    raise Problem(
        404,
        f"the endpoint {llm.endpoint} does not count tokens (its `/tokenize` answered {status}); the answer to a call tells its `usage`",
        "not_counted",
    )
