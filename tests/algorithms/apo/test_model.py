"""Critic and editor are reached through any endpoint, client or function, and are sent what the user asked for and nothing else."""

import asyncio

import openai
import pytest

from agl.chat import ChatModel, over_http
from agl.errors import ConfigError
from agl.testing import Reply, ScriptedServer
from agl_apo.model import Completion, ModelError, ModelOptions, make_models, over_function

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def server():
    async with ScriptedServer("hello yourself") as running:
        yield running


def critic(server, given=None, **options):
    named = {} if given is not None else {"endpoint": server.base_url()}
    return make_models(given, ModelOptions(model="m", backoff=0.0, **named, **options))[0]


async def test_an_endpoint_gets_the_model_and_the_messages_and_nothing_else(server):
    answer = await critic(server).ask(HELLO)
    assert (answer.text, server.requests[0].body) == ("hello yourself", {"model": "m", "messages": HELLO})
    assert "authorization" not in server.requests[0].headers


async def test_parameters_that_the_user_set_are_sent(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    await critic(server, diversity_temperature=1.0, parameters={"max_tokens": 9}, api_key="$MY_KEY").ask(HELLO)
    assert server.requests[0].body == {"model": "m", "messages": HELLO, "temperature": 1.0, "max_tokens": 9}
    assert server.requests[0].headers["authorization"] == "Bearer secret"


async def test_a_client_object_is_asked_as_openais_own(server):
    async with openai.AsyncOpenAI(base_url=server.base_url(), api_key="own") as client:
        answer = await critic(server, client).ask(HELLO)
    assert answer.text == "hello yourself"
    assert server.requests[0].body == {"model": "m", "messages": HELLO}
    assert server.requests[0].headers["authorization"] == "Bearer own"
    assert answer.input_tokens > 0


async def test_an_async_function_may_return_a_text_or_a_completion_with_its_cost():
    async def plain(messages):
        return messages[0]["content"].upper()

    async def priced(messages):
        return Completion(text="x", input_tokens=5, cost=2.0)

    assert (await make_models(plain, ModelOptions())[0].ask(HELLO)).text == "HELLO"
    model = make_models(priced, ModelOptions(price=(1e6, 0.0)))[0]
    assert (await model.ask(HELLO)).cost == 7.0
    assert (model.usage.requests, model.usage.input_tokens, model.usage.cost) == (1, 5, 7.0)


async def test_half_an_emoji_in_an_answer_is_written_out_so_that_it_can_be_kept():
    async def half(messages):
        return "half \ud83d and nul \0"

    assert (await make_models(half, ModelOptions())[0].ask(HELLO)).text == r"half \ud83d and nul \0"


async def test_a_function_that_returns_something_else_is_named():
    with pytest.raises(ModelError, match=r"the function broken must return a text or an `agl_apo.model.Completion`, it returned 7"):
        await ChatModel(over_function(_broken()), "broken").ask(HELLO)


def _broken():
    async def broken(messages):
        return 7

    return broken


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_endpoint_is_asked_again(server, status):
    answers = iter([Reply("busy", status=status), Reply("busy", status=status), "at last"])
    server.answer = lambda body: next(answers)
    model = critic(server)
    assert (await model.ask(HELLO)).text == "at last"
    assert (model.usage.requests, model.usage.failures) == (1, 2)


async def test_it_waits_as_long_as_the_endpoint_asks_for(server):
    answers = iter([Reply("busy", status=429, headers={"Retry-After": "0.3"}), "at last"])
    server.answer = lambda body: next(answers)
    await critic(server).ask(HELLO)
    assert server.requests[1].at - server.requests[0].at >= 0.3


async def test_a_refusal_is_not_tried_again(server):
    server.answer = lambda body: Reply("no such model", status=404)
    with pytest.raises(ModelError, match=r"m at http://\S+ refused: HTTP 404.*no such model"):
        await critic(server).ask(HELLO)
    assert len(server.requests) == 1


async def test_a_client_that_refuses_is_not_tried_again(server):
    server.answer = lambda body: Reply("no such model", status=404)
    async with openai.AsyncOpenAI(base_url=server.base_url(), api_key="own", max_retries=0) as client:
        with pytest.raises(ModelError, match=r"m by AsyncOpenAI refused: NotFoundError"):
            await critic(server, client).ask(HELLO)


async def test_an_answer_that_is_no_chat_completion_fails_after_the_retries():
    from aiohttp import web
    from aiohttp.test_utils import TestServer

    async def strangely(request):
        return web.json_response({"choices": []})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", strangely)
    async with TestServer(app) as strange:
        model = ChatModel(over_http("a critic's", str(strange.make_url("/v1")), "m", None, {}), "m", retries=1, backoff=0.0)
        with pytest.raises(ModelError, match=r"m failed 2 times; last: the answer is no chat completion"):
            await model.ask(HELLO)


async def test_a_silent_endpoint_has_a_deadline(server):
    server.answer = lambda body: Reply("late", delay=30.0)
    with pytest.raises(ModelError, match=r"gave no answer within 0.2 s"):
        await critic(server, timeout=0.2).ask(HELLO)


async def test_no_more_requests_than_asked_for_are_under_way():
    now, most = 0, 0

    async def counted(messages):
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        await asyncio.sleep(0.01)
        now -= 1
        return "ok"

    model = make_models(counted, ModelOptions(model_concurrency=3))[0]
    await asyncio.gather(*(model.ask(HELLO) for _ in range(10)))
    assert most == 3


def test_without_anything_it_is_openais_with_the_models_of_agent_lightning(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    names = [model.name for model in make_models(None, ModelOptions())]
    assert names == ["gpt-5-mini at https://api.openai.com/v1", "gpt-4.1-mini at https://api.openai.com/v1"]


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        (None, {}, r"the environment variable `OPENAI_API_KEY` is not set; export it, or give `endpoint=` and `model=`"),
        (None, {"endpoint": "http://h/v1", "model": "m", "api_key": "$NOT_SET"}, r"the environment variable `NOT_SET` is not set"),
        (None, {"endpoint": "http://h/v1"}, r"needs the name of a model at http://h/v1.*`model=…`"),
        (None, {"endpoint": "nowhere", "model": "m"}, r"`endpoint` must be a URL"),
        (None, {"model": "m", "gradient_model": "a", "apply_edit_model": "b"}, "`model` has no effect beside `gradient_model` and"),
        (None, {"diversity_temperature": 1.0, "parameters": {"temperature": 0.5}}, "are the same field of a request; give one of them"),
        (_broken(), {"model": "m"}, r"\['model'\] have no effect: the function"),
        (_broken(), {"endpoint": "http://h/v1"}, r"\['endpoint'\] have no effect beside `async_openai_client`"),
        (object(), {"model": "m"}, r"must have `chat.completions.create`"),
        (openai.OpenAI(api_key="x"), {"model": "m"}, r"must be an asynchronous client, such as openai.AsyncOpenAI; given was OpenAI"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(given, options, said):
    with pytest.raises(ConfigError, match=said):
        make_models(given, ModelOptions(**options))


def test_a_trainers_placeholder_is_no_key(monkeypatch):
    from agl.gateway.wire import PLACEHOLDER_KEY

    monkeypatch.setenv("OPENAI_API_KEY", PLACEHOLDER_KEY)
    with pytest.raises(ConfigError, match="`OPENAI_API_KEY` is not set"):
        make_models(None, ModelOptions())
