"""A scripted OpenAI-compatible server: a language model whose answers a test writes down.

    async with ScriptedServer(lambda body: "42") as server:
        client = AsyncOpenAI(base_url=server.base_url(), api_key="x")

`with ScriptedServer(...)` runs it in a thread of its own, for code that blocks. Any path prefix before `/v1` is accepted.
Token ids, asked for with vLLM's field names, are those of `agl.testing.toy_tokens`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from aiohttp import web

from agl.testing.toy_tokens import END, call_text, logprob_entry, prompt_ids


@dataclass(frozen=True)
class Reply:
    """One answer of the script."""

    content: str | None = None
    tool_calls: Sequence[tuple[str, dict[str, Any]]] = ()
    """Names and arguments of the tools to call."""
    finish_reason: str | None = None
    delay: float = 0.0
    """Seconds before the first byte."""
    status: int = 200
    """Above 399 it is an error with `content` as its message."""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    drop_after: int | None = None
    """Number of chunks of a stream after which the connection breaks."""

    def text(self) -> str:
        """What the toy model samples: the content and its tool calls."""
        calls = [call_text(name, arguments) for name, arguments in self.tool_calls]
        return (self.content or "") + "".join(calls)


@dataclass(frozen=True)
class Recorded:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: dict[str, Any]
    at: float


Script = Callable[[dict[str, Any]], Any] | Iterable[Any]


class ScriptedServer:
    """Answers chat completions (and, plainly, completions, responses and embeddings) on 127.0.0.1.

    Args:
        script: body -> text, message or `Reply`, sync or async; or the answers in their order, the last one repeated.
        fail_first: how many requests to refuse before the script starts.
        fail_status: HTTP status of these refusals.
        weight_version: told with each answer, as engines that swap weights do.
    """

    def __init__(self, script: Script = "ok", *, fail_first: int = 0, fail_status: int = 500, weight_version: str | None = None) -> None:
        self.requests: list[Recorded] = []
        self.weight_version = weight_version
        self._script: Callable[[dict[str, Any]], Any] = script if callable(script) else _in_order(script)
        self._fail_first, self._fail_status = fail_first, fail_status
        self._runner: web.AppRunner | None = None
        self._thread: tuple[asyncio.AbstractEventLoop, threading.Thread] | None = None
        self.url = ""

    def base_url(self, prefix: str = "") -> str:
        """What a client takes as its base URL; `prefix` such as `/r/1/a` goes before `/v1`."""
        return f"{self.url}{prefix}/v1"

    async def __aenter__(self) -> ScriptedServer:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/{prefix:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
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
        self.requests.append(Recorded(request.path, {name.lower(): value for name, value in request.headers.items()}, body, time.time()))
        number = len(self.requests)
        if number <= self._fail_first:
            return _error(Reply(f"scripted failure {number}", status=self._fail_status))
        if request.path.endswith("/embeddings"):
            return web.json_response({"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.0, 1.0]}]})
        replies = [await self._reply(body) for _ in range(body.get("n") or 1)]
        await asyncio.sleep(max(reply.delay for reply in replies))
        if replies[0].status > 399:
            return _error(replies[0])
        if request.path.endswith("/responses"):
            return web.json_response(_response_object(number, body, replies[0]), headers=replies[0].headers)
        completion = self._completion(number, body, replies, chat=request.path.endswith("/chat/completions"))
        if body.get("stream"):
            return await _stream(request, body, replies[0], completion)
        return web.json_response(completion, headers=replies[0].headers)

    async def _reply(self, body: dict[str, Any]) -> Reply:
        answer = self._script(body)
        return as_reply(await answer if inspect.isawaitable(answer) else answer)

    def _completion(self, number: int, body: dict[str, Any], replies: list[Reply], *, chat: bool) -> dict[str, Any]:
        prompt = prompt_ids(body)
        sampled = [_sampled(body, reply) for reply in replies]
        told = [_choice(index, body, reply, ids, number, chat) for index, (reply, ids) in enumerate(zip(replies, sampled, strict=True))]
        count = sum(len(ids) for ids in sampled)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": count, "total_tokens": len(prompt) + count}
        about: dict[str, Any] = {"id": f"chatcmpl-{number}", "object": "chat.completion" if chat else "text_completion"}
        about |= {"created": int(time.time()), "model": body.get("model", "m")}
        about |= {"prompt_token_ids": prompt} if body.get("return_token_ids") else {}
        about |= {"weight_version": self.weight_version} if self.weight_version is not None else {}
        return {**about, "choices": told, "usage": usage}


def as_reply(answer: Any) -> Reply:
    """A `Reply` from a text, an OpenAI message or a `Reply`."""
    if isinstance(answer, Reply):
        return answer
    if isinstance(answer, dict):
        message = cast("dict[str, Any]", answer)
        called = [call["function"] for call in message.get("tool_calls") or ()]
        return Reply(message.get("content"), [(call["name"], json.loads(call["arguments"])) for call in called])
    return Reply(str(answer))


def _sampled(body: dict[str, Any], reply: Reply) -> list[int]:
    ids = [*reply.text().encode(), END]
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or len(ids)
    return ids[:limit]


def _choice(index: int, body: dict[str, Any], reply: Reply, ids: list[int], number: int, chat: bool) -> dict[str, Any]:
    cut = ids[-1] != END  # before its end, by the request's limit
    content = bytes(ids).decode(errors="ignore") if cut else reply.content
    calls = [
        {"id": f"call_{number}_{index}_{place}", "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
        for place, (name, given) in enumerate(() if cut else reply.tool_calls)
    ]
    finish = reply.finish_reason or ("length" if cut else "tool_calls" if calls else "stop")
    told: dict[str, Any] = {"index": index, "finish_reason": finish, "logprobs": None}
    message = {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})
    told |= {"message": message} if chat else {"text": content}
    if body.get("logprobs"):
        told["logprobs"] = {"content": [logprob_entry(token) for token in ids]}
    if body.get("return_token_ids"):
        told["token_ids"] = ids
    return told


async def _stream(request: web.Request, body: dict[str, Any], reply: Reply, completion: dict[str, Any]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **reply.headers})
    await response.prepare(request)
    for number, chunk in enumerate(_chunks(body, completion)):
        if number == reply.drop_after and request.transport is not None:
            request.transport.close()
            return response
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await asyncio.sleep(0)
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _chunks(body: dict[str, Any], completion: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """A completion cut as vLLM streams it: prompt ids on the first chunk, token ids and logprobs beside their text."""
    base = {name: value for name, value in completion.items() if name not in ("choices", "usage", "prompt_token_ids")}
    base["object"] = "chat.completion.chunk"
    for number, choice in enumerate(completion["choices"]):
        start = {"index": choice["index"], "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        prompt = {"prompt_token_ids": completion["prompt_token_ids"]} if number == 0 and "prompt_token_ids" in completion else {}
        yield {**base, **prompt, "choices": [start]}
        for delta, first, last in _deltas(choice):
            piece: dict[str, Any] = {"index": choice["index"], "delta": delta, "finish_reason": None}
            if "token_ids" in choice:
                piece["token_ids"] = choice["token_ids"][first:last]
            if choice["logprobs"]:
                piece["logprobs"] = {"content": choice["logprobs"]["content"][first:last]}
            if last is None:
                piece["finish_reason"] = choice["finish_reason"]
            yield {**base, "choices": [piece]}
    options: dict[str, Any] = body.get("stream_options") or {}
    if options.get("include_usage"):
        yield {**base, "choices": [], "usage": completion["usage"]}


def _deltas(choice: dict[str, Any]) -> Iterable[tuple[dict[str, Any], int, int | None]]:
    """Deltas with the range of tokens each stands for; the last one, open-ended, carries the rest."""
    message, place = choice["message"], 0
    for text in re.findall(r"\s*\S+|\s+$", message["content"] or ""):
        size = len(text.encode())
        yield {"content": text}, place, place + size
        place += size
    for index, call in enumerate(message.get("tool_calls", ())):
        yield {"tool_calls": [{"index": index, **call}]}, place, place
    yield {}, place, None


def _response_object(number: int, body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "output_text", "text": reply.content or "", "annotations": []}
    message: dict[str, Any] = {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": [text]}
    common = {"object": "response", "created_at": int(time.time()), "model": body.get("model", "m")}
    return {"id": f"resp_{number}", "output": [message], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], **common}


def _error(reply: Reply) -> web.Response:
    error = {"message": reply.content or "scripted error", "type": "scripted", "code": reply.status}
    return web.json_response({"error": error}, status=reply.status, headers=reply.headers)


def _in_order(script: Iterable[Any]) -> Callable[[dict[str, Any]], Any]:
    answers: list[Any] = [script] if isinstance(script, str) else list(script)
    left = iter(answers)
    return lambda body: next(left, answers[-1])
