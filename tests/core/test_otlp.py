"""OTLP: spans of instrumented agents come in as spans of their attempt, and a run's spans go out as anybody reads them."""

import asyncio
import base64
import gzip
import json
import sys

import aiohttp
import pytest
from aiohttp import web
from click.testing import CliRunner
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

from agl.cli import cli
from agl.context import ActiveAttempt
from agl.errors import ConfigError, GatewayError, NotFoundError
from agl.gateway import otlp as receiver
from agl.gateway.server import Gateway
from agl.otlp import export_otlp, sending
from agl.otlp.sending import headers_from
from agl.resources import LLM, Resources
from agl.rewards import make_reward
from agl.rollouts import AttemptStatus
from agl.spans import SpanKind, SpanStatus
from agl.testing.scripted import Reply, ScriptedServer
from agl.transitions import transitions_of

TRACE, AGENT, CALL, HTTP = "ab" * 16, "a1" * 8, "b2" * 8, "c3" * 8
PROTOBUF, JSON = {"Content-Type": "application/x-protobuf"}, {"Content-Type": "application/json"}


def proto_span(span_id, name, parent="", **values):
    attributes = [KeyValue(key=key, value=value) for key, value in values.pop("attributes", {}).items()]
    ids = {"trace_id": bytes.fromhex(TRACE), "span_id": bytes.fromhex(span_id), "parent_span_id": bytes.fromhex(parent)}
    return ProtoSpan(**ids, name=name, start_time_unix_nano=10**18, end_time_unix_nano=10**18 + 5 * 10**8, attributes=attributes, **values)


def proto_request(*spans):
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.append(KeyValue(key="service.name", value=AnyValue(string_value="my-agent")))
    scope = resource.scope_spans.add()
    scope.scope.name = "my.instrumentation"
    scope.spans.extend(spans)
    return request


def json_span(span_id=CALL, **values):
    return {"traceId": TRACE, "spanId": span_id, "name": "work", "startTimeUnixNano": "1", "endTimeUnixNano": "2", **values}


def json_request(*spans):
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode()


class Desk:
    """A gateway with one open attempt, and a client that has its key."""

    def __init__(self, store, gateway, attempt, llm):
        self.store, self.gateway, self.attempt, self.llm = store, gateway, attempt, llm

    async def post(self, path, body, headers, key=None, url=None):
        headers = {"Authorization": f"Bearer {key or self.llm.api_key}", **headers}
        async with (
            aiohttp.ClientSession() as session,
            session.post((url or self.llm.endpoint) + path, data=body, headers=headers) as answer,
        ):
            return answer.status, await answer.read()

    async def call(self, **headers):
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
        return await self.post("/chat/completions", body, {**JSON, **headers})

    async def send(self, *spans):
        return await self.post("/traces", json_request(*spans), JSON)

    async def spans(self):
        (result,) = await self.store.results([self.attempt.rollout.rollout_id])
        return {span.span_id: span for span in result.spans}

    async def end(self, *rewards):
        await self.gateway.close(self.attempt.attempt_id)
        spans = [self.attempt.make_span(span_id=self.attempt.root_id, name="agent", kind=SpanKind.AGENT, started_at=0.5, ended_at=2.0)]
        await self.store.finish(self.attempt.attempt_id, AttemptStatus.SUCCEEDED, spans=spans, rewards=rewards)


@pytest.fixture
async def server():
    async with ScriptedServer("42") as running:
        yield running


@pytest.fixture
async def open_desk(store, make_rollout, server):
    gateway = Gateway(store)
    await gateway.start()

    async def open_():
        await store.enqueue([make_rollout({"q": "what?"})])
        (rollout,) = await store.claim("run", "w")
        llms = {"main": LLM(endpoint=server.base_url(), model="policy", version="1", api_key="sk-upstream-secret-key")}
        attempt = ActiveAttempt(rollout, Resources(version=0, values=llms))
        return Desk(store, gateway, attempt, gateway.open(attempt, llms)["main"])

    yield open_
    await gateway.stop()


@pytest.fixture
async def desk(open_desk):
    return await open_desk()


# In.


async def test_spans_in_protobuf_become_spans_of_the_attempt(desk):
    chat = {
        "gen_ai.operation.name": AnyValue(string_value="chat"),
        "gen_ai.usage.input_tokens": AnyValue(int_value=7),
        "gen_ai.request.temperature": AnyValue(double_value=0.5),
        "gen_ai.input.messages": AnyValue(string_value='[{"role": "user", "parts": []}]'),
        "map": AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="deep", value=AnyValue(bool_value=True))])),
        "raw": AnyValue(bytes_value=b"\x00\xff"),
    }
    agent = proto_span(AGENT, "invoke_agent solver", attributes={"gen_ai.operation.name": AnyValue(string_value="invoke_agent")})
    request = proto_request(agent, proto_span(CALL, "chat gpt", AGENT, attributes=chat))
    status, answer = await desk.post("/traces", request.SerializeToString(), PROTOBUF)
    assert (status, ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans) == (200, 0)
    spans = await desk.spans()  # they are in the store when they are acknowledged
    agent, call = spans[AGENT], spans[CALL]
    assert (agent.kind, agent.parent_id, agent.trace_id, agent.name) == (SpanKind.AGENT, desk.attempt.root_id, TRACE, "invoke_agent solver")
    assert (call.kind, call.parent_id, call.started_at, call.ended_at) == (SpanKind.MODEL, AGENT, 1e9, 1e9 + 0.5)
    assert call.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.input.messages": [{"role": "user", "parts": []}],
        "map": {"deep": True},
        "raw": base64.b64encode(b"\x00\xff").decode(),
        "service.name": "my-agent",
        "otel.scope.name": "my.instrumentation",
    }


async def test_json_and_gzip_are_taken_too(desk):
    attributes = [{"key": "n", "value": {"intValue": "5"}}, {"key": "s", "value": {"arrayValue": {"values": [{"stringValue": "a"}]}}}]
    body = gzip.compress(json_request(json_span(attributes=attributes)))
    status, answer = await desk.post("/traces", body, {**JSON, "Content-Encoding": "gzip"})
    assert (status, answer) == (200, b"{}")
    span = (await desk.spans())[CALL]
    assert (span.attributes, span.kind) == ({"n": 5, "s": ["a"]}, SpanKind.OPERATION)


async def test_a_model_call_is_counted_once_and_the_gateways_record_hangs_below_it(desk):
    chat = [{"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}}]
    await desk.send(json_span(CALL, attributes=chat), json_span(HTTP, parentSpanId=CALL, name="POST"))
    await desk.call(traceparent=f"00-{TRACE}-{HTTP}-01")
    await desk.end()
    spans = await desk.spans()
    [recorded] = [span for span in spans.values() if span.kind == SpanKind.LLM]
    assert (recorded.parent_id, spans[HTTP].parent_id, spans[CALL].kind) == (HTTP, CALL, SpanKind.MODEL)
    assert [item.span_id for item in transitions_of(list(spans.values()))] == [recorded.span_id]


async def test_a_foreign_trace_is_only_followed_where_its_spans_come(desk):
    await desk.call(traceparent=f"00-{TRACE}-{HTTP}-01")
    await desk.end()
    [recorded] = [span for span in (await desk.spans()).values() if span.kind == SpanKind.LLM]
    assert recorded.parent_id == desk.attempt.root_id


@pytest.mark.parametrize(
    ("attribute", "kind"),
    [
        (("gen_ai.operation.name", "execute_tool"), SpanKind.TOOL),
        (("openinference.span.kind", "LLM"), SpanKind.MODEL),
        (("openinference.span.kind", "CHAIN"), SpanKind.NODE),
        (("traceloop.span.kind", "workflow"), SpanKind.NODE),
        (("http.method", "POST"), SpanKind.OPERATION),
    ],
)
async def test_kinds_are_read_from_the_conventions(desk, attribute, kind):
    await desk.send(json_span(attributes=[{"key": attribute[0], "value": {"stringValue": attribute[1]}}]))
    assert (await desk.spans())[CALL].kind == kind


async def test_how_a_span_ended_is_kept(desk):
    raised = {"name": "exception", "attributes": [{"key": "exception.message", "value": {"stringValue": "boom"}}]}
    words = {"key": "exception.type", "value": {"stringValue": "ValueError"}}
    raised["attributes"].append(words)
    await desk.send(
        json_span(AGENT, status={"code": 2}, events=[raised], links=[{"traceId": TRACE, "spanId": HTTP}]),
        json_span(CALL, status={"code": 2, "message": "key sk-abcdefghijklmnopqrst refused"}),
        json_span(HTTP, endTimeUnixNano="0"),
    )
    spans = await desk.spans()
    assert [(spans[name].status, spans[name].error) for name in (AGENT, CALL, HTTP)] == [
        (SpanStatus.ERROR, "ValueError: boom"),
        (SpanStatus.ERROR, "key *** refused"),
        (SpanStatus.OPEN, None),
    ]
    assert spans[AGENT].attributes["agl.events"][0]["exception.type"] == "ValueError"
    assert spans[AGENT].attributes["agl.links"] == [{"trace_id": TRACE, "span_id": HTTP}]


async def test_secrets_are_left_out_and_agls_own_names_cannot_be_written(desk):
    given = {"api_key": "abc", "text": "Bearer abcdefghijkl", "agl.call": "{}", "agl.role": "writer", "long": "x" * 5000}
    await desk.send(json_span(attributes=[{"key": key, "value": {"stringValue": value}} for key, value in given.items()]))
    span = (await desk.spans())[CALL]
    assert span.role == "writer"
    assert span.attributes == {"api_key": "***", "text": "***", "long": "x" * 2000 + "… (5000 characters)"}


async def test_the_same_request_twice_is_kept_once(desk):
    for _ in range(2):
        assert (await desk.send(json_span()))[0] == 200
    assert len(await desk.spans()) == 1


async def test_a_span_cannot_stand_in_for_the_attempt_or_for_a_call(desk):
    status, answer = await desk.send(json_span(desk.attempt.root_id), json_span(CALL))
    assert (status, json.loads(answer)["partialSuccess"]["rejectedSpans"]) == (200, "1")
    await desk.call(**{"x-agl-call": CALL})
    await desk.end()
    spans = await desk.spans()
    assert spans[desk.attempt.root_id].name == "agent"
    assert spans[CALL].kind == SpanKind.OPERATION
    assert sum(span.kind == SpanKind.LLM for span in spans.values()) == 1


async def test_the_key_of_another_attempt_and_an_attempt_that_ended_are_refused(open_desk):
    one, other = await open_desk(), await open_desk()
    status, answer = await one.post("/traces", json_request(json_span()), JSON, key=other.llm.api_key)
    assert (status, json.loads(answer)["error"]["code"]) == (401, "wrong_key")
    await one.end()
    assert (await one.send(json_span()))[0] == 404
    assert [span.name for span in (await one.spans()).values()] == ["agent"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"spanId": "xyz"}, "`spanId` must be 16 hexadecimal digits that are not all 0, given was `xyz`"),
        ({"spanId": "0" * 16}, "`spanId` must be 16 hexadecimal digits"),
        ({"traceId": "ab"}, "`traceId` must be 32 hexadecimal digits"),
        ({"parentSpanId": "1"}, "`parentSpanId` must be 16"),
        ({"startTimeUnixNano": "soon"}, "a time must be nanoseconds since 1970, given was `soon`"),
        ({"attributes": [{"key": "n", "value": {"intValue": "many"}}]}, "invalid literal"),
    ],
)
async def test_a_span_that_cannot_be_kept_is_rejected_by_name_and_the_others_are_kept(desk, values, words):
    status, answer = await desk.send(json_span(AGENT), json_span(**values))
    told = json.loads(answer)["partialSuccess"]
    assert (status, told["rejectedSpans"]) == (200, "1")
    assert words in told["errorMessage"]
    assert set(await desk.spans()) == {AGENT}


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"no json", JSON, 400),
        (b"[]", JSON, 400),
        (b'{"resourceSpans": 3}', JSON, 400),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"spanId": 1}]}]}]}', JSON, 400),
        (json_request(json_span(attributes=[{"key": "k", "value": {"stringValue": 1}}])), JSON, 400),
        (b"\xff\xff\xff", PROTOBUF, 400),
        (b"no gzip", {**JSON, "Content-Encoding": "gzip"}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"", PROTOBUF, 200),
        (b"{}", JSON, 200),
    ],
)
async def test_whatever_is_sent_is_answered(desk, body, headers, status):
    assert (await desk.post("/traces", body, headers))[0] == status
    assert not await desk.spans()
    assert (await desk.send(json_span()))[0] == 200


async def test_a_value_as_deep_as_it_may_be_does_no_harm(desk):
    value = {"stringValue": "deep"}
    for _ in range(300):
        value = {"arrayValue": {"values": [value]}}
    status, _ = await desk.send(json_span(attributes=[{"key": "deep", "value": value}]))
    assert status in (200, 400)
    assert (await desk.send(json_span(AGENT)))[0] == 200


async def test_what_grows_when_unpacked_is_refused(desk, monkeypatch):
    bomb = gzip.compress(b" " * (65 * 2**20))
    status, _ = await desk.post("/traces", bomb, {**JSON, "Content-Encoding": "gzip"})
    assert status in (400, 413)


async def test_an_attempt_has_room_for_so_many_spans(desk, monkeypatch):
    monkeypatch.setattr(receiver, "MAX_SPANS", 3)
    assert await desk.send(*(json_span(f"{n:016x}") for n in (1, 2))) == (200, b"{}")
    _, answer = await desk.send(*(json_span(f"{n:016x}") for n in (3, 4, 5)))
    assert json.loads(answer)["partialSuccess"] == {"rejectedSpans": "2", "errorMessage": "an attempt may send 3 spans"}
    assert len(await desk.spans()) == 3


@pytest.mark.parametrize("signal", ["metrics", "logs"])
async def test_metrics_and_logs_are_taken_and_not_kept(desk, signal):
    assert await desk.post(f"/{signal}", b"", PROTOBUF) == (200, b"")
    assert desk.attempt.infrastructure_error is None


async def test_without_the_extra_json_is_taken_and_protobuf_says_what_to_install(desk, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("opentelemetry.proto")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.proto", None)
    status, answer = await desk.post("/traces", proto_request().SerializeToString(), PROTOBUF)
    assert status == 415
    assert 'pip install "agl-core[otlp]"' in json.loads(answer)["error"]["message"]
    assert (await desk.send(json_span()))[0] == 200


# Out.


class Collector:
    """An OTLP receiver that reads what it gets."""

    def __init__(self):
        self.answers, self.requests, self.headers = [], [], []
        self.url = ""

    async def take(self, request):
        body = await request.read()
        self.headers.append(dict(request.headers))
        if self.answers and (answer := self.answers.pop(0)) is not None:
            return web.Response(status=answer[0], headers=answer[1], text="told sk-abcdefghijklmnopqrst")
        self.requests.append(ExportTraceServiceRequest.FromString(body) if request.content_type != "application/json" else json.loads(body))
        return web.Response(body=b"", content_type=request.content_type)

    def spans(self):
        return [
            span for request in self.requests for spans in request.resource_spans for scope in spans.scope_spans for span in scope.spans
        ]


@pytest.fixture
async def collector():
    taken = Collector()
    app = web.Application()
    app.router.add_post("/api/v1/traces", taken.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    taken.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api"
    yield taken
    await runner.cleanup()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(sending, "WAIT_SECONDS", 0.01)


def attributes(span):
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


async def test_a_run_is_sent_with_its_ids_its_messages_and_its_rewards(desk, collector):
    await desk.send(json_span(AGENT, name="invoke_agent", attributes=[{"key": "d", "value": {"kvlistValue": {"values": []}}}]))
    await desk.call(traceparent=f"00-{TRACE}-{AGENT}-01")
    await desk.gateway.close(desk.attempt.attempt_id)  # from then on the call is in the store
    [call] = [span for span in (await desk.spans()).values() if span.kind == SpanKind.LLM]
    await desk.end(make_reward(0.5, source="judge"), make_reward(1.0, name="form", source="agent", span_id=call.span_id))
    assert await export_otlp(desk.store, "run", collector.url, {"Authorization": "Basic abc"}) == 3
    assert (collector.headers[0]["Authorization"], collector.headers[0]["Content-Type"]) == ("Basic abc", "application/x-protobuf")
    spans = {span.name: span for span in collector.spans()}
    root, agent, chat = spans["agent"], spans["invoke_agent"], spans["chat policy"]
    assert {span.trace_id.hex() for span in spans.values()} == {desk.attempt.trace_id}
    assert [span.parent_span_id.hex() for span in (root, agent, chat)] == ["", desk.attempt.root_id, AGENT]
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (500_000_000, 2_000_000_000)
    told = attributes(chat)
    assert json.loads(told["gen_ai.input.messages"]) == [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]
    assert json.loads(told["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "42"}], "finish_reason": "stop"}
    ]
    assert (told["openinference.span.kind"], told["output.value"], told["gen_ai.usage.output_tokens"]) == ("LLM", "42", 3)
    assert not any("ids" in name or name == "agl.call" for name in told)
    assert (attributes(agent)["agl.trace_id"], attributes(agent)["d"]) == (TRACE, "{}")
    assert (attributes(root)["agl.reward"], attributes(root)["input.value"]) == (0.5, '{"q":"what?"}')
    assert [[(event.name, attributes(event)["agl.reward.name"]) for event in span.events] for span in (root, chat)] == [
        [("agl.reward", "reward")],
        [("agl.reward", "form")],
    ]


async def test_tokens_are_counted_once(desk, collector):
    def chat(span_id):
        counts = [{"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}}]
        return json_span(span_id, attributes=[*counts, {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "7"}}])

    await desk.send(chat(CALL), json_span(HTTP, parentSpanId=CALL), chat(AGENT))
    await desk.call(traceparent=f"00-{TRACE}-{HTTP}-01")
    await desk.end()
    await export_otlp(desk.store, "run", collector.url)
    told = {span.span_id.hex(): attributes(span).get("gen_ai.usage.input_tokens") for span in collector.spans()}
    assert (told[CALL], told[AGENT]) == (None, 7)
    assert sorted(count for count in told.values() if count) == [5, 7]


@pytest.mark.parametrize(
    ("attribute", "answer"), [("gen_ai.response.id", "chatcmpl-1"), ("output.value", '{"id": "chatcmpl-1", "choices": []}')]
)
async def test_tokens_are_counted_once_where_a_client_sends_no_traceparent(desk, collector, attribute, answer):
    kind = {"key": "openinference.span.kind", "value": {"stringValue": "LLM"}}
    counted = {"key": "llm.token_count.prompt", "value": {"intValue": "5"}}
    told = [kind, counted, {"key": attribute, "value": {"stringValue": answer}}]
    other = [kind, counted, {"key": attribute, "value": {"stringValue": answer.replace("-1", "-x")}}]
    await desk.send(json_span(CALL, attributes=told), json_span(AGENT, attributes=other))
    await desk.call()
    await desk.end()
    await export_otlp(desk.store, "run", collector.url)
    sent = {span.span_id.hex(): attributes(span) for span in collector.spans()}
    assert [sent[span_id].get("llm.token_count.prompt") for span_id in (CALL, AGENT)] == [None, 5]
    assert sent[CALL][attribute] == answer


async def test_what_an_instrumentation_said_of_inputs_and_outputs_stays(desk, collector):
    said = {"openinference.span.kind": "TOOL", "input.value": '{"a":1}', "output.value": "42"}
    await desk.send(json_span(CALL, attributes=[{"key": name, "value": {"stringValue": value}} for name, value in said.items()]))
    await desk.end()
    await export_otlp(desk.store, "run", collector.url)
    [tool] = [attributes(span) for span in collector.spans() if span.span_id.hex() == CALL]
    assert {name: tool[name] for name in said} == said


async def test_an_answer_with_tool_calls_is_shown_with_them(desk, collector, server):
    server.answer = lambda body: Reply("let me add", tool_calls=[("add", {"a": 1})])
    await desk.call()
    await desk.end()
    await export_otlp(desk.store, "run", collector.url)
    [chat] = [attributes(span) for span in collector.spans() if span.name == "chat policy"]
    assert json.loads(chat["output.value"])["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    [told] = json.loads(chat["gen_ai.output.messages"])
    assert ([part["type"] for part in told["parts"]], told["finish_reason"]) == (["text", "tool_call"], "tool_calls")


async def test_what_came_in_goes_out_as_it_was_in_json(desk, collector):
    await desk.send(json_span(AGENT))
    await desk.end()
    assert await export_otlp(desk.store, "run", collector.url + "/v1/traces", protocol="http/json") == 2
    [request] = collector.requests
    sent = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert {(span["spanId"], span.get("parentSpanId")) for span in sent} == {(desk.attempt.root_id, None), (AGENT, desk.attempt.root_id)}


async def test_keys_in_messages_are_not_sent_on(desk, collector):
    body = {"model": "m", "messages": [{"role": "user", "content": "my key is sk-abcdefghijklmnopqrstuvwx, keep it"}]}
    await desk.post("/chat/completions", json.dumps(body).encode(), JSON)
    await desk.end()
    await export_otlp(desk.store, "run", collector.url)
    assert b"sk-abcdef" not in b"".join(request.SerializeToString() for request in collector.requests)
    assert "my key is ***, keep it" in str(collector.requests[0])


async def test_many_spans_go_in_batches(desk, collector, monkeypatch):
    monkeypatch.setattr(sending, "BATCH_SPANS", 4)
    await desk.send(*(json_span(f"{n:016x}") for n in range(1, 10)))
    await desk.end()
    assert await export_otlp(desk.store, "run", collector.url) == 10
    assert [len(request.resource_spans[0].scope_spans[0].spans) for request in collector.requests] == [4, 4, 2]


async def test_long_texts_make_smaller_batches(desk, collector, monkeypatch):
    monkeypatch.setattr(sending, "BATCH_CHARACTERS", 5000)
    long = [{"key": "text", "value": {"stringValue": "x" * 1900}}]
    await desk.send(*(json_span(f"{n:016x}", attributes=long) for n in range(1, 7)))
    await desk.end()
    assert await export_otlp(desk.store, "run", collector.url) == 7
    assert [len(request.resource_spans[0].scope_spans[0].spans) for request in collector.requests] == [2, 2, 3]


async def test_a_busy_receiver_is_asked_again(desk, collector):
    await desk.end()
    collector.answers = [(503, {}), (429, {"Retry-After": "0"}), None]
    assert await export_otlp(desk.store, "run", collector.url) == 1
    assert (len(collector.headers), len(collector.spans())) == (3, 1)


async def test_a_receiver_that_refuses_is_named_with_its_words(desk, collector):
    await desk.end()
    collector.answers = [(401, {})]
    with pytest.raises(GatewayError, match=r"answered 401: told \*\*\*; check the headers \(`--header`\); tries: 1"):
        await export_otlp(desk.store, "run", collector.url)


async def test_a_receiver_that_is_not_there_is_named(desk, monkeypatch):
    monkeypatch.setattr(sending, "TRIES", 2)
    await desk.end()
    with pytest.raises(GatewayError, match=r"the OTLP receiver http://127.0.0.1:1/v1/traces cannot be reached: .*; tries: 2"):
        await export_otlp(desk.store, "run", "http://user:secret@127.0.0.1:1")


async def test_what_cannot_work_is_refused(desk):
    with pytest.raises(NotFoundError):
        await export_otlp(desk.store, "none", "http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="an OTLP endpoint is a URL such as"):
        await export_otlp(desk.store, "run", "localhost:4318")
    with pytest.raises(ConfigError, match="given was 'grpc'"):
        await export_otlp(desk.store, "run", "http://127.0.0.1:1", protocol="grpc")


def test_headers_of_opentelemetry_are_read():
    assert headers_from("authorization=Basic%20abc%3D, x-a=1") == {"authorization": "Basic abc=", "x-a": "1"}
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        headers_from("secret")


async def test_the_command_sends_a_run(desk, collector, store_path, monkeypatch):
    await desk.end()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=1")
    from agl.commands import agl_register_commands

    agl_register_commands(cli)
    command = ["export", "run", "--otlp", collector.url, "--store", str(store_path)]
    done = await asyncio.to_thread(CliRunner().invoke, cli, command)
    assert (done.output, collector.headers[0]["x-key"]) == ("1 spans sent\n", "1")
    done = await asyncio.to_thread(CliRunner().invoke, cli, [*command, "--header", "x-key=2"])
    assert collector.headers[1]["x-key"] == "2"
    for extra, words in ((["--to", "parquet"], "without --to"), (["--store", "none.sqlite"], "there is no store `none.sqlite`")):
        done = await asyncio.to_thread(CliRunner().invoke, cli, [*command, *extra])
        assert done.exit_code != 0
        assert words in done.output
