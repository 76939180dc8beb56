"""Routes: what a request to an attempt's URL asks for, and whether it may."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import unquote

import aiohttp
import msgspec
from aiohttp import web

from agl.context import REFUSED
from agl.errors import RewardError
from agl.gateway.answers import object_in
from agl.gateway.attempts import KEY_PREFIX, OpenAttempt, is_span_id
from agl.gateway.conversations import Conversations
from agl.gateway.counting import count
from agl.gateway.dialects import Dialect
from agl.gateway.dialects.chat import Chat
from agl.gateway.dialects.completions import Completions
from agl.gateway.dialects.messages import Messages
from agl.gateway.dialects.native import NativeDialect, native
from agl.gateway.dialects.native_messages import KEY_HEADER, NativeMessages, headers_of
from agl.gateway.dialects.native_responses import NativeResponses
from agl.gateway.dialects.responses import Responses
from agl.gateway.forward import Forwarder, encode, record, unreachable, without_key
from agl.gateway.otlp import OTHER_SIGNALS, receive_traces, refuse_signal
from agl.gateway.problems import Problem
from agl.gateway.record import Exchange, call_seed, upstream_body
from agl.gateway.recorder import Recorder
from agl.gateway.wire import LLM_HEADER, OVERRIDDEN_FIELD, RETRY_HEADER, ROLE_HEADER
from agl.resources import LLM
from agl.rewards import FINAL, make_reward

BASE = "/r/{rollout}/{attempt}"
CHAT, MESSAGES = Chat(), Messages()
RESPONSES = Responses()
DIALECTS: Mapping[str, Dialect] = {"chat/completions": CHAT, "completions": Completions(), "responses": RESPONSES, "messages": MESSAGES}
"""By the path after `/v1/`."""
NATIVE: Mapping[str, NativeDialect] = {"responses": NativeResponses(), "messages": NativeMessages()}
"""By the dialect that an endpoint says it speaks itself."""
COUNTS: Mapping[str, Dialect] = {"responses/input_tokens": RESPONSES, "messages/count_tokens": MESSAGES}
MAX_NESTING = 100
"""Lists and objects in each other in a request."""
PASSED = ("models", "embeddings")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes:
    """Handlers of the gateway's requests.

    Args:
        attempts: those that may call, by id.
        forwarder: makes the calls.
        recorder: where spans of refused calls go.
    """

    def __init__(self, attempts: Mapping[str, OpenAttempt], forwarder: Forwarder, recorder: Recorder) -> None:
        self._attempts, self._forwarder, self._recorder = attempts, forwarder, recorder

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register all of them."""
        for path, dialect in DIALECTS.items():
            router.add_post(f"{BASE}/v1/{path}", self._told(self._calls(dialect), dialect))
        router.add_post(f"{BASE}/v1/v1/messages", self._told(self._calls(MESSAGES), MESSAGES))  # its clients add a `/v1` of their own
        for path, dialect in COUNTS.items():
            router.add_post(f"{BASE}/v1/{path}", self._told(self._counts(path, dialect), dialect))
        self._add_conversations(router)
        for path in ("/rewards", "/v1/rewards"):
            router.add_post(BASE + path, self._told(self._reward, CHAT))
        router.add_post(f"{BASE}/v1/traces", self._told(self._traces, None))
        for signal in OTHER_SIGNALS:
            router.add_post(f"{BASE}/v1/{signal}", self._told(self._other_signal, None))
        router.add_route("*", BASE + "/v1/{tail:.*}", self._told(self._pass_through, None))

    def _add_conversations(self, router: web.UrlDispatcher) -> None:
        kept = Conversations(lambda request: self._authorised(request).memory, _body)
        for method, path, handler in (
            ("GET", "responses/{id}", kept.response),
            ("DELETE", "responses/{id}", kept.response),
            ("POST", "conversations", kept.create),
            ("GET", "conversations/{id}", kept.conversation),
            ("POST", "conversations/{id}", kept.conversation),
            ("DELETE", "conversations/{id}", kept.conversation),
            ("GET", "conversations/{id}/items", kept.items),
            ("POST", "conversations/{id}/items", kept.items),
        ):
            router.add_route(method, f"{BASE}/v1/{path}", self._told(handler, RESPONSES))

    def _told(self, handler: _Handler, dialect: Dialect | None) -> _Handler:
        """A handler whose problems are told in the client's dialect."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except RecursionError:
                problem = Problem(
                    400, f"the body is nested too deeply: more than {MAX_NESTING} lists and objects in each other", "invalid_json"
                )
            except web.RequestPayloadError as error:
                problem = Problem(400, f"the body cannot be read: {error}", "invalid_body")
            except Problem as told:
                problem = told
            spoken = dialect or (MESSAGES if "anthropic-version" in request.headers else CHAT)
            return web.json_response(spoken.error(problem), status=problem.status)

        return handle

    def _authorised(self, request: web.Request) -> OpenAttempt:
        opened = self._attempts.get(request.match_info["attempt"])
        if opened is None or opened.attempt.rollout.rollout_id != request.match_info["rollout"]:
            raise Problem(404, "no such attempt is running; its URL ends with it", "attempt_not_running")
        given = [request.headers.get("Authorization", "").removeprefix("Bearer ").strip()]
        given += [request.headers.get(name, "") for name in ("api-key", "x-api-key")]
        if any(key.startswith(KEY_PREFIX) and not opened.has_key(key) for key in given):
            raise Problem(401, "this key belongs to another attempt", "wrong_key")
        return opened

    def _calls(self, dialect: Dialect) -> _Handler:
        async def call(request: web.Request) -> web.StreamResponse:
            opened = self._authorised(request)
            asked = await _body(request)
            told = asked.pop(OVERRIDDEN_FIELD, None)
            llm = opened.upstream(asked.get("model"), _unquoted(request, LLM_HEADER))
            exchange = self._exchange(request, opened, dialect, asked, llm)
            seed = call_seed(opened.attempt.rollout.seed, exchange.role, opened.number(exchange.role, exchange.call_id))
            own = NATIVE[dialect.name] if dialect.name in llm.dialects else None
            spoken = own or dialect
            try:
                reading = spoken.read(asked, opened.memory)
            except Problem as problem:
                record(self._recorder, opened, exchange, None, problem.status, problem.message, problem.infrastructure)
                raise
            exchange.sent, overridden = upstream_body(reading.chat, llm, opened.attempt.rollout, seed, spoken.token_fields)
            if own is not None:
                exchange.native = native(own, asked, exchange.sent, overridden, request.headers, request.query)
            exchange.overridden = {**cast(dict[str, Any], told), **overridden} if isinstance(told, dict) else overridden
            return await self._forwarder.call(request, spoken, reading, opened, exchange, llm)

        return call

    def _counts(self, path: str, dialect: Dialect) -> _Handler:
        async def counted(request: web.Request) -> web.Response:
            opened = self._authorised(request)
            asked = await _body(request)
            llm = opened.upstream(asked.get("model"), _unquoted(request, LLM_HEADER))
            if dialect.name in llm.dialects:
                told = {"model": llm.model}
                passed = native(NATIVE[dialect.name], asked, told, told, request.headers, request.query)
                return await self._passed(opened, llm, "POST", path, data=encode(passed.body), **passed.options())
            chat = dialect.read({"max_tokens": 1, **asked} if dialect is MESSAGES else asked, opened.memory).chat
            number = await count(self._forwarder, llm, chat)
            return web.json_response({"input_tokens": number} | ({} if dialect is MESSAGES else {"object": "response.input_tokens"}))

        return counted

    def _exchange(self, request: web.Request, opened: OpenAttempt, dialect: Dialect, asked: dict[str, Any], llm: LLM) -> Exchange:
        span_id, call_id, retry_of = opened.identify(request.headers)
        parts = request.headers.get("traceparent", "").split("-")
        above = len(parts) == 4 and is_span_id(parts[2]) and opened.attempt.knows_trace(parts[1])
        retries = request.headers.get(RETRY_HEADER, "")
        return Exchange(
            span_id=span_id,
            trace_id=opened.attempt.trace_id,
            parent_id=parts[2] if above else opened.attempt.root_id,
            role=_unquoted(request, ROLE_HEADER),
            call_id=call_id,
            retry_of=retry_of,
            dialect=dialect.name,
            original=asked if dialect.translated else None,
            sent={},
            overridden={},
            version=llm.version,
            started_at=time.time(),
            retry_count=int(retries) if retries.isascii() and retries.isdigit() and len(retries) < 4 else 0,
        )

    async def _reward(self, request: web.Request) -> web.Response:
        opened = self._authorised(request)
        if not opened.attempt.takes_rewards:
            raise Problem(403, REFUSED, "rewards_refused")
        body = object_in(await request.read())
        if body is not None and body.get("event_type") == "reward":  # as agents of Agent Lightning 1.0 post it
            body = body["data"] if isinstance(body.get("data"), dict) else None
        if body is None or "value" not in body or not all(isinstance(body.get(name), str | None) for name in ("name", "role", "span_id")):
            form = '{"value": 1.0, "name": "reward", "role": null, "span_id": null}'
            raise Problem(400, f"a reward is posted as {form}; only `value` is needed", "invalid_reward")
        try:
            given = {"span_id": body.get("span_id"), "role": body.get("role")}
            reward = make_reward(body["value"], name=body.get("name") or FINAL, source="agent", **given)
        except RewardError as error:
            raise Problem(400, str(error), "invalid_reward") from None
        opened.attempt.add_reward(reward)
        return web.json_response({"accepted": True})

    async def _traces(self, request: web.Request) -> web.Response:
        return await receive_traces(request, self._authorised(request), self._recorder)

    async def _other_signal(self, request: web.Request) -> web.Response:
        self._authorised(request)
        return await refuse_signal(request)

    async def _pass_through(self, request: web.Request) -> web.Response:
        opened = self._authorised(request)
        tail = request.match_info["tail"]
        if tail not in PASSED and not tail.startswith("models/"):
            message = f"the gateway has no `{tail}`; it has {', '.join([*DIALECTS, *PASSED])}"
            # Not the agent's behaviour, so no reward may come of it: an agent of this kind cannot be trained.
            opened.attempt.infrastructure_error = message
            raise Problem(404, message, "not_found")
        raw = await request.read()
        model = tail.partition("/")[2] or (object_in(raw) or {}).get("model")
        llm = opened.upstream(model, _unquoted(request, LLM_HEADER))
        options: dict[str, Any] = {"headers": {"Content-Type": request.headers.get("Content-Type", "application/json")}}
        if "anthropic-version" in request.headers and "messages" in llm.dialects:
            options = {"headers": headers_of(request.headers), "key_header": KEY_HEADER}
        return await self._passed(opened, llm, request.method, tail, data=raw, **options)

    async def _passed(self, opened: OpenAttempt, llm: LLM, method: str, path: str, **request: Any) -> web.Response:
        """What an endpoint answers to a request that is no call."""
        try:
            async with self._forwarder.request(llm, method, path, **request) as upstream:
                raw = await upstream.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            problem = unreachable(llm, error)
            opened.attempt.infrastructure_error = problem.message
            raise problem from error
        return web.Response(status=upstream.status, body=without_key(raw, llm), content_type=upstream.content_type)


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(await request.read(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Problem(400, f"the body is not a JSON object: {error}", "invalid_json") from None
    _check_nesting(body)
    return body


def _check_nesting(body: dict[str, Any]) -> None:
    """What is nested without end could be recorded, and not be read again."""
    level: list[Any] = [body]
    for _ in range(MAX_NESTING):
        level = [inner for held in level for inner in _inside(held) if type(inner) is dict or type(inner) is list]
        if not level:
            return
    raise RecursionError


def _inside(held: Any) -> Iterable[Any]:
    return cast("dict[str, Any]", held).values() if type(held) is dict else cast("list[Any]", held)


def _unquoted(request: web.Request, header: str) -> str | None:
    return unquote(request.headers[header]) if header in request.headers else None
