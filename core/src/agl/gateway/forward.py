"""Forwarding: one call goes to its upstream, its answer to the client, and a span of it to the recorder."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from agl.gateway.answers import answer_in, object_in
from agl.gateway.attempts import OpenAttempt
from agl.gateway.dialects import Dialect, Reading
from agl.gateway.endpoints import Endpoints, Patience
from agl.gateway.gate import Gate, Paused
from agl.gateway.problems import Problem
from agl.gateway.record import Exchange, make_span
from agl.gateway.recorder import Recorder
from agl.gateway.wire import NOT_THE_AGENTS, SPAN_HEADER
from agl.resources import LLM
from agl.spans import Span

CONNECT_SECONDS = 10.0
CALL_SECONDS = 600.0
"""Longest silence of an upstream within a call."""
IDLE_SECONDS = 4.0
"""Longest that a connection to an upstream is kept unused: servers that run on uvicorn, as vLLM does, close theirs after five."""
JSON = {"Content-Type": "application/json"}
PASSED_HEADERS = ("Retry-After", "retry-after-ms", "x-should-retry", "x-request-id")


class Forwarder:
    """Makes calls to upstreams.

    Args:
        recorder: where spans go.
        patience: with endpoints that do not answer.
    """

    def __init__(self, recorder: Recorder, patience: Patience | None = None) -> None:
        self._recorder = recorder
        self._session: aiohttp.ClientSession | None = None
        self.endpoints = Endpoints(self._look, patience)
        self.gate = Gate()

    async def start(self) -> None:
        """Be ready for calls."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=CALL_SECONDS)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS)
        cookies = aiohttp.DummyCookieJar()  # one attempt's must not reach another's calls
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=cookies)

    async def stop(self) -> None:
        """Let go of connections."""
        await self.endpoints.stop()
        if self._session is not None:
            await self._session.close()

    def request(self, llm: LLM, method: str, path: str, **body: Any) -> Any:
        """A request to an upstream, as a context: the one place where its address and key are put in."""
        assert self._session is not None
        name = body.pop("key_header", "Authorization")
        key = {name: f"Bearer {llm.api_key}" if name == "Authorization" else llm.api_key} if llm.api_key else {}
        return self._session.request(method, f"{llm.endpoint.rstrip('/')}/{path}", headers=key | body.pop("headers", JSON), **body)

    def _look(self, endpoint: str) -> Any:
        """A request that shows whether an endpoint answers. Without its key: a refusal is an answer, too."""
        assert self._session is not None
        return self._session.get(f"{endpoint.rstrip('/')}/models", timeout=aiohttp.ClientTimeout(total=CONNECT_SECONDS))

    async def call(
        self, request: web.Request, dialect: Dialect, reading: Reading, opened: OpenAttempt, exchange: Exchange, llm: LLM
    ) -> Any:
        """Answer a call.

        Raises:
            Problem: the upstream cannot be reached, or gave no answer.
            asyncio.CancelledError: the client went away, or the attempt ended.
        """
        native, call = exchange.native, _Call(self._recorder, dialect, reading, opened, exchange, llm)
        body, options = (encode(native.body), native.options()) if native else (encode(exchange.sent), {})

        def send(endpoint: str) -> Any:
            exchange.tries += 1
            exchange.endpoint = endpoint if llm.endpoints else None
            return self.request(msgspec.structs.replace(llm, endpoint=endpoint), "POST", dialect.path, data=body, **options)

        with opened.calling():
            try:
                async with (
                    self.gate.passed(llm.model, opened.attempt.deadline.held),
                    asyncio.timeout(llm.deadline) as deadline,
                    self.endpoints.reach(llm, opened.attempt.rollout.rollout_id, send) as upstream,
                ):
                    if upstream.status == 200 and upstream.content_type == "text/event-stream":
                        until = deadline.when()
                        deadline.reschedule(None)  # from here on the client can only be told in the stream
                        return await call.stream(request, upstream, until)
                    raw = await upstream.read()
                return call.whole(upstream, raw)
            except (asyncio.CancelledError, _ClientGone):
                why = "the attempt ended" if opened.ended else "the client went away"
                call.record(response=None, status=499, error=why)
                raise asyncio.CancelledError(why) from None
            except Paused as problem:
                call.record(response=None, status=problem.status, error=problem.message, infrastructure=True)
                raise
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = unreachable(msgspec.structs.replace(llm, endpoint=exchange.endpoint or llm.endpoint), error)
                call.record(response=None, status=502, error=problem.message, infrastructure=True)
                raise problem from error


class _Call:
    """One call whose request is made."""

    def __init__(self, recorder: Recorder, dialect: Dialect, reading: Reading, opened: OpenAttempt, exchange: Exchange, llm: LLM) -> None:
        self._recorder, self._dialect, self._reading = recorder, dialect, reading
        self._opened, self._exchange, self._llm = opened, exchange, llm
        self._recorded = False

    def whole(self, upstream: aiohttp.ClientResponse, raw: bytes) -> web.Response:
        """The client's answer to what is no stream."""
        body, headers = self._read(raw), {SPAN_HEADER: self._exchange.span_id}
        if upstream.status == 200 and body is not None:
            try:
                answer = self._reading.answer(body, self._exchange.span_id)
            except Problem as problem:
                self.record(response=None, status=problem.status, error=problem.message, infrastructure=True)
                raise
            self.record(response=body, status=200, error=None)
            return web.Response(body=encode(answer), content_type="application/json", headers=headers)
        raw = without_key(raw, self._llm)
        error = f"the endpoint answered {upstream.status}: {raw[:500].decode(errors='replace')}"
        status = 502 if upstream.status == 200 else upstream.status
        self.record(response=None, status=status, error=error, infrastructure=status >= 500 or status in NOT_THE_AGENTS)
        headers |= {name: upstream.headers[name] for name in PASSED_HEADERS if name in upstream.headers}
        kind = "application/json" if self._dialect.translated else upstream.content_type
        return web.Response(status=status, body=self._dialect.refusal(status, raw), content_type=kind, headers=headers)

    def _read(self, raw: bytes) -> dict[str, Any] | None:
        wanted = self._exchange.overridden.get("logprobs", True) or self._dialect.path != "chat/completions"
        return object_in(raw) if wanted else answer_in(raw)

    async def stream(self, request: web.Request, upstream: aiohttp.ClientResponse, until: float | None) -> web.StreamResponse:
        """The client's answer to a stream, written as it arrives; it must have ended at the event loop's time `until`."""
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", SPAN_HEADER: self._exchange.span_id}
        response = web.StreamResponse(headers=headers)
        assembler, writer = self._reading.assembler(), self._reading.writer(self._exchange.span_id)
        body, error, ending, told = None, None, b"", False
        await _to_client(response.prepare(request))
        try:
            async with asyncio.timeout_at(until):
                async for data in upstream.content.iter_any():
                    lines = list(assembler.lines(data))
                    if self._exchange.first_token_at is None and any(line.tokens for line in lines):
                        self._exchange.first_token_at = time.time()
                    await _to_client(response.write(writer.write(lines)))
                    told = assembler.done
            ending = writer.write(list(assembler.last()))
            body = assembler.finished()
            error = assembler.error or (None if assembler.complete else "the endpoint's stream ended before its end")
            ending += b"" if error else writer.end(body)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as failure:
            error = f"the endpoint's stream broke: {_said(failure, self._llm)}"
        except Problem as problem:
            error = problem.message
        except (asyncio.CancelledError, _ClientGone):
            # SDKs close the connection at the answer's own end, which may be before the endpoint does: such a call is whole.
            if told and not (self._dialect.translated or assembler.error):
                with contextlib.suppress(Problem, msgspec.DecodeError):
                    self.record(response=assembler.finished(), status=200, error=None)
            raise
        self.record(response=None if error else body, status=200, error=error, infrastructure=error is not None)
        if error and (self._dialect.translated or not assembler.error):  # the status is sent: the client can only be told in the stream
            ending += writer.fail(Problem(502, error, "upstream_failed"))
        await _to_client(response.write(ending))
        await _to_client(response.write_eof())
        return response

    def record(self, *, response: dict[str, Any] | None, status: int, error: str | None, infrastructure: bool = False) -> None:
        """Keep what became of the call; what is told of it afterwards changes nothing."""
        if self._recorded:
            return
        self._recorded = True
        record(self._recorder, self._opened, self._exchange, response and self._reading.recorded(response), status, error, infrastructure)


def record(
    recorder: Recorder,
    opened: OpenAttempt,
    exchange: Exchange,
    response: dict[str, Any] | None,
    status: int,
    error: str | None,
    infrastructure: bool,
) -> None:
    """Tell the attempt of a call that ended, and have its span made when the client has its answer."""
    attempt, ended_at = opened.attempt, time.time()

    def make() -> Span:
        ids = (attempt.attempt_id, attempt.rollout.rollout_id)
        return make_span(exchange, *ids, response=response, status=status, error=error, ended_at=ended_at)

    if infrastructure:
        attempt.infrastructure_error = error
    if error is None:
        attempt.last_call = exchange.span_id
        attempt.infrastructure_error = None
        if exchange.call_id is not None:
            attempt.call_spans[exchange.call_id] = exchange.span_id
    recorder.add(make)


class _ClientGone(Exception):
    """The agent's side of the connection is closed."""


async def _to_client(writing: Any) -> None:
    # aiohttp says it with an error that is also one of its client's: it must not be taken for the endpoint's.
    try:
        await writing
    except ConnectionError as error:
        raise _ClientGone from error


def unreachable(llm: LLM, error: Exception) -> Problem:
    """An endpoint that gave no answer at all."""
    return Problem(502, f"the endpoint {llm.endpoint} failed: {_said(error, llm)}", "upstream_failed", infrastructure=True)


def _said(error: Exception, llm: LLM) -> str:
    late = type(error) is TimeoutError and llm.deadline is not None
    return f"{type(error).__name__}: {f'the deadline of {llm.deadline:g} s is over' if late else error}"


def without_key(raw: bytes, llm: LLM) -> bytes:
    """An endpoint's words without its key, which refusals like to repeat."""
    return raw.replace(llm.api_key.encode(), b"***") if llm.api_key and len(llm.api_key) >= 8 else raw


encode = msgspec.json.encode
