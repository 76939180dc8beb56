"""The gateway's HTTP side: one base URL and one key per attempt.

`/r/<rollout>/<attempt>/v1/…` is an OpenAI endpoint for that attempt alone and ends with it. The attempt id is
unguessable, so the URL alone is enough for a client that can set nothing else; a client that sends an AGL key must send
the attempt's own. The upstream's key stays here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import unquote

import aiohttp
import msgspec
from aiohttp import web

from agl.context import ActiveAttempt
from agl.errors import ConfigError, GatewayError, RewardError
from agl.gateway.attempts import KEY_PREFIX, OpenAttempt
from agl.gateway.record import Exchange, answer_for_agent, call_seed, make_span, upstream_body
from agl.gateway.stream import StreamAssembler
from agl.gateway.wire import CALL_HEADER, LLM_HEADER, NOT_THE_AGENTS, OVERRIDDEN_FIELD, ROLE_HEADER, SPAN_HEADER
from agl.resources import LLM
from agl.rewards import FINAL, make_reward
from agl.spans import Span
from agl.store.base import Store

CONNECT_SECONDS = 10.0
CALL_SECONDS = 600.0
"""Longest silence of an upstream within a call."""
MAX_BODY = 64 * 2**20
PASSED_HEADERS = ("Retry-After", "retry-after-ms", "x-should-retry", "x-request-id")


class Gateway:
    """Forwards the LLM calls of open attempts and records each.

    Args:
        store: where spans go.
        host: address to bind; the loopback unless told.
        port: 0 for any free one.
    """

    def __init__(self, store: Store, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._store = store
        self._host, self._port = host, port
        self._open: dict[str, OpenAttempt] = {}
        self._spans: list[Span] = []
        self._flush: asyncio.Task[None] | None = None
        self._broken: Exception | None = None
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
        for path in ("/rewards", "/v1/rewards"):
            app.router.add_post(base + path, self._reward)
        app.router.add_route("*", base + "/v1/{tail:.*}", self._pass_through)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=2.0)
        await self._runner.setup()
        try:
            site = web.TCPSite(self._runner, self._host, self._port)
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise GatewayError(
                f"the gateway cannot listen on {self._host}:{self._port}: {error.strerror or error}; "
                "choose another port (`gateway_port=`, 0 for any free one)"
            ) from error
        port = self._runner.addresses[0][1]
        self.url = f"http://{self._host}:{port}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=CALL_SECONDS)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout, json_serialize=_dumps)

    async def stop(self) -> None:
        """Stop listening, and let go of connections when what was called is in the store."""
        for attempt_id in list(self._open):
            self._open.pop(attempt_id).stop_calls()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()
        if self._flush is not None:
            await self._flush

    def open(self, attempt: ActiveAttempt, upstreams: Mapping[str, LLM]) -> dict[str, LLM]:
        """Let an attempt call these models; returns each as the attempt's agent may use it.

        Raises:
            ConfigError: two models share a name, so that a call could not say which it means.
        """
        models: dict[str, str] = {}
        for name, llm in upstreams.items():
            other = models.setdefault(llm.model, name)
            if upstreams[other].endpoint != llm.endpoint:
                raise ConfigError(
                    f"the resources `{other}` and `{name}` both have the model name `{llm.model}`, at different endpoints, "
                    "and calls are told apart by it; give one of the models another name at its server"
                )
        opened = self._open[attempt.attempt_id] = OpenAttempt(attempt, upstreams)
        url = f"{self.url}/r/{attempt.rollout.rollout_id}/{attempt.attempt_id}/v1"
        return {
            name: msgspec.structs.replace(
                llm, endpoint=url, api_key=opened.key, sampling_parameters=llm.parameters(str(attempt.rollout.mode)), eval_parameters={}
            )
            for name, llm in upstreams.items()
        }

    async def close(self, attempt_id: str) -> None:
        """End an attempt's access, and its calls that are on their way; returns when all its calls are in the store.

        Raises:
            StoreError: they could not be stored.
        """
        opened = self._open.pop(attempt_id, None)
        if opened is None:
            return
        if calls := opened.stop_calls():
            await asyncio.wait(calls)
        if self._flush is not None:
            await asyncio.shield(self._flush)
        if self._broken is not None:
            raise self._broken

    def _authorised(self, request: web.Request) -> OpenAttempt:
        opened = self._open.get(request.match_info["attempt"])
        if opened is None or opened.attempt.rollout.rollout_id != request.match_info["rollout"]:
            raise _problem(web.HTTPNotFound, "no such attempt is running; its URL ends with it", "attempt_not_running")
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip() or request.headers.get("api-key", "")
        if given.startswith(KEY_PREFIX) and not opened.has_key(given):
            raise _problem(web.HTTPUnauthorized, "this key belongs to another attempt", "wrong_key")
        return opened

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        opened = self._authorised(request)
        try:
            asked = msgspec.json.decode(await request.read(), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise _problem(web.HTTPBadRequest, f"the body is not a JSON object: {error}", "invalid_json") from None
        llm = opened.upstream(asked.get("model"), _unquoted(request, LLM_HEADER))
        exchange = self._exchange(request, opened, asked, llm)
        with opened.calling():
            try:
                return await self._forward(request, opened, exchange, llm)
            except (asyncio.CancelledError, _ClientGone):
                why = "the client went away" if opened.attempt.attempt_id in self._open else "the attempt ended"
                self._record(opened, exchange, response=None, status=499, error=why)
                raise asyncio.CancelledError(why) from None
            except (aiohttp.ClientError, TimeoutError) as error:
                message = f"the endpoint {llm.endpoint} failed: {type(error).__name__}: {error}"
                self._record(opened, exchange, response=None, status=502, error=message, infrastructure=True)
                raise _problem(web.HTTPBadGateway, message, "upstream_failed") from error

    def _exchange(self, request: web.Request, opened: OpenAttempt, asked: dict[str, Any], llm: LLM) -> Exchange:
        role = _unquoted(request, ROLE_HEADER)
        span_id, call_id, retry_of = opened.identify(request.headers.get(CALL_HEADER))
        told = asked.pop(OVERRIDDEN_FIELD, None)
        parts = request.headers.get("traceparent", "").split("-")
        seed = call_seed(opened.attempt.rollout.seed, role, opened.number(role, call_id))
        sent, overridden = upstream_body(asked, llm, opened.attempt.rollout, seed)
        return Exchange(
            span_id=span_id,
            trace_id=opened.attempt.trace_id,
            parent_id=parts[2] if len(parts) == 4 and parts[1] == opened.attempt.trace_id else opened.attempt.root_id,
            role=role,
            call_id=call_id,
            retry_of=retry_of,
            asked=asked,
            sent=sent,
            overridden={**cast(dict[str, Any], told), **overridden} if isinstance(told, dict) else overridden,
            version=llm.version,
            started_at=time.time(),
        )

    async def _forward(self, request: web.Request, opened: OpenAttempt, exchange: Exchange, llm: LLM) -> web.StreamResponse:
        assert self._session is not None
        url = llm.endpoint.rstrip("/") + "/chat/completions"
        async with self._session.post(url, json=exchange.sent, headers=_headers(llm)) as upstream:
            if upstream.status == 200 and upstream.content_type == "text/event-stream":
                return await self._stream(request, opened, exchange, upstream)
            raw = await upstream.read()
        body = _object(raw)
        headers = {SPAN_HEADER: exchange.span_id}
        if upstream.status == 200 and body is not None:
            self._record(opened, exchange, response=body, status=200, error=None)
            return web.Response(body=_encode(answer_for_agent(body, exchange.asked)), content_type="application/json", headers=headers)
        raw = _without_key(raw, llm)
        error = f"the endpoint answered {upstream.status}: {raw[:500].decode(errors='replace')}"
        status = 502 if upstream.status == 200 else upstream.status
        self._record(opened, exchange, response=None, status=status, error=error, infrastructure=status >= 500 or status in NOT_THE_AGENTS)
        headers |= {name: upstream.headers[name] for name in PASSED_HEADERS if name in upstream.headers}
        return web.Response(status=status, body=raw, content_type=upstream.content_type, headers=headers)

    async def _stream(
        self, request: web.Request, opened: OpenAttempt, exchange: Exchange, upstream: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", SPAN_HEADER: exchange.span_id}
        response = web.StreamResponse(headers=headers)
        assembler, body, error = StreamAssembler(), None, None
        await _to_client(response.prepare(request))
        try:
            async for data in upstream.content.iter_any():
                if assembler.feed(data) and exchange.first_token_at is None:
                    exchange.first_token_at = time.time()
                await _to_client(response.write(data))
            body = assembler.finished()
            error = assembler.error or (None if assembler.complete else "the endpoint's stream ended before its end")
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as failure:
            error = f"the endpoint's stream broke: {type(failure).__name__}: {failure}"
        self._record(opened, exchange, response=None if error else body, status=200, error=error, infrastructure=error is not None)
        if error and not assembler.error:  # the status is sent: the client can only be told in the stream
            await _to_client(response.write(b"data: " + _encode({"error": _error(error, "upstream_failed")}) + b"\n\n"))
        await _to_client(response.write_eof())
        return response

    def _record(
        self,
        opened: OpenAttempt,
        exchange: Exchange,
        *,
        response: dict[str, Any] | None,
        status: int,
        error: str | None,
        infrastructure: bool = False,
    ) -> None:
        attempt = opened.attempt
        span = make_span(exchange, attempt.attempt_id, attempt.rollout.rollout_id, response=response, status=status, error=error)
        if infrastructure:
            attempt.infrastructure_error = error
        if error is None:
            attempt.last_call = span.span_id
            attempt.infrastructure_error = None
            if exchange.call_id is not None:
                attempt.call_spans[exchange.call_id] = span.span_id
        self._spans.append(span)
        if self._flush is None or self._flush.done():
            self._flush = asyncio.ensure_future(self._write_spans())

    async def _write_spans(self) -> None:
        """Store what has come up; calls that end meanwhile go into the next write."""
        while self._spans:
            spans, self._spans = self._spans, []
            try:
                await self._store.add_spans(spans)
            except Exception as error:  # told to whoever closes an attempt: no call is lost silently
                self._broken = self._broken or error

    async def _reward(self, request: web.Request) -> web.Response:
        opened = self._authorised(request)
        body = _object(await request.read())
        if body is None or "value" not in body or not all(isinstance(body.get(name), str | None) for name in ("name", "role", "span_id")):
            form = '{"value": 1.0, "name": "reward", "role": null, "span_id": null}'
            raise _problem(web.HTTPBadRequest, f"a reward is posted as {form}; only `value` is needed", "invalid_reward")
        try:
            given = {"span_id": body.get("span_id"), "role": body.get("role")}
            reward = make_reward(body["value"], name=body.get("name") or FINAL, source="agent", **given)
        except RewardError as error:
            raise _problem(web.HTTPBadRequest, str(error), "invalid_reward") from None
        opened.attempt.add_reward(reward)
        return web.json_response({"accepted": True})

    async def _pass_through(self, request: web.Request) -> web.Response:
        opened = self._authorised(request)
        tail = request.match_info["tail"]
        if tail not in ("models", "embeddings"):
            message = f"the gateway has no `{tail}`; it has chat/completions, models, embeddings"
            # Not the agent's behaviour, so no reward may come of it: an agent of this kind cannot be trained.
            opened.attempt.infrastructure_error = message
            raise _problem(web.HTTPNotFound, message, "not_found")
        assert self._session is not None
        llm = opened.upstream()
        url = f"{llm.endpoint.rstrip('/')}/{tail}"
        headers = _headers(llm) | {"Content-Type": request.headers.get("Content-Type", "application/json")}
        try:
            async with self._session.request(request.method, url, data=await request.read(), headers=headers) as upstream:
                raw = await upstream.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            opened.attempt.infrastructure_error = f"the endpoint {llm.endpoint} failed: {type(error).__name__}: {error}"
            raise _problem(web.HTTPBadGateway, opened.attempt.infrastructure_error, "upstream_failed") from error
        return web.Response(status=upstream.status, body=_without_key(raw, llm), content_type=upstream.content_type)


class _ClientGone(Exception):
    """The agent's side of the connection is closed."""


async def _to_client(writing: Any) -> None:
    # aiohttp says it with an error that is also one of its client's: it must not be taken for the endpoint's.
    try:
        await writing
    except ConnectionError as error:
        raise _ClientGone from error


def _unquoted(request: web.Request, header: str) -> str | None:
    return unquote(request.headers[header]) if header in request.headers else None


def _headers(llm: LLM) -> dict[str, str]:
    return {"Authorization": f"Bearer {llm.api_key}"} if llm.api_key else {}


def _without_key(raw: bytes, llm: LLM) -> bytes:
    """An endpoint's words without its key, which refusals like to repeat."""
    return raw.replace(llm.api_key.encode(), b"***") if llm.api_key and len(llm.api_key) >= 8 else raw


def _error(message: str, code: str) -> dict[str, Any]:
    return {"message": message, "type": "agl_gateway", "param": None, "code": code}


def _problem(kind: type[web.HTTPError], message: str, code: str) -> web.HTTPError:
    """An error in OpenAI's form, so that its clients show the message."""
    return kind(text=_dumps({"error": _error(message, code)}), content_type="application/json")


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.DecodeError:
        return None


_encode = msgspec.json.encode


def _dumps(value: Any) -> str:
    return msgspec.json.encode(value).decode()
