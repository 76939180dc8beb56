"""The fake engine of `benchmarks/gateway.py`, in a process of its own: 512 prompt and 128 response tokens, with ids and logprobs as vLLM gives them.

Every answer has an id of its own, `chatcmpl-<number>`; its tokens follow from the number, so that a record can be checked.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from typing import Any

from aiohttp import web

PROMPT_TOKENS, RESPONSE_TOKENS = 512, 128
VARIANTS = 64
"""Different answers; after as many calls they repeat, under other ids."""
STREAM_SECONDS = 0.001
"""Between two chunks of a stream."""
FIRST = "Firstly"
"""Text of each answer's first token."""
_NUMBER = "000000000000"
"""Where an answer's number goes."""


def prompt_ids(number: int) -> list[int]:
    """(512,) token ids of an answer's prompt."""
    return [(number % VARIANTS * 7919 + index * 31) % 151_643 for index in range(PROMPT_TOKENS)]


def response_ids(number: int) -> list[int]:
    """(128,) token ids of an answer."""
    return [(number % VARIANTS * 104_729 + index * 97) % 151_643 for index in range(RESPONSE_TOKENS)]


def logprobs(number: int) -> list[float]:
    """(128,) natural logs, one for each token of an answer."""
    return [math.log((token % 1000 + 1) / 1001) for token in response_ids(number)]


def answer(number: int) -> dict[str, Any]:
    """A chat completion."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(texts()), "refusal": None, "tool_calls": []},
        "logprobs": {"content": entries(number)},
        "finish_reason": "stop",
        "stop_reason": None,
        "token_ids": response_ids(number),
    }
    usage = {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS + RESPONSE_TOKENS, "completion_tokens": RESPONSE_TOKENS}
    return {**head("chat.completion"), "choices": [choice], "usage": usage, "prompt_token_ids": prompt_ids(number)}


def chunks(number: int) -> list[bytes]:
    """The same as the events of a stream, one for each token."""
    first = choice({"role": "assistant", "content": ""}) | {"logprobs": None}
    events = [{**head("chat.completion.chunk"), "choices": [first], "prompt_token_ids": prompt_ids(number)}]
    for text, entry, token in zip(texts(), entries(number), response_ids(number), strict=True):
        part = choice({"content": text}) | {"logprobs": {"content": [entry]}, "token_ids": [token]}
        events.append({**head("chat.completion.chunk"), "choices": [part]})
    events.append({**head("chat.completion.chunk"), "choices": [choice({}) | {"finish_reason": "stop"}]})
    return [b"data: " + compact(event) + b"\n\n" for event in events] + [b"data: [DONE]\n\n"]


def head(kind: str) -> dict[str, Any]:
    """The fields that all have."""
    return {"id": f"chatcmpl-{_NUMBER}", "object": kind, "created": 1_700_000_000, "model": "policy"}


def choice(delta: dict[str, Any]) -> dict[str, Any]:
    """A part of a streamed answer."""
    return {"index": 0, "delta": delta, "finish_reason": None}


def texts() -> list[str]:
    """One for each token of an answer."""
    return [FIRST, *(f" word{index}" for index in range(1, RESPONSE_TOKENS))]


def entries(number: int) -> list[dict[str, Any]]:
    """Logprobs as vLLM gives them when no alternatives are asked for."""
    told = zip(texts(), logprobs(number), strict=True)
    return [{"token": text, "logprob": value, "bytes": list(text.encode()), "top_logprobs": []} for text, value in told]


def compact(value: Any) -> bytes:
    """As JSON, as engines write it."""
    return json.dumps(value, separators=(",", ":")).encode()


class Engine:
    """Answers each request at once, from bytes made before: it must not be what is measured."""

    def __init__(self) -> None:
        self._answers = [compact(answer(number)).split(_NUMBER.encode()) for number in range(VARIANTS)]
        self._streams = [[chunk.split(_NUMBER.encode()) for chunk in chunks(number)] for number in range(VARIANTS)]
        self._numbers = itertools.count()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Any request is one for a chat completion."""
        asked, number = await request.read(), next(self._numbers)
        name = f"{number:012d}".encode()
        if b'"stream":true' in asked or b'"stream": true' in asked:
            return await self._stream(request, number, name)
        return web.Response(body=name.join(self._answers[number % VARIANTS]), content_type="application/json")

    async def _stream(self, request: web.BaseRequest, number: int, name: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for chunk in self._streams[number % VARIANTS]:
            await response.write(name.join(chunk))
            await asyncio.sleep(STREAM_SECONDS)
        await response.write_eof()
        return response


async def main() -> None:
    """Listen, print the URL, and answer until killed."""
    runner = web.ServerRunner(web.Server(Engine().handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
