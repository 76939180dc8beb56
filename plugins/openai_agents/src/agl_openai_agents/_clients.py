"""The OpenAI clients of served models: one connection pool per event loop, whatever client the user's model was made with.

A client's connections belong to the event loop that they were opened in. A user's agent is made once, and its attempts may
run in many loops: `Runner.run_sync` has one in each thread.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator
from typing import Any

import openai

from agl.resources import LLM

_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[bool, _Pool]] = weakref.WeakKeyDictionary()


class _Pool:
    """The connections of one event loop."""

    def __init__(self, encrypted: bool) -> None:
        # To read the machine's certificates takes a while, in which the loop stands still.
        self.http: Any = openai.DefaultAsyncHttpxClient(verify=encrypted)
        self.open_until_the_loop_ends = _closed_with_the_loop(self.http)


async def client_for(users: Any, llm: LLM) -> openai.AsyncOpenAI:
    """A client of the attempt's endpoint that tries as often, and waits as long, as the user's.

    Args:
        users: the client that the user's model was made with, or None.
        llm: as the attempt may use it.
    """
    patience = {name: getattr(users, name) for name in ("max_retries", "timeout") if hasattr(users, name)}
    http = await _http(llm.endpoint.startswith("https:"))
    return openai.AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key or "none", http_client=http, **patience)


async def _http(encrypted: bool) -> Any:
    pools = _pools.setdefault(asyncio.get_running_loop(), {})
    pool = pools.get(encrypted)
    if pool is None or pool.http.is_closed:
        pool = pools[encrypted] = _Pool(encrypted)
        await anext(pool.open_until_the_loop_ends)
    return pool.http


async def _closed_with_the_loop(http: Any) -> AsyncGenerator[None]:
    """A loop that ends closes its generators, and with this one the connections."""
    try:
        yield
    finally:
        _pools.pop(asyncio.get_running_loop(), None)  # which the generator keeps alive
        await http.aclose()
