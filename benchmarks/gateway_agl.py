"""AGL's gateway for `benchmarks/gateway.py`, in a process of its own: `python gateway_agl.py UPSTREAM STORE`.

It runs as under a Trainer: its loop, its garbage collector, the SQLite store. Lines of JSON come in: `{"open": n}` is answered with URLs and keys of new
attempts, `{"close": true}` when all calls of the open ones are in the store, with the seconds for which that was waited.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from agl.context import ActiveAttempt
from agl.gateway.server import Gateway
from agl.loop import frozen_garbage, run_in_loop
from agl.resources import LLM, Resources
from agl.store.sqlite import SQLiteStore
from agl.testing.running import RUN, make_record, make_rollout


async def serve(upstream: str, path: str) -> None:
    """Answer the lines of the standard input."""
    store = SQLiteStore(path)
    await store.create_run(make_record())
    gateway = Gateway(store)
    await gateway.start()
    say({"url": gateway.url})
    opened: list[str] = []
    with frozen_garbage():
        while line := await asyncio.to_thread(sys.stdin.readline):
            if number := json.loads(line).get("open"):
                urls = await open_attempts(store, gateway, upstream, number)
                opened += [attempt for attempt, _ in urls]
                say({"urls": [at for _, at in urls]})
            else:
                begin = time.perf_counter()
                for attempt in opened:
                    await gateway.close(attempt)
                opened.clear()
                say({"seconds": time.perf_counter() - begin})
    await gateway.stop()
    store.close()


async def open_attempts(store: SQLiteStore, gateway: Gateway, upstream: str, number: int) -> list[tuple[str, list[str]]]:
    """Attempts that may call, each with its URL and key."""
    await store.enqueue([make_rollout() for _ in range(number)])
    found: list[tuple[str, list[str]]] = []
    for rollout in await store.claim(RUN, "worker", number):
        llms = {"policy": LLM(endpoint=upstream, model="policy", version="1", sampling_parameters={"temperature": 1.0})}
        attempt = ActiveAttempt(rollout, Resources(version=0, values=llms))
        llm = gateway.open(attempt, llms)["policy"]
        found.append((attempt.attempt_id, [llm.endpoint, llm.api_key or ""]))
    return found


def say(value: dict[str, Any]) -> None:
    """Answer with a line."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    run_in_loop(lambda: serve(*sys.argv[1:]), say=print)
