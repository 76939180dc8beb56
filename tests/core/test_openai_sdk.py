"""The built-in plugin `openai_sdk` routes calls of the OpenAI SDK to the attempt that they are made in."""

import asyncio
import contextvars
import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote

import openai
import pytest

from agl import context
from agl.builtin import openai_sdk
from agl.context import ActiveAttempt
from agl.errors import PluginError
from agl.prompting import prompts_of
from agl.resources import LLM, PromptTemplate, Resources
from agl.roles import Roles
from agl.rollouts import Attempt, Rollout
from agl.spans import answers_of
from agl.tasks import Task
from agl.testing.scripted import Reply, ScriptedServer
from agl.transitions import call_of

USER = [{"role": "user", "content": "hi"}]
ASK = {"model": "users-model", "messages": USER}


@pytest.fixture(autouse=True)
def _uninstalled():
    yield
    openai_sdk.uninstall()


@pytest.fixture
def server():
    with ScriptedServer("ok") as running:
        yield running


@pytest.fixture
def users():
    """The endpoint that the user's own code names."""
    with ScriptedServer("from the user's endpoint") as running:
        yield running


def make_attempt(server, number=0, values=None):
    attempt = Attempt(attempt_id=f"at{number}", rollout_id=f"ro{number}", number=1, worker_id="w")
    rollout = Rollout(rollout_id=f"ro{number}", run_id="run", task=Task(task_id="t", data={}), group_id="g", attempt=attempt)
    llm = LLM(endpoint=server.base_url(f"/r/ro{number}/at{number}"), model="trained", api_key=f"key{number}") if server else None
    return ActiveAttempt(rollout, Resources(version=1, values=values or {"main_llm": llm}))


def attempt_of(request):
    """The number of the attempt that a recorded request names, after a check that all its parts name the same one."""
    number = request.path.split("/")[2].removeprefix("ro")
    assert request.path.startswith(f"/r/ro{number}/at{number}/v1/")
    assert request.headers["authorization"] == f"Bearer key{number}"
    return int(number)


def sync_client(users, **options):
    return openai.OpenAI(base_url=users.base_url(), api_key="users-key", max_retries=0, **options)


def async_client(users, **options):
    return openai.AsyncOpenAI(base_url=users.base_url(), api_key="users-key", max_retries=0, **options)


def test_a_call_goes_to_the_attempt_with_its_key_role_span_and_call_id(server, users):
    openai_sdk.install()
    attempt = make_attempt(server)
    with context.entered(attempt), context.role("team"), context.role("writer"), context.operation("draft") as _:
        span = context.current_span()
        sync_client(users).chat.completions.create(**ASK, temperature=0.3)
    (request,) = server.requests
    assert attempt_of(request) == 0
    assert request.headers["x-agl-role"] == "team/writer"
    assert request.headers["traceparent"] == f"00-{attempt.trace_id}-{span}-01"
    assert request.headers["x-agl-call"] == attempt.last_call
    assert len(attempt.last_call) == 16
    assert int(attempt.last_call, 16)
    assert request.body == {**ASK, "temperature": 0.3}
    assert "users-key" not in str(request.headers)
    assert not users.requests


def test_outside_an_attempt_a_call_is_untouched(server, users):
    openai_sdk.install()
    sync_client(users).chat.completions.create(**ASK)
    (request,) = users.requests
    assert request.headers["authorization"] == "Bearer users-key"
    assert not [name for name in request.headers if name.startswith("x-agl") or name == "traceparent"]


def test_an_attempt_without_a_language_model_leaves_the_call_alone(users):
    openai_sdk.install()
    with context.entered(make_attempt(None, values={"prompt": PromptTemplate(template="x")})) as attempt:
        assert openai_sdk.agl_inject_resources(attempt) is None
        sync_client(users).chat.completions.create(**ASK)
    assert users.requests[0].headers["authorization"] == "Bearer users-key"
    assert attempt.last_call is None


def test_the_hook_installs_it_once_and_leaves_it(server, users):
    attempt = make_attempt(server)
    openai_sdk.agl_inject_resources(attempt)
    first = openai.OpenAI.request
    openai_sdk.agl_inject_resources(attempt)
    assert openai.OpenAI.request is first
    with context.entered(attempt):
        sync_client(users).chat.completions.create(**ASK)
    assert len(server.requests) == 1


def test_uninstall_leaves_the_very_same_classes(users):
    before = dict(vars(openai.OpenAI)), dict(vars(openai.AsyncOpenAI)), openai.OpenAI.request, openai.AsyncOpenAI.request
    openai_sdk.install()
    openai_sdk.install()
    assert openai.OpenAI.request is not before[2]
    openai_sdk.uninstall()
    openai_sdk.uninstall()
    assert (dict(vars(openai.OpenAI)), dict(vars(openai.AsyncOpenAI)), openai.OpenAI.request, openai.AsyncOpenAI.request) == before


def test_uninstall_keeps_what_another_library_wrapped_since():
    openai_sdk.install()

    def request(self, *args, **kwargs): ...

    openai.OpenAI.request = request
    try:
        openai_sdk.uninstall()
        assert openai.OpenAI.request is request
    finally:
        del openai.OpenAI.request


@pytest.mark.parametrize("when", ["before", "after"])
def test_clients_made_before_or_after_the_installation_are_covered(server, users, when):
    made = sync_client(users) if when == "before" else None
    openai_sdk.install()
    client = made or sync_client(users)
    with context.entered(make_attempt(server)):
        client.chat.completions.create(**ASK)
    assert len(server.requests) == 1
    assert not users.requests


USERS_HEADERS = {"authorization": "mine", "Api-Key": "mine", "X-AGL-Role": "mine", "Traceparent": "mine"}
SYNC_CALLS = {
    "plain": lambda client: client.chat.completions.create(**ASK),
    "stream": lambda client: list(client.chat.completions.create(**ASK, stream=True)),
    "raw": lambda client: client.chat.completions.with_raw_response.create(**ASK).parse(),
    "parse": lambda client: client.chat.completions.parse(**ASK),
    "stream manager": lambda client: list(entered_stream(client.chat.completions.stream(**ASK))),
    "with_options": lambda client: client.with_options(timeout=9).chat.completions.create(**ASK),
    "extra headers": lambda client: client.chat.completions.create(**ASK, extra_headers=USERS_HEADERS),
    "completions": lambda client: client.completions.create(model="m", prompt="p"),
    "responses": lambda client: client.responses.create(model="m", input="p"),
}


def entered_stream(manager):
    with manager as stream:
        yield from stream


@pytest.mark.parametrize("call", SYNC_CALLS.values(), ids=SYNC_CALLS)
def test_every_way_to_call_is_covered_by_the_sync_client(server, users, call):
    openai_sdk.install()
    with context.entered(make_attempt(server, 3)):
        call(sync_client(users, default_headers={"api-key": "users-secret"}))
    (request,) = server.requests
    assert attempt_of(request) == 3
    assert request.headers["api-key"] == "key3"
    assert "mine" not in request.headers.values()
    assert "x-agl-role" not in request.headers


async def test_every_way_to_call_is_covered_by_the_async_client(server, users):
    openai_sdk.install()
    with context.entered(make_attempt(server, 4)) as attempt:
        async with async_client(users) as client:
            await client.chat.completions.create(**ASK)
            assert [chunk async for chunk in await client.chat.completions.create(**ASK, stream=True)]
            (await client.chat.completions.with_raw_response.create(**ASK)).parse()
            await client.chat.completions.parse(**ASK)
            async with client.chat.completions.stream(**ASK) as stream:
                assert [event async for event in stream]
            async with client.chat.completions.with_streaming_response.create(**ASK) as response:
                await response.read()
            await client.responses.create(model="m", input="p")
    assert [attempt_of(request) for request in server.requests] == [4] * 7
    calls = [request.headers["x-agl-call"] for request in server.requests]
    assert len(set(calls)) == 7
    assert calls[-1] == attempt.last_call


@pytest.mark.parametrize("deployment", [None, "users-deployment"])
def test_azure_clients_are_routed_and_do_not_show_the_users_key(server, users, deployment):
    openai_sdk.install()
    client = openai.AzureOpenAI(api_key="azure-key", azure_endpoint=users.url, api_version="2024-06-01", azure_deployment=deployment)
    with context.entered(make_attempt(server, 5)):
        client.chat.completions.create(**ASK)
    (request,) = server.requests
    assert request.path == "/r/ro5/at5/v1/chat/completions"
    assert attempt_of(request) == 5
    assert request.headers["api-key"] == "key5"
    assert "azure-key" not in str(request.headers)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_sdks_own_retries_share_the_call_id(users, streamed):
    openai_sdk.install()
    with ScriptedServer("ok", fail_first=2) as failing, context.entered(make_attempt(failing)):
        client = sync_client(users).with_options(max_retries=2)
        list(client.chat.completions.create(**ASK, stream=streamed))
    assert [request.headers["x-stainless-retry-count"] for request in failing.requests] == ["0", "1", "2"]
    assert len({request.headers["x-agl-call"] for request in failing.requests}) == 1


def test_a_failed_call_is_not_the_last_call(users):
    openai_sdk.install()
    refusing = ScriptedServer([Reply("no", status=400)])
    with refusing, context.entered(make_attempt(refusing)) as attempt, pytest.raises(openai.BadRequestError):
        sync_client(users).chat.completions.create(**ASK)
    assert attempt.last_call is None


def test_what_the_gateway_says_of_the_last_call_stands(users):
    openai_sdk.install()
    attempts = []

    def script(body):
        attempts[0].last_call = "the try that succeeded"
        return "ok"

    with ScriptedServer(script) as gateway:
        attempts.append(make_attempt(gateway))
        with context.entered(attempts[0]):
            sync_client(users).chat.completions.create(**ASK)
    assert attempts[0].last_call == "the try that succeeded"


def test_embeddings_and_lookups_stay_on_the_users_endpoint(server, users):
    openai_sdk.install()
    with context.entered(make_attempt(server)):
        sync_client(users).embeddings.create(model="m", input="p", encoding_format="float")
        with pytest.raises(openai.APIStatusError):
            sync_client(users).models.list()
    assert [request.path for request in users.requests] == ["/v1/embeddings"]
    assert not server.requests


def test_what_responses_leave_at_the_endpoint_is_looked_up_there(server, users):
    openai_sdk.install()
    with context.entered(make_attempt(server)) as attempt:
        sync_client(users).conversations.create()
        sync_client(users).responses.input_tokens.count(model="m", input="x")
    assert [request.path for request in server.requests] == ["/r/ro0/at0/v1/conversations", "/r/ro0/at0/v1/responses/input_tokens"]
    assert [attempt_of(request) for request in server.requests] == [0, 0]
    assert (attempt.last_call, users.requests) == (None, [])
    sync_client(users).conversations.create()
    assert [request.path for request in users.requests] == ["/v1/conversations"]


def test_a_role_in_any_script_travels(server, users):
    openai_sdk.install()
    with context.entered(make_attempt(server)), context.role("检索/ü"):
        sync_client(users).chat.completions.create(**ASK)
    assert unquote(server.requests[0].headers["x-agl-role"]) == "检索/ü"


async def test_32_attempts_at_once_in_threads_and_tasks_never_mix(server, users):
    openai_sdk.install()
    shared_sync, shared_async = sync_client(users), async_client(users)
    attempts = [make_attempt(server, number) for number in range(32)]

    def in_thread(number):
        with context.entered(attempts[number]), context.role(f"role{number}"):
            for _ in range(3):
                shared_sync.chat.completions.create(**ASK, user=str(number))

    async def in_task(number):
        with context.entered(attempts[number]), context.role(f"role{number}"):
            for _ in range(3):
                await shared_async.chat.completions.create(**ASK, user=str(number))
                await asyncio.sleep(0)

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(8) as pool:
        threads = [loop.run_in_executor(pool, contextvars.Context().run, in_thread, number) for number in range(0, 32, 2)]
        await asyncio.gather(*threads, *(in_task(number) for number in range(1, 32, 2)))
    await shared_async.close()
    assert len(server.requests) == 96
    assert not users.requests
    for request in server.requests:
        number = attempt_of(request)
        assert request.body["user"] == str(number)
        assert request.headers["x-agl-role"] == f"role{number}"
        assert request.headers["traceparent"] == f"00-{attempts[number].trace_id}-{attempts[number].root_id}-01"
    assert len({request.headers["x-agl-call"] for request in server.requests}) == 96


def test_an_sdk_that_lacks_what_is_relied_on_is_refused_with_its_version(monkeypatch):
    models = importlib.import_module("openai._models")

    class Other:
        model_fields = {"method": 0, "url": 0}

    monkeypatch.setattr(models, "FinalRequestOptions", Other)
    with pytest.raises(PluginError, match=rf"openai {openai.__version__}.*FinalRequestOptions\.headers.*model_copy"):
        openai_sdk.install()
    assert "request" not in vars(openai.OpenAI)


def test_without_the_sdk_nothing_happens(monkeypatch, server):
    monkeypatch.setattr(openai_sdk, "_installed_version", lambda: None)
    openai_sdk.agl_inject_resources(make_attempt(server))
    assert "request" not in vars(openai.OpenAI)


def test_importing_the_plugin_imports_no_sdk():
    code = "import sys, agl.builtin.openai_sdk; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Calls to the agent's own endpoint.

PROMPTS = {"writer.system_prompt": PromptTemplate(template="Write well.")}
SAID = [{"role": "system", "content": "Write."}, {"role": "user", "content": "hi"}]


def own_call(users, call, roles=None):
    """What is recorded of a call by a writer whose attempt has prompts, and no language model."""
    openai_sdk.install()
    attempt = make_attempt(None, values=PROMPTS)
    attempt.roles = Roles(None, roles)
    with context.entered(attempt), context.role("writer"):
        asyncio.run(call(async_client(users))) if asyncio.iscoroutinefunction(call) else call(sync_client(users))
    (span,) = [span for span in attempt.close()[0] if "agl.endpoint" in span.attributes]
    return span, call_of(span)


def ask_once(client):
    client.chat.completions.create(model="theirs", messages=SAID)


def ask_raw(client):
    client.chat.completions.with_raw_response.create(model="theirs", messages=SAID)


async def ask_async(client):
    async with client:
        await client.chat.completions.create(model="theirs", messages=SAID)


@pytest.mark.parametrize("call", [ask_once, ask_raw, ask_async])
def test_what_an_own_endpoint_was_asked_and_said_is_kept_with_the_prompt_that_was_put_in(users, call):
    span, kept = own_call(users, call)
    assert users.requests[0].body["messages"][0]["content"] == "Write well."
    assert kept.request["messages"] == [{"role": "system", "content": "Write well."}, SAID[1]]
    assert kept.overridden == {"writer.system_prompt": "Write."}
    assert [message["content"] for message in answers_of(span)] == ["from the user's endpoint"]
    assert span.attributes["gen_ai.usage.output_tokens"] > 0
    assert prompts_of([span])["writer.system_prompt"].template == "Write."


def test_an_own_endpoint_that_speaks_responses_is_kept_as_a_chat(users):
    span, kept = own_call(users, lambda client: client.responses.create(model="theirs", instructions="Write.", input="hi"))
    assert (kept.dialect, kept.original["instructions"]) == ("responses", "Write well.")
    assert [message["role"] for message in kept.request["messages"]] == ["system", "user"]
    assert [message["content"] for message in answers_of(span)] == ["from the user's endpoint"]


def test_a_stream_of_an_own_endpoint_is_left_to_the_agent(users):
    read = []
    _, kept = own_call(users, lambda client: read.extend(client.chat.completions.create(model="theirs", messages=SAID, stream=True)))
    assert (kept.streamed, kept.response) == (True, None)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in read if chunk.choices) == "from the user's endpoint"


def test_a_failed_call_of_an_own_endpoint_keeps_what_was_asked(users):
    users.answer = lambda body: Reply("busy", status=503)

    def failing(client):
        with pytest.raises(openai.InternalServerError):
            ask_once(client)

    span, kept = own_call(users, failing)
    assert (span.status, kept.response, kept.request["messages"][1]) == ("error", None, SAID[1])


def test_of_a_role_that_is_left_alone_no_text_is_kept(users):
    span, kept = own_call(users, ask_once, roles={"writer": "original"})
    assert (kept, span.role) == (None, "writer")
    assert users.requests[0].body["messages"] == SAID
