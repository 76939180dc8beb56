"""The gateway forwards the calls of one attempt, records each, and lets nobody else in."""

import asyncio
import json
import socket
from types import SimpleNamespace

import aiohttp
import openai
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from openai import AsyncOpenAI

from agl.errors import ConfigError, GatewayError, StoreError
from agl.gateway.record import call_seed
from agl.gateway.server import Gateway
from agl.gateway.stream import StreamAssembler
from agl.resources import LLM
from agl.spans import SpanStatus
from agl.tasks import Mode
from agl.testing.scripted import Reply, ScriptedServer
from agl.testing.toy_tokens import END, logprob_of, prompt_ids
from agl.transitions import call_of, transitions_of

USER = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}}]
KEY = "sk-upstream-secret-key"


@pytest.fixture
async def server():
    async with ScriptedServer("the answer is 42") as running:
        yield running


@pytest.fixture
async def desk(open_desk, server):
    return await open_desk(server)


# What is recorded.


async def test_a_call_is_answered_and_recorded_with_the_engines_tokens(desk, server):
    answer = await desk.ask(max_tokens=100)
    assert answer.choices[0].message.content == "the answer is 42"
    (span,) = await desk.spans()
    call = call_of(span)
    response = [*b"the answer is 42", END]
    assert (call.prompt_ids, call.choices[0].response_ids) == (prompt_ids(server.requests[0].body), response)
    assert call.choices[0].logprobs == [logprob_of(token) for token in response]
    assert (call.version, call.choices[0].finish_reason, call.streamed, span.parent_id) == ("1", "stop", False, desk.attempt.root_id)
    assert span.attributes["gen_ai.usage.output_tokens"] == len(response)
    assert span.attributes["gen_ai.response.id"] == answer.id
    (item,) = transitions_of([span])
    assert item.trainable


async def test_what_only_the_gateway_asked_for_stays_with_it(desk):
    answer = (await desk.ask()).to_dict()
    assert answer["choices"][0]["logprobs"] is None
    assert "token_ids" not in answer["choices"][0]
    assert "prompt_token_ids" not in answer


async def test_what_the_agent_asked_for_itself_is_given(desk):
    answer = await desk.ask(logprobs=True, extra_body={"return_token_ids": True})
    assert answer.choices[0].logprobs.content[0].logprob == logprob_of(ord("t"))
    assert answer.choices[0].token_ids[-1] == END
    assert answer.prompt_token_ids


async def test_a_streamed_call_arrives_in_pieces(desk):
    chunks = await desk.stream()
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(pieces) > 2
    assert "".join(pieces) == "the answer is 42"


@pytest.mark.parametrize(
    "reply", [Reply("the answer is 42"), Reply("let me add", tool_calls=[("add", {"a": 1}), ("add", {"b": 2})]), Reply("")]
)
async def test_the_record_of_a_streamed_call_equals_that_of_an_unstreamed_one(open_desk, reply):
    async with ScriptedServer(lambda body: reply, weight_version="7") as server:
        plain, streamed = await open_desk(server), await open_desk(server)
        await plain.ask(tools=TOOLS)
        await streamed.stream(tools=TOOLS, stream_options={"include_usage": True})
    (first,), (second,) = await plain.calls(), await streamed.calls()
    assert second.streamed
    assert second.first_token_seconds is not None
    assert (first.prompt_ids, first.choices, first.version) == (second.prompt_ids, second.choices, second.version)

    def answer(call):  # ids count requests; a missing field and a null one are the same
        told = json.loads(json.dumps(call.response).replace("call_1_", "call_2_"))
        message = {name: value for name, value in told["choices"][0]["message"].items() if value}
        return message, told["choices"][0]["finish_reason"], told["usage"], told["object"]

    assert answer(first) == answer(second)


async def test_every_choice_of_a_call_is_recorded(open_desk):
    async with ScriptedServer(["one", "two", "three"]) as server:
        desk = await open_desk(server)
        answer = await desk.ask(n=3)
        assert [choice.message.content for choice in answer.choices] == ["one", "two", "three"]
        spans = await desk.spans()
    assert [bytes(item.response_ids[:-1]) for item in transitions_of(spans)] == [b"one", b"two", b"three"]


async def test_tools_and_unknown_fields_pass_through(open_desk):
    async with ScriptedServer(lambda body: Reply(tool_calls=[("add", {"a": 1})])) as server:
        desk = await open_desk(server)
        answer = await desk.ask(tools=TOOLS, tool_choice="required", extra_body={"chat_template_kwargs": {"thinking": False}})
        assert answer.choices[0].message.tool_calls[0].function.name == "add"
        sent = server.requests[0].body
    assert (sent["tools"], sent["tool_choice"], sent["chat_template_kwargs"]) == (TOOLS, "required", {"thinking": False})


async def test_role_parent_and_call_id_are_taken_from_the_headers(desk):
    trace, parent, call = desk.attempt.trace_id, "00000000000000aa", "00000000000000bb"
    headers = {"x-agl-role": "team/%C3%A9crivain", "traceparent": f"00-{trace}-{parent}-01", "x-agl-call": call}
    _, _, answered = await desk.post(headers=headers)
    await desk.post(headers={"traceparent": f"00-{'0' * 32}-{parent}-01", "x-agl-call": "not ours"})
    first, second = await desk.spans()
    assert (first.role, first.parent_id, first.span_id, answered["x-agl-span"]) == ("team/écrivain", parent, call, call)
    assert (second.role, second.parent_id) == (None, desk.attempt.root_id)
    assert all(item.trainable for item in transitions_of([first, second]))


async def test_a_retry_has_a_span_of_its_own_that_names_the_call(open_desk):
    async with ScriptedServer("ok", fail_first=1) as server:
        desk = await open_desk(server, seeded=True)
        for _ in range(2):
            await desk.post(headers={"x-agl-call": "00000000000000bb"})
        seeds = {request.body["seed"] for request in server.requests}
    first, second = await desk.spans()
    assert (first.span_id, call_of(first).retry_of, first.status) == ("00000000000000bb", None, SpanStatus.ERROR)
    assert (second.span_id != first.span_id, call_of(second).retry_of, second.status) == (True, "00000000000000bb", SpanStatus.OK)
    assert len(seeds) == 1
    assert desk.attempt.infrastructure_error is None
    assert desk.attempt.call_spans == {"00000000000000bb": second.span_id}


# What is sent.


async def test_the_resource_decides_the_sampling_and_the_agents_own_values_are_recorded(open_desk, server):
    desk = await open_desk(server, sampling_parameters={"temperature": 1.0, "top_p": 0.9})
    await desk.ask(temperature=0.2, max_tokens=30)
    sent = server.requests[0].body
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], sent["model"]) == (1.0, 0.9, 30, "policy")
    (call,) = await desk.calls()
    assert call.overridden == {"temperature": 0.2, "top_p": None, "model": "users-model", "return_token_ids": None, "logprobs": None}
    assert call.request == sent


async def test_outside_training_the_eval_parameters_hold(open_desk, server):
    values = {"sampling_parameters": {"temperature": 1.0, "top_p": 0.9}, "eval_parameters": {"temperature": 0.0}}
    await (await open_desk(server, mode=Mode.VAL, **values)).ask()
    assert (server.requests[0].body["temperature"], server.requests[0].body["top_p"]) == (0.0, 0.9)


@pytest.mark.parametrize(("ours", "theirs"), [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")])
async def test_a_token_limit_goes_under_the_agents_name_for_it(open_desk, server, ours, theirs):
    desk = await open_desk(server, sampling_parameters={ours: 5})
    await desk.ask(**{theirs: 50})
    assert (server.requests[0].body[theirs], ours in server.requests[0].body) == (5, False)


async def test_a_model_that_nobody_trains_is_asked_for_no_tokens(open_desk, server):
    desk = await open_desk(server, version=None)
    await desk.ask()
    assert "return_token_ids" not in server.requests[0].body
    assert [item.untrained for item in transitions_of(await desk.spans())] == ["the endpoint gave no token ids"]


async def test_seeds_follow_from_the_rollouts_seed_and_the_number_of_the_call(open_desk, server):
    for seed in (5, 5, 6):
        desk = await open_desk(server, seeded=True, seed=seed)
        for _ in range(3):
            await desk.ask()
    seeds = [request.body["seed"] for request in server.requests]
    assert seeds[:3] == seeds[3:6] == [call_seed(5, None, number) for number in range(3)]
    assert len(set(seeds)) == 6
    assert all(0 <= seed < 2**31 for seed in seeds)


async def test_seeds_of_parallel_branches_do_not_depend_on_which_calls_first(open_desk, server):
    for order in ("ab", "ba"):
        desk = await open_desk(server, seeded=True)
        for role in order:
            await desk.post(headers={"x-agl-role": role})
    seeds = [request.body["seed"] for request in server.requests]
    assert seeds[:2] == seeds[:1:-1]
    assert len(set(seeds)) == 2


async def test_an_agents_own_seed_is_kept(open_desk, server):
    await (await open_desk(server, seeded=True)).ask(seed=3)
    assert server.requests[0].body["seed"] == 3


async def test_calls_go_to_the_resource_whose_model_they_name_else_to_the_first(open_desk):
    async with ScriptedServer("policy") as policy, ScriptedServer("judge") as judge:
        desk = await open_desk(policy)
        llms = {"main_llm": LLM(endpoint=policy.base_url(), model="p"), "judge_llm": LLM(endpoint=judge.base_url(), model="j")}
        desk.gateway.open(desk.attempt, llms)
        answers = []
        async with AsyncOpenAI(base_url=desk.llm.base_url, api_key="any", max_retries=0) as client:
            for model in ("p", "j", "gpt-x"):
                answer = await client.chat.completions.create(model=model, messages=USER)
                answers.append(answer.choices[0].message.content)
    assert answers == ["policy", "judge", "policy"]


async def test_two_resources_that_cannot_be_told_apart_are_refused(open_desk, server):
    desk = await open_desk(server)
    with pytest.raises(ConfigError, match="`a` and `b` both have the model name `m`"):
        desk.gateway.open(desk.attempt, {"a": LLM(endpoint="http://x/v1", model="m"), "b": LLM(endpoint="http://y/v1", model="m")})


# Who is let in.


async def test_the_upstreams_key_goes_upstream_and_never_to_the_agent(open_desk):
    script = [Reply("ok"), Reply(f"Incorrect API key provided: {KEY}", status=401)]
    async with ScriptedServer(script) as server:
        desk = await open_desk(server)
        _, answer, headers = await desk.post(headers={"Authorization": f"Bearer {desk.llm.api_key}"})
        status, refusal, _ = await desk.post()
        assert [request.headers["authorization"] for request in server.requests] == [f"Bearer {KEY}"] * 2
    assert KEY not in json.dumps(answer) + str(headers) + desk.llm.api_key + desk.llm.endpoint
    assert (status, refusal["error"]["message"]) == (401, "Incorrect API key provided: ***")
    assert all(KEY not in str(span) for span in await desk.spans())


@pytest.mark.parametrize("name", ["Authorization", "api-key"])
async def test_another_attempts_key_is_refused(open_desk, server, name):
    desk, other = await open_desk(server), await open_desk(server)
    status, body, _ = await desk.post(headers={name: f"Bearer {other.llm.api_key}" if name == "Authorization" else other.llm.api_key})
    assert (status, body["error"]["code"], server.requests) == (401, "wrong_key", [])
    assert (await desk.post(headers={"Authorization": "Bearer agl-é"}))[0] == 401


async def test_another_attempts_key_opens_no_route_at_all(open_desk, server):
    import aiohttp

    desk, other = await open_desk(server), await open_desk(server)
    place = {"rollout": desk.attempt.rollout.rollout_id, "attempt": desk.attempt.attempt_id}
    routes = {(route.method, route.resource.canonical) for route in desk.gateway._runner.app.router.routes()}
    assert len(routes) > 20
    foreign = {"Authorization": f"Bearer {other.llm.api_key}"}
    async with aiohttp.ClientSession() as session:
        for method, path in sorted(routes):
            method, url = "GET" if method == "*" else method, desk.gateway.url + path.format(**place, id="x", tail="models")
            before = len(server.requests)
            async with session.request(method, url, headers=foreign, json={}) as answer:
                assert answer.status == 401, (method, path)
            async with session.request(method, url.replace(place["rollout"], "ro-other"), json={}) as answer:
                assert answer.status == 404, (method, path)
            assert len(server.requests) == before
            async with session.request(method, url, json={}) as answer:  # it is the key that was refused
                assert answer.status != 401, (method, path)
    assert other.attempt.rewards() == []


async def test_the_url_alone_is_enough(desk):
    assert (await desk.post())[0] == (await desk.post(headers={"Authorization": "Bearer sk-the-users-own"}))[0] == 200


async def test_an_attempt_that_has_ended_is_not_found(desk, server):
    await desk.gateway.close(desk.attempt.attempt_id)
    with pytest.raises(openai.NotFoundError, match="no such attempt is running"):
        await desk.ask()
    assert server.requests == []


async def test_the_url_of_one_rollout_does_not_reach_another(open_desk, server):
    desk, other = await open_desk(server), await open_desk(server)
    url = desk.llm.base_url.replace(desk.attempt.rollout.rollout_id, other.attempt.rollout.rollout_id)
    assert (await desk.post(url=url))[0] == 404


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b'"text"', b"\xff"])
async def test_a_body_that_is_no_json_object_is_refused(desk, raw):
    status, body, _ = await desk.post(raw=raw)
    assert (status, body["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_body_that_cannot_be_unpacked_is_refused(desk, coding):
    status, body, _ = await desk.post(raw=b'{"model": "m"}', headers={"Content-Encoding": coding})
    assert (status, body["error"]["code"]) == (400, "invalid_body")


# What goes wrong.


async def test_an_endpoint_that_is_down_is_a_bad_gateway_and_a_failure_of_the_infrastructure(open_desk, server):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        desk = await open_desk(server, endpoint=f"http://127.0.0.1:{closed.getsockname()[1]}/v1")
        with pytest.raises(openai.InternalServerError, match=r"the endpoint http://127\.0\.0\.1.*failed"):
            await desk.ask()
    assert "ClientConnectorError" in desk.attempt.infrastructure_error
    (span,) = await desk.spans()
    assert (span.status, call_of(span).http_status, call_of(span).response) == (SpanStatus.ERROR, 502, None)


@pytest.mark.parametrize(
    ("status", "infrastructure"),
    [(400, False), (413, False), (422, False), (401, True), (404, True), (429, True), (500, True), (503, True)],
)
async def test_a_refusal_is_passed_on_and_is_the_infrastructures_or_the_agents(open_desk, status, infrastructure):
    async with ScriptedServer(lambda body: Reply("too long", status=status, headers={"retry-after": "7", "set-cookie": "a=b"})) as server:
        desk = await open_desk(server)
        got, body, headers = await desk.post()
    assert (got, body["error"]["message"], headers["retry-after"], "set-cookie" in headers) == (status, "too long", "7", False)
    assert (desk.attempt.infrastructure_error is not None) == infrastructure
    (span,) = await desk.spans()
    assert (span.status, call_of(span).http_status, transitions_of([span])[0].untrained) == (SpanStatus.ERROR, status, "the call failed")


async def test_a_call_that_succeeds_later_clears_the_failure(open_desk):
    async with ScriptedServer("ok", fail_first=1) as server:
        desk = await open_desk(server)
        await desk.post()
        assert desk.attempt.infrastructure_error
        await desk.post()
    assert desk.attempt.infrastructure_error is None


async def test_a_stream_that_breaks_is_an_error_to_the_agent_and_is_never_trained(open_desk):
    async with ScriptedServer(lambda body: Reply("one two three four", drop_after=3)) as server:
        desk = await open_desk(server)
        with pytest.raises(openai.APIError, match="the endpoint's stream broke"):
            await desk.stream()
    assert "stream broke" in desk.attempt.infrastructure_error
    assert [item.untrained for item in transitions_of(await desk.spans())] == ["the call failed"]


async def test_a_client_that_goes_away_leaves_a_span_and_blames_nobody(open_desk):
    async with ScriptedServer(lambda body: Reply("late", delay=5.0)) as server:
        desk = await open_desk(server)
        with pytest.raises(openai.APITimeoutError):
            async with desk.client(timeout=0.2) as client:
                await client.chat.completions.create(model="m", messages=USER)
        async with asyncio.timeout(20):
            while desk.gateway._recorder._flush is None:  # until its end of the connection is seen
                await asyncio.sleep(0.01)
        (span,) = await desk.spans()
    assert (span.status, span.error, call_of(span).http_status) == (SpanStatus.ERROR, "the client went away", 499)
    assert desk.attempt.infrastructure_error is None


async def test_a_client_that_leaves_a_stream_leaves_a_span_and_blames_nobody(open_desk):
    async with ScriptedServer(lambda body: Reply("word " * 50_000)) as server:
        desk = await open_desk(server)
        async with desk.client() as client:
            answers = await client.chat.completions.create(model="m", messages=USER, stream=True)
            async for _ in answers:
                break
            await answers.close()
        await asyncio.sleep(0.3)
        (span,) = await desk.spans()
    assert span.error in ("the client went away", "the attempt ended")
    assert desk.attempt.infrastructure_error is None


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b""])
async def test_a_client_that_leaves_at_the_end_of_a_stream_had_all_of_it(open_desk, end):
    # The SDKs close the connection when they have read `[DONE]`, and the endpoint's own end may come later.
    parts = [{"delta": {"content": "42"}, "token_ids": [52, 50]}, {"finish_reason": "stop"}]

    async def answer(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for part in parts:
            await response.write(b"data: " + json.dumps({"choices": [{"index": 0, **part}]}).encode() + b"\n\n")
        await response.write(end)
        await asyncio.sleep(30)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    async with TestServer(app) as server:
        desk = await open_desk(SimpleNamespace(base_url=lambda: str(server.make_url("/v1"))))
        async with aiohttp.ClientSession() as session:
            body = {"model": "m", "messages": USER, "stream": True}
            async with session.post(f"{desk.llm.base_url}/chat/completions", json=body) as stream:
                await stream.content.readuntil(end or b'"stop"}]}\n\n')
                stream.close()
        while not (calls := desk.gateway._recorder._added):
            await asyncio.sleep(0.01)
        (span,) = await desk.spans()
    call = call_of(span)
    ended = (200, None, [52, 50]) if end else (499, "the client went away", None)
    assert (calls, call.http_status, span.error, call.choices[0].response_ids if call.choices else None) == (1, *ended)


async def test_calls_on_their_way_end_with_the_attempt(open_desk):
    async with ScriptedServer(lambda body: Reply("late", delay=30.0)) as server:
        desk = await open_desk(server)
        asking = asyncio.ensure_future(desk.ask())
        while not server.requests:
            await asyncio.sleep(0.01)
        (span,) = await desk.spans()
        with pytest.raises(openai.APIConnectionError):
            await asking
    assert (span.error, call_of(span).http_status) == ("the attempt ended", 499)


async def test_spans_that_cannot_be_stored_are_not_lost_silently(desk, monkeypatch):
    async def refuse(spans):
        raise StoreError("disk full")

    monkeypatch.setattr(desk.store, "add_spans", refuse)
    await desk.ask()
    with pytest.raises(StoreError, match="disk full"):
        await desk.gateway.close(desk.attempt.attempt_id)


async def test_a_port_in_use_is_named(store):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        gateway = Gateway(store, port=port)
        with pytest.raises(GatewayError, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*gateway_port="):
            await gateway.start()
        await gateway.stop()


# Other routes.


@pytest.mark.parametrize("path", ["/rewards", "/../rewards"])
async def test_a_reward_may_be_posted(desk, path):
    assert (await desk.post(path, {"value": 0.5}))[:2] == (200, {"accepted": True})
    await desk.post(path, {"value": True, "name": "parsed", "span_id": "00000000000000bb", "role": "writer"})
    first, second = desk.attempt.rewards()
    assert (first.value, first.name, first.source) == (0.5, "reward", "agent")
    assert (second.value, second.name, second.span_id, second.role) == (1.0, "parsed", "00000000000000bb", "writer")


@pytest.mark.parametrize("body", [{}, {"value": "high"}, {"value": None}, {"value": 1, "name": 3}, [1]])
async def test_what_is_no_reward_is_refused_with_the_form(desk, body):
    status, answer, _ = await desk.post("/rewards", body)
    assert (status, answer["error"]["code"], desk.attempt.rewards()) == (400, "invalid_reward", [])


async def test_embeddings_pass_through_and_are_no_calls(desk, server):
    async with desk.client() as client:
        assert (await client.embeddings.create(model="m", input="x")).data[0].embedding == [0.0, 1.0]
    assert await desk.spans() == ()
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_embeddings_and_models_go_to_the_endpoint_of_the_model_that_is_named(open_desk):
    asked = []

    async def models(request):
        asked.append(request.path)
        return web.json_response({"id": "x", "object": "model", "created": 0, "owned_by": "x", "data": []})

    app = web.Application()
    app.router.add_get("/v1/models{tail:.*}", models)
    async with ScriptedServer("policy") as policy, ScriptedServer("judge") as judge, TestServer(app) as listing:
        desk = await open_desk(policy)
        other = LLM(endpoint=str(listing.make_url("/v1")), model="other")
        llms = desk.gateway.open(desk.attempt, {"main": policy.llm(model="policy"), "judge": judge.llm(model="judge"), "other": other})
        async with desk.client(base_url=llms["main"].base_url, api_key=llms["main"].api_key) as client:
            for model, options in (("judge", {}), ("unknown", {}), ("unknown", {"extra_headers": {"x-agl-llm": "judge"}})):
                await client.embeddings.create(model=model, input="x", **options)
            assert (len(policy.requests), len(judge.requests)) == (1, 2)
            assert (await client.models.retrieve("other")).id == "x"
            await client.models.list(extra_headers={"x-agl-llm": "other"})
            assert asked == ["/v1/models/other", "/v1/models"]


async def test_a_route_that_cannot_be_trained_says_so_and_makes_no_reward_of_it(desk, server):
    async with desk.client() as client:
        with pytest.raises(openai.NotFoundError, match="the gateway has no `images/generations`; it has chat/completions, completions"):
            await client.images.generate(model="m", prompt="x")
    assert "no `images/generations`" in desk.attempt.infrastructure_error
    assert server.requests == []


# Streams, piece by piece.


def events(*chunks, end=b"data: [DONE]\n\n"):
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + end


def delta(content, **values):
    return {"id": "c", "choices": [{"index": 0, "delta": {"content": content}, **values}]}


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_stream_may_be_cut_anywhere(size):
    data = events(delta("hé"), delta("llo", finish_reason="stop", stop_reason="</s>")).replace(b"\n", b"\r\n") + b": comment\n"
    assembler = StreamAssembler()
    for start in range(0, len(data), size):
        assembler.feed(data[start : start + size])
    choice = assembler.finished()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]) == ("héllo", "stop", "</s>")
    assert assembler.complete


def test_the_last_line_of_a_stream_may_lack_its_end():
    assembler = StreamAssembler()
    assembler.feed(b"data: " + json.dumps(delta("x", finish_reason="stop")).encode())
    assert assembler.finished()["choices"][0]["message"]["content"] == "x"
    assert assembler.complete


def test_a_stream_without_its_end_is_not_complete():
    assembler = StreamAssembler()
    assembler.feed(events(delta("x"), end=b""))
    assembler.finished()
    assert not assembler.complete


def test_an_error_within_a_stream_is_kept():
    assembler = StreamAssembler()
    assembler.feed(events(delta("x"), {"error": {"message": "out of memory"}}))
    assert "out of memory" in assembler.error
