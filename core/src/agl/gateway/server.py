"""The gateway's HTTP side: one base URL and one key per attempt.

`/r/<rollout>/<attempt>/v1/…` is an OpenAI endpoint for that attempt alone and ends with it. The attempt id is
unguessable, so the URL alone is enough for a client that can set nothing else; a client that sends an AGL key must send
the attempt's own. The upstream's key stays here.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import aiohttp
import msgspec
from aiohttp import web

from agl.context import ActiveAttempt
from agl.errors import GatewayError, RewardError
from agl.gateway.record import Exchange, StreamAssembler, answer_for_agent, make_span, upstream_body
from agl.resources import LLM
from agl.rewards import make_reward
from agl.spans import Span, new_span_id
from agl.store.sql import SQLStore

KEY_PREFIX = "agl-"
CONNECT_SECONDS = 10.0
CALL_SECONDS = 600.0
"""Longest silence of an upstream within a call."""
MAX_BODY = 64 * 2**20


class _Open:
    """One attempt that may call."""

    def __init__(self, attempt: ActiveAttempt, upstreams: Mapping[str, LLM]) -> None:
        self.attempt = attempt
        self.upstreams = list(upstreams.values())
        self.key = KEY_PREFIX + secrets.token_hex(16)
        self.calls = 0
        self.span_ids: set[str] = set()

    def upstream(self, model: Any = None) -> LLM:
        """The language model that a request names; the first when it names none of them."""
        return next((llm for llm in self.upstreams if llm.model == model), self.upstreams[0])


class Gateway:
    """Forwards the LLM calls of open attempts and records each.

    Args:
        store: where spans go.
        host: address to bind; the loopback unless told.
        port: 0 for any free one.
    """

    def __init__(self, store: SQLStore, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._store = store
        self._host, self._port = host, port
        self._open: dict[str, _Open] = {}
        self._spans: list[Span] = []
        self._flush: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen.

        Raises:
            GatewayError: the port is in use.
        """
        app = web.Application(client_max_size=MAX_BODY)
        base = "/r/{rollout}/{attempt}"
        app.router.add_post(base + "/v1/chat/completions", self._chat)
        app.router.add_post(base + "/rewards", self._reward)
        app.router.add_route("*", base + "/v1/{tail:.*}", self._pass_through)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=2.0)
        await self._runner.setup()
        try:
            site = web.TCPSite(self._runner, self._host, self._port)
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise GatewayError(
                f"the gateway cannot listen on {self._host}:{self._port}: {error.strerror or error}; choose another port (`gateway_port=`, 0 for any free one)"
            ) from error
        port = self._runner.addresses[0][1]
        self.url = f"http://{self._host}:{port}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=CALL_SECONDS)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout, json_serialize=_dumps)

    async def stop(self) -> None:
        """Stop listening and let go of connections."""
        if self._session is not None:
            await self._session.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._flush is not None:
            await self._flush

    def open(self, attempt: ActiveAttempt, upstreams: Mapping[str, LLM]) -> dict[str, LLM]:
        """Let an attempt call these models; returns each as the attempt's agent may use it."""
        opened = self._open[attempt.attempt_id] = _Open(attempt, upstreams)
        url = f"{self.url}/r/{attempt.rollout.rollout_id}/{attempt.attempt_id}/v1"
        return {
            name: msgspec.structs.replace(
                llm, endpoint=url, api_key=opened.key, sampling_parameters=llm.parameters(str(attempt.rollout.mode)), eval_parameters={}
            )
            for name, llm in upstreams.items()
        }

    async def close(self, attempt_id: str) -> None:
        """End an attempt's access; returns when all its calls are in the store.

        Raises:
            StoreError: they could not be stored.
        """
        if self._open.pop(attempt_id, None) is not None and self._flush is not None:
            await asyncio.shield(self._flush)

    def _authorised(self, request: web.Request) -> _Open:
        opened = self._open.get(request.match_info["attempt"])
        if opened is None or opened.attempt.rollout.rollout_id != request.match_info["rollout"]:
            raise _problem(web.HTTPNotFound, "no such attempt is running; its URL ends with it", "attempt_not_running")
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if given.startswith(KEY_PREFIX) and not secrets.compare_digest(given, opened.key):
            raise _problem(web.HTTPUnauthorized, "this key belongs to another attempt", "wrong_key")
        return opened

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        opened = self._authorised(request)
        try:
            asked = msgspec.json.decode(await request.read(), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise _problem(web.HTTPBadRequest, f"the body is not a JSON object: {error}", "invalid_json") from None
        llm = opened.upstream(asked.get("model"))
        exchange = self._exchange(request, opened, asked, llm)
        try:
            return await self._forward(request, opened, exchange, llm)
        except asyncio.CancelledError:
            self._record(opened, exchange, response=None, status=499, error="the client went away")
            raise
        except (aiohttp.ClientError, TimeoutError) as error:
            message = f"the endpoint {llm.endpoint} failed: {type(error).__name__}: {error}"
            opened.attempt.infrastructure_error = message
            self._record(opened, exchange, response=None, status=502, error=message)
            raise _problem(web.HTTPBadGateway, message, "upstream_failed") from error

    def _exchange(self, request: web.Request, opened: _Open, asked: dict[str, Any], llm: LLM) -> Exchange:
        call_id = request.headers.get("x-agl-call")
        fresh = call_id is not None and len(call_id) == 16 and call_id not in opened.span_ids
        span_id = call_id if fresh and call_id else new_span_id()
        opened.span_ids.add(span_id)
        parts = request.headers.get("traceparent", "").split("-")
        parent = parts[2] if len(parts) == 4 and parts[1] == opened.attempt.trace_id else opened.attempt.root_id
        sent, overridden = upstream_body(asked, llm, opened.attempt.rollout, opened.calls)
        opened.calls += 1
        return Exchange(
            span_id=span_id,
            trace_id=opened.attempt.trace_id,
            parent_id=parent,
            role=unquote(request.headers["x-agl-role"]) if "x-agl-role" in request.headers else None,
            call_id=call_id,
            retry_of=None if fresh else call_id,
            asked=asked,
            sent=sent,
            overridden=overridden,
            version=llm.version,
            started_at=time.time(),
        )

    async def _forward(self, request: web.Request, opened: _Open, exchange: Exchange, llm: LLM) -> web.StreamResponse:
        assert self._session is not None
        url = llm.endpoint.rstrip("/") + "/chat/completions"
        async with self._session.post(url, json=exchange.sent, headers=_headers(llm)) as upstream:
            if upstream.status == 200 and upstream.content_type == "text/event-stream":
                return await self._stream(request, opened, exchange, upstream)
            raw = await upstream.read()
        body = _object(raw)
        if upstream.status != 200 or body is None:
            error = f"the endpoint answered {upstream.status}: {raw[:500].decode(errors='replace')}"
            if upstream.status >= 500 or upstream.status == 429:
                opened.attempt.infrastructure_error = error
            self._record(opened, exchange, response=None, status=upstream.status, error=error)
            status = upstream.status if upstream.status != 200 else 502
            return web.Response(status=status, body=raw, content_type=upstream.content_type)
        self._record(opened, exchange, response=body, status=200, error=None)
        return web.Response(body=_encode(answer_for_agent(body, exchange.asked)), content_type="application/json")

    async def _stream(self, request: web.Request, opened: _Open, exchange: Exchange, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        assembler = StreamAssembler()
        async for data in upstream.content.iter_any():
            await response.write(data)
            if assembler.feed(data) and exchange.first_token_at is None:
                exchange.first_token_at = time.time()
        self._record(opened, exchange, response=None if assembler.error else assembler.finished(), status=200, error=assembler.error)
        await response.write_eof()
        return response

    def _record(self, opened: _Open, exchange: Exchange, *, response: dict[str, Any] | None, status: int, error: str | None) -> None:
        rollout = opened.attempt.rollout
        span = make_span(exchange, opened.attempt.attempt_id, rollout.rollout_id, response=response, status=status, error=error)
        if error is None:
            opened.attempt.last_call = span.span_id
            opened.attempt.infrastructure_error = None
        self._spans.append(span)
        if self._flush is None or self._flush.done():
            self._flush = asyncio.ensure_future(self._write_spans())

    async def _write_spans(self) -> None:
        """Store what has come up; calls that end meanwhile go into the next write."""
        while self._spans:
            spans, self._spans = self._spans, []
            await self._store.add_spans(spans)

    async def _reward(self, request: web.Request) -> web.Response:
        opened = self._authorised(request)
        body = _object(await request.read())
        if body is None or "value" not in body:
            raise _problem(web.HTTPBadRequest, 'a reward is posted as {"value": 1.0, "name": "reward"}', "invalid_reward")
        try:
            opened.attempt.add_reward(make_reward(body["value"], name=str(body.get("name", "reward")), source="agent"))
        except RewardError as error:
            raise _problem(web.HTTPBadRequest, str(error), "invalid_reward") from None
        return web.json_response({"accepted": True})

    async def _pass_through(self, request: web.Request) -> web.Response:
        opened = self._authorised(request)
        if request.match_info["tail"] not in ("models", "embeddings"):
            raise _problem(web.HTTPNotFound, f"the gateway has no `{request.match_info['tail']}`; it has chat/completions, models, embeddings", "not_found")
        assert self._session is not None
        llm = opened.upstream()
        url = f"{llm.endpoint.rstrip('/')}/{request.match_info['tail']}"
        headers = _headers(llm) | {"Content-Type": request.headers.get("Content-Type", "application/json")}
        try:
            async with self._session.request(request.method, url, data=await request.read(), headers=headers) as upstream:
                return web.Response(status=upstream.status, body=await upstream.read(), content_type=upstream.content_type)
        except aiohttp.ClientError as error:
            raise _problem(web.HTTPBadGateway, f"the endpoint failed: {error}", "upstream_failed") from error


def _headers(llm: LLM) -> dict[str, str]:
    return {"Authorization": f"Bearer {llm.api_key}"} if llm.api_key else {}


def _problem(kind: type[web.HTTPError], message: str, code: str) -> web.HTTPError:
    """An error in OpenAI's form, so that its clients show the message."""
    body = {"error": {"message": message, "type": "agl_gateway", "param": None, "code": code}}
    return kind(text=_dumps(body), content_type="application/json")


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.DecodeError:
        return None


_encode = msgspec.json.encode


def _dumps(value: Any) -> str:
    return msgspec.json.encode(value).decode()
