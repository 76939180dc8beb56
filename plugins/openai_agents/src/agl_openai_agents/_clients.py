"""The OpenAI clients of served models: one connection pool per event loop, whatever client the user's model was made with.

A client's connections belong to the event loop that they were opened in. A user's agent is made once, and its attempts may
run in many loops: `Runner.run_sync` has one in each thread.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import openai

from agl.resources import LLM

_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[bool, Any]] = weakref.WeakKeyDictionary()


def client_for(users: Any, llm: LLM) -> openai.AsyncOpenAI:
    """A client of the attempt's endpoint that tries as often, and waits as long, as the user's.

    Args:
        users: the client that the user's model was made with, or None.
        llm: as the attempt may use it.
    """
    patience = {name: getattr(users, name) for name in ("max_retries", "timeout") if hasattr(users, name)}
    return openai.AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key or "none", http_client=_pool(llm.endpoint), **patience)


def _pool(endpoint: str) -> Any:
    """It keeps no idle connections: nobody would close them when a loop ends, and the gateway is near."""
    encrypted = endpoint.startswith("https:")
    pools = _pools.setdefault(asyncio.get_running_loop(), {})
    if encrypted not in pools:
        limits = type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0)
        # To read the machine's certificates takes a while, in which the loop stands still.
        pools[encrypted] = openai.DefaultAsyncHttpxClient(limits=limits, verify=encrypted)
    return pools[encrypted]
