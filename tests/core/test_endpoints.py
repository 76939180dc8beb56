"""A model behind several endpoints: stickiness, least load, what is tried again, deadlines, pauses."""

import asyncio
import contextlib
import email.utils
import re
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import openai
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import agl
from agl.engines import Engine
from agl.errors import ConfigError, GatewayError
from agl.gateway import forward
from agl.gateway.endpoints import Endpoints, Patience, retry_after
from agl.gateway.gate import PAUSE_SECONDS, Gate, Paused
from agl.gateway.recorder import Recorder
from agl.resources import LLM
from agl.spans import SpanStatus
from agl.testing.scripted import Reply, ScriptedServer

QUICK = Patience(tries=3, backoff=0.01, check_every=0.01)
THREE = LLM(endpoint="a", endpoints=("b", "c"), model="m")
ONE = LLM(endpoint="a", model="m")


class Servers:
    """Endpoints that answer as they are told: a status, a status with seconds to wait, or an error."""

    def __init__(self, **says):
        self.says, self.asked, self.looks = says, [], []

    @contextlib.asynccontextmanager
    async def send(self, url):
        self.asked.append(url)
        yield self._answer(url)

    @contextlib.asynccontextmanager
    async def look(self, url):
        self.looks.append(url)
        yield self._answer(url)

    def _answer(self, url):
        said = self.says.get(url, 200)
        said = said.pop(0) if isinstance(said, list) else said
        if isinstance(said, Exception):
            raise said
        status, wait = said if isinstance(said, tuple) else (said, None)
        return SimpleNamespace(status=status, headers={} if wait is None else {"Retry-After": str(wait)}, url=url)


def refused():
    return aiohttp.ClientConnectorError(SimpleNamespace(host="h", port=1, ssl=True), OSError("refused"))


async def ask(endpoints, servers, rollout="r", llm=THREE):
    async with endpoints.reach(llm, rollout, servers.send) as answer:
        return answer.url, answer.status


# Which one.


async def test_the_calls_of_a_rollout_stay_with_one_endpoint_and_rollouts_spread():
    servers = Servers()
    endpoints = Endpoints(servers.look, QUICK)
    for _ in range(2):
        for rollout in ("r1", "r2", "r3", "r4"):
            await ask(endpoints, servers, rollout)
    assert servers.asked == ["a", "b", "c", "a"] * 2


async def test_a_new_rollout_goes_where_fewest_calls_are_on_their_way():
    servers = Servers()
    endpoints = Endpoints(servers.look, QUICK)
    async with endpoints.reach(THREE, "r1", servers.send), endpoints.reach(THREE, "r2", servers.send):
        assert await ask(endpoints, servers, "r3") == ("c", 200)
        for rollout in ("r1", "r2"):
            endpoints.forget(rollout)
        assert await ask(endpoints, servers, "r4") == ("c", 200)  # it has a rollout, the others have calls


async def test_a_rollout_that_ended_is_forgotten():
    servers = Servers()
    endpoints = Endpoints(servers.look, QUICK)
    for rollout in ("r1", "r2", "r3"):
        await ask(endpoints, servers, rollout)
    endpoints.forget("r2")
    endpoints.forget("nobody")
    assert await ask(endpoints, servers, "r4") == ("b", 200)


# What is tried again.


async def test_a_call_moves_on_from_an_endpoint_that_cannot_be_reached_and_stays_there():
    servers = Servers(a=refused())
    endpoints = Endpoints(servers.look, QUICK)
    assert await ask(endpoints, servers) == ("b", 200)
    assert await ask(endpoints, servers) == ("b", 200)
    assert servers.asked == ["a", "b", "b"]
    await endpoints.stop()


async def test_an_endpoint_that_is_down_gets_no_new_rollouts_until_it_answers_again():
    servers = Servers(a=refused())
    endpoints = Endpoints(servers.look, QUICK)
    await ask(endpoints, servers, "r1")
    assert [(await ask(endpoints, servers, f"x{n}"))[0] for n in range(4)] == ["c", "b", "c", "b"]
    servers.says["a"] = 401  # who answers is there
    async with asyncio.timeout(5):
        while (await ask(endpoints, servers, f"y{time.monotonic()}"))[0] != "a":
            await asyncio.sleep(0.01)
    assert set(servers.looks) == {"a"}
    await endpoints.stop()


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_endpoint_is_left_for_another_one_at_once(status):
    servers = Servers(a=(status, 20), b=status)
    started = time.monotonic()
    assert await ask(Endpoints(servers.look, QUICK), servers) == ("c", 200)
    assert time.monotonic() - started < 5


async def test_an_endpoint_that_says_when_to_come_back_is_asked_again_then():
    servers = Servers(a=[(429, 0.05), (503, 0.05), 200])
    started = time.monotonic()
    assert await ask(Endpoints(servers.look, QUICK), servers, llm=ONE) == ("a", 200)
    assert time.monotonic() - started >= 0.1
    assert servers.asked == ["a"] * 3


@pytest.mark.parametrize(("said", "status"), [(429, 429), (503, 503), ((429, 3600), 429), (500, 500), ((400, 0), 400)])
async def test_other_refusals_are_the_clients_to_see(said, status):
    servers = Servers(a=said)
    assert await ask(Endpoints(servers.look, QUICK), servers, llm=ONE) == ("a", status)
    assert servers.asked == ["a"]


async def test_tries_are_counted_and_wait_longer_each_time():
    servers = Servers(a=refused())
    endpoints = Endpoints(servers.look, QUICK)
    started = time.monotonic()
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask(endpoints, servers, llm=ONE)
    assert servers.asked == ["a"] * 3
    assert time.monotonic() - started >= 0.01 + 0.02
    busy = Servers(a=(503, 0))
    assert await ask(Endpoints(busy.look, QUICK), busy, llm=ONE) == ("a", 503)
    assert busy.asked == ["a"] * 3
    await endpoints.stop()


async def test_a_connection_that_broke_after_the_request_is_only_tried_elsewhere():
    servers = Servers(a=aiohttp.ServerDisconnectedError())
    assert await ask(Endpoints(servers.look, QUICK), servers) == ("b", 200)
    alone = Servers(a=aiohttp.ServerDisconnectedError())
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await ask(Endpoints(alone.look, QUICK), alone, llm=ONE)
    assert alone.asked == ["a"]


async def test_nothing_is_tried_again_once_the_answer_has_begun():
    servers = Servers()
    with pytest.raises(aiohttp.ClientPayloadError):
        async with Endpoints(servers.look, QUICK).reach(THREE, "r", servers.send):
            raise aiohttp.ClientPayloadError
    assert servers.asked == ["a"]


def test_the_time_to_wait_is_read_in_all_its_forms():
    date = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 50 < retry_after({"Retry-After": date}) <= 60
    assert [retry_after(headers) for headers in ({"Retry-After": "2"}, {"retry-after-ms": "500"}, {"Retry-After": "-1"})] == [2.0, 0.5, 0.0]
    assert [retry_after(headers) for headers in ({}, {"Retry-After": "soon"}, {"retry-after-ms": "?"})] == [None, None, None]


# Pauses.


async def test_a_paused_model_holds_new_calls_until_it_goes_on():
    gate, order = Gate(), []

    async def call(model):
        async with gate.passed(model):
            order.append(model)

    with gate.paused(["m"]):
        waiting = asyncio.ensure_future(call("m"))
        await call("other")
        await asyncio.sleep(0.01)
        assert order == ["other"]
    await asyncio.wait_for(waiting, 5)
    assert order == ["other", "m"]


async def test_two_pauses_end_with_the_second():
    gate = Gate(patience=0.02)
    with gate.paused(["m"]):
        with gate.paused():
            pass
        with pytest.raises(Paused, match=r"have been paused for 0.02 s, longer than a call waits"):
            async with gate.passed("m"):
                pass
    async with gate.passed("m"):
        pass


async def test_draining_waits_for_calls_that_are_on_their_way():
    gate = Gate()
    async with gate.passed("m"):
        with pytest.raises(GatewayError, match=r"1 calls have not ended within 0.01 s: \{'m': 1\}"):
            await gate.drained(timeout=0.01)
        await gate.drained(["other"], timeout=0.01)
        draining = asyncio.ensure_future(gate.drained())
        await asyncio.sleep(0)
        assert not draining.done()
    await asyncio.wait_for(draining, 5)


# Through the gateway.


def nowhere():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}/v1"


async def test_a_call_is_answered_by_the_endpoint_that_is_there_and_the_span_says_so(open_desk):
    with ScriptedServer("hi") as server:
        desk = await open_desk(server, endpoint=nowhere(), endpoints=(server.base_url(),))
        assert desk.llm.endpoints == ()
        assert (await desk.ask()).choices[0].message.content == "hi"
        await desk.ask()
        first, second = await desk.spans()
    assert (first.attributes["agl.tries"], first.attributes["agl.endpoint"]) == (2, server.base_url())
    assert "agl.tries" not in second.attributes


async def test_an_endpoint_that_is_nowhere_is_named_after_the_last_try(open_desk):
    with ScriptedServer("hi") as server:
        dead = nowhere()
        desk = await open_desk(server, endpoint=dead)
        with pytest.raises(openai.APIStatusError, match=f"the endpoint {dead} failed: ClientConnectorError"):
            await desk.ask()
        (span,) = await desk.spans()
    assert (span.attributes["agl.tries"], span.status) == (4, SpanStatus.ERROR)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_ends_at_its_deadline_and_the_client_is_told(open_desk, stream):
    late = Reply("a b c d e f", chunk_delay=0.3) if stream else Reply("late", delay=3.0)
    with ScriptedServer(lambda body: late) as server:
        desk = await open_desk(server, deadline=0.5)
        started = time.monotonic()
        with pytest.raises(openai.APIError, match=r"the deadline of 0.5 s is over"):
            await (desk.stream() if stream else desk.ask())
        assert time.monotonic() - started < 2.5
        (span,) = await desk.spans()
    assert "the deadline of 0.5 s is over" in span.error
    assert desk.attempt.infrastructure_error


async def test_calls_wait_while_weights_change(open_desk):
    with ScriptedServer(lambda body: Reply("hi", delay=0.2)) as server:
        desk = await open_desk(server)
        early = asyncio.ensure_future(desk.ask())
        while not server.requests:
            await asyncio.sleep(0.01)
        async with desk.gateway.paused():
            late = asyncio.ensure_future(desk.ask())
            await asyncio.sleep(0.1)
            assert len(server.requests) == 1
        assert [(await call).choices[0].message.content for call in (early, late)] == ["hi", "hi"]
        assert len(server.requests) == 2


async def test_a_call_that_waited_too_long_is_refused_and_leaves_a_span(open_desk, monkeypatch):
    with ScriptedServer("hi") as server:
        desk = await open_desk(server)
        monkeypatch.setattr(desk.gateway._forwarder.gate, "_patience", 0.05)
        async with desk.gateway.paused(["policy"]):
            with pytest.raises(openai.APIStatusError, match=r"calls to the model `policy` have been paused for 0.05 s"):
                await desk.ask()
        (span,) = await desk.spans()
    assert (span.status, desk.attempt.infrastructure_error) == (SpanStatus.ERROR, span.error)


def test_every_endpoint_is_checked_before_a_run_starts():
    with ScriptedServer("hi") as server:
        llm = LLM(endpoint=server.base_url(), endpoints=("no url",), model="m")
        with pytest.raises(ConfigError, match=r"the endpoint of `llm` must be a URL such as .*, given was 'no url'"):
            agl.Trainer(initial_resources={"llm": llm}, quiet=True).dev(agl.rollout(lambda task, llm: 1.0), [{"q": "?"}])


async def test_a_connection_is_not_kept_unused_for_as_long_as_servers_keep_theirs(monkeypatch):
    assert forward.IDLE_SECONDS < 5  # uvicorn's
    monkeypatch.setattr(forward, "IDLE_SECONDS", 0.1)
    peers = []

    async def models(request):
        peers.append(request.transport.get_extra_info("peername")[1])
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    forwarder = forward.Forwarder(Recorder(None))
    await forwarder.start()
    async with TestServer(app) as server:
        for pause in (0.0, 0.0, 0.4):
            await asyncio.sleep(pause)
            async with forwarder.request(LLM(endpoint=str(server.make_url("/v1")), model="m"), "GET", "models") as answer:
                await answer.read()
        await forwarder.stop()
    first, second, third = peers
    assert first == second != third


@agl.rollout
async def caller(task, llm):
    async with openai.AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key, max_retries=0) as client:
        await client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": task["q"]}])
    return 1.0


@pytest.mark.parametrize(("patience", "failure"), [(None, None), ({"tries": 1}, "infrastructure")])
def test_the_patience_of_a_trainer_decides_what_is_tried_again(patience, failure):
    with ScriptedServer("hi", fail_first=99, fail_status=503) as busy, ScriptedServer("hi") as other:
        llm = busy.llm(endpoints=(other.base_url(),))
        trainer = agl.Trainer(initial_resources={"llm": llm}, patience=patience, max_attempts=1, quiet=True)
        [result] = trainer.dev(caller, [{"q": "?"}])
    assert (result.failure, len(busy.requests), len(other.requests)) == (failure, 1, 0 if failure else 1)


def test_patience_comes_from_the_settings_too(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agl.toml").write_text("[trainer]\npatience = {tries = 9, backoff = 0.5}")
    assert agl.Trainer().patience == Patience(tries=9, backoff=0.5)
    assert agl.Trainer(patience={"tries": 2}).patience == Patience(tries=2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"retries": 3}, r"`patience` takes \['tries', 'backoff', 'longest_wait', 'check_every'\], .*unknown field `retries`"),
        ({"tries": 0}, "`tries` must be at least 1"),
        ({"backoff": -1}, "`backoff` and `longest_wait` not negative"),
        ("much", "`patience` takes"),
    ],
)
def test_patience_that_cannot_work_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        agl.Trainer(patience=given)


class Elsewhere(Engine):
    """Serves in another process, and cannot hold calls up."""

    name, model, version = "elsewhere", "scripted", "1"
    start = update = stop = None

    def paused(self, timeout=600.0):
        return contextlib.nullcontext()


class Pauses(agl.Algorithm):
    """Changes its weights while an agent calls."""

    def __init__(self, server, holds_calls):
        self.server, self.engine = server, Elsewhere()
        self.engine.holds_calls = holds_calls

    async def start(self, run):
        return {"llm": self.server.llm()}

    async def fit(self, run):
        async with run.paused(self.engine):
            rolling = asyncio.ensure_future(run.rollout(list(run.train)))
            await asyncio.sleep(1.0)
            self.seen = len(self.server.requests)
        await rolling


@pytest.mark.parametrize("holds_calls", [True, False])
def test_the_gateway_holds_calls_up_for_an_engine_that_cannot(tmp_path, holds_calls):
    with ScriptedServer("hi") as server:
        algorithm = Pauses(server, holds_calls)
        agl.Trainer(algorithm=algorithm, store=tmp_path / "store.sqlite", quiet=True).fit(caller, [{"q": "?"}])
        assert (algorithm.seen, len(server.requests)) == (int(holds_calls), 1)


def test_the_page_says_what_the_code_does():
    page = (Path(__file__).parents[2] / "docs" / "endpoints.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(code, names)
    assert len(names["llm"].endpoints) == 2
    patience = Patience()
    waits = ", ".join(f"{patience.backoff * 2**number:g}" for number in range(patience.tries - 1))
    assert f"the same after {waits} s" in page
    assert patience.tries == 4
    assert f"that is within {patience.longest_wait:g} s" in page
    assert (patience.check_every, PAUSE_SECONDS) == (2.0, 300.0)
