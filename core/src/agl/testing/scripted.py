"""A scripted server: a language model whose answers a test writes down, in the form of the API that it is asked in.

    async with ScriptedServer(lambda body: "42") as server:
        client = AsyncOpenAI(base_url=server.base_url(), api_key="x")

It speaks OpenAI chat completions (`/v1/chat/completions`), OpenAI Responses (`/v1/responses`) and Anthropic Messages
(`/v1/messages`), whole and streamed, and text completions and embeddings. `with ScriptedServer(...)` runs it in a thread
of its own, for code that blocks. Any path prefix before `/v1` is accepted. Token ids, asked for with vLLM's field names
in chat completions, are those of `agl.testing.toy_tokens`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from agl.testing.dialects import Dialect, dialect_of
from agl.testing.reply import Reply, as_reply

if TYPE_CHECKING:
    from agl.resources import LLM

__all__ = ["Recorded", "Reply", "Script", "ScriptedServer", "as_reply"]


@dataclass(frozen=True)
class Recorded:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: dict[str, Any]
    at: float
    """Unix time in seconds."""


Script = Callable[[dict[str, Any]], Any] | Iterable[Any]


class ScriptedServer:
    """Answers on 127.0.0.1.

    Args:
        script: body (in the dialect of the request) -> text, OpenAI message or `Reply`, sync or async; or the answers in
            their order, the last one repeated.
        fail_first: how many requests to refuse before the script starts.
        fail_status: HTTP status of these refusals.
        weight_version: told with each answer, as engines that swap weights do.
    """

    def __init__(self, script: Script = "ok", *, fail_first: int = 0, fail_status: int = 500, weight_version: str | None = None) -> None:
        self.requests: list[Recorded] = []
        self.abandoned: list[Recorded] = []
        """Requests whose client went away before it had the whole answer."""
        self.weight_version = weight_version
        self.answer = script
        self._fail_first, self._fail_status = fail_first, fail_status
        self._runner: web.AppRunner | None = None
        self._thread: tuple[asyncio.AbstractEventLoop, threading.Thread] | None = None
        self.url = ""

    @property
    def answer(self) -> Callable[[dict[str, Any]], Any]:
        """The script; set it to change what is said from now on."""
        return self._script

    @answer.setter
    def answer(self, script: Script) -> None:
        self._script = script if callable(script) else _in_order(script)

    def llm(self, **values: Any) -> LLM:
        """This server as a resource; `values` are other fields of `agl.LLM`."""
        from agl.resources import LLM

        given: dict[str, Any] = {"endpoint": self.base_url(), "model": "scripted", "version": "1", **values}
        return LLM(**given)

    def base_url(self, prefix: str = "") -> str:
        """What a client takes as its base URL; `prefix` such as `/r/1/a` goes before `/v1`."""
        return f"{self.url}{prefix}/v1"

    async def __aenter__(self) -> ScriptedServer:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/{prefix:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def __enter__(self) -> ScriptedServer:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="agl-scripted-server", daemon=True)
        thread.start()
        self._thread = loop, thread
        asyncio.run_coroutine_threadsafe(self.__aenter__(), loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._thread is not None
        loop, thread = self._thread
        asyncio.run_coroutine_threadsafe(self.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = await request.json()
        recorded = Recorded(request.path, {name.lower(): value for name, value in request.headers.items()}, body, time.time())
        self.requests.append(recorded)
        try:
            return await self._answer(request, body, len(self.requests))
        except (asyncio.CancelledError, ConnectionError):  # there is nobody left to answer
            self.abandoned.append(recorded)
            raise asyncio.CancelledError from None

    async def _answer(self, request: web.Request, body: dict[str, Any], number: int) -> web.StreamResponse:
        dialect = dialect_of(request.path)
        if number <= self._fail_first:
            return _error(dialect, Reply(f"scripted failure {number}", status=self._fail_status))
        if request.path.endswith("/embeddings"):
            return web.json_response({"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.0, 1.0]}]})
        replies = [await self._reply(body) for _ in range(body.get("n") or 1)]
        await asyncio.sleep(max(reply.delay for reply in replies))
        if replies[0].status > 399:
            return _error(dialect, replies[0])
        answer = dialect.answer(number, body, replies, self.weight_version)
        if body.get("stream"):
            return await _stream(request, dialect, replies[0], answer)
        response = web.json_response(answer, headers=replies[0].headers)
        return response if replies[0].drop_after is None else _dropped(request, response)

    async def _reply(self, body: dict[str, Any]) -> Reply:
        answer = self._script(body)
        return as_reply(await answer if inspect.isawaitable(answer) else answer)


async def _stream(request: web.Request, dialect: Dialect, reply: Reply, answer: dict[str, Any]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **reply.headers})
    await response.prepare(request)
    for number, event in enumerate(dialect.events(await request.json(), answer)):
        await asyncio.sleep(reply.chunk_delay)
        if number == reply.drop_after:
            return _dropped(request, response)
        name = f"event: {event.name}\n".encode() if event.name else b""
        await response.write(name + b"data: " + json.dumps(event.data).encode() + b"\n\n")
    await response.write(dialect.end)
    await response.write_eof()
    return response


def _dropped(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.close()
    return response


def _error(dialect: Dialect, reply: Reply) -> web.Response:
    return web.json_response(dialect.error(reply.status, reply.content or "scripted error"), status=reply.status, headers=reply.headers)


def _in_order(script: Iterable[Any]) -> Callable[[dict[str, Any]], Any]:
    answers: list[Any] = [script] if isinstance(script, str) else list(script)
    left = iter(answers)
    return lambda body: next(left, answers[-1])
