"""Models as objects, strings and defaults: their calls go to the attempt by the API that they speak; those left alone are as before."""

import json
import logging
import re

import openai
import pytest
from agents import (
    Agent,
    Model,
    ModelProvider,
    ModelResponse,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIProvider,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    Usage,
    UserError,
    WebSearchTool,
    function_tool,
)
from openai.types.responses import ResponseOutputMessage, ResponseOutputText

from agl.resources import LLM
from agl.testing import Reply


@function_tool
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


def call_of(attempts, number=0):
    (call,) = attempts.calls(number)
    return call.path.partition("/v1")[2], call.headers["authorization"], call.body["model"]


MODELS = {
    "responses": lambda client: OpenAIResponsesModel("users-model", client()),
    "chat completions": lambda client: OpenAIChatCompletionsModel("users-model", client()),
    "azure": lambda client: OpenAIResponsesModel(
        "users-model", openai.AsyncAzureOpenAI(azure_endpoint="http://127.0.0.1:9", api_key="azure-key", api_version="2025-04-01-preview")
    ),
    "a name": lambda client: "users-model",
    "a name with a prefix": lambda client: "openai/users-model",
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_model_of_any_kind_speaks_its_api_with_the_attempt(attempts, client, monkeypatch, kind, streamed):
    monkeypatch.setenv("OPENAI_API_KEY", "users-key")
    agent = Agent("solver", model=MODELS[kind](client))
    held = dict(vars(agent))
    with attempts.inside():
        if streamed:
            result = Runner.run_streamed(agent, "the task")
            async for _ in result.stream_events():
                pass
        else:
            result = await Runner.run(agent, "the task")
    assert result.final_output == "ok"
    api = "/chat/completions" if kind == "chat completions" else "/responses"
    assert call_of(attempts) == (api, "Bearer key0", "users-model")
    assert "api-key" not in attempts.calls()[0].headers or attempts.calls()[0].headers["api-key"] == "key0"
    assert vars(agent) == held


async def test_an_agent_without_a_model_needs_no_key_of_its_own(attempts):
    await attempts.run(Agent("solver"))
    assert call_of(attempts) == ("/responses", "Bearer key0", "trained")


async def test_an_agent_without_a_key_takes_the_api_that_is_set(attempts, monkeypatch):
    monkeypatch.setattr("agents.models._openai_shared._use_responses_by_default", False)
    await attempts.run(Agent("solver"))
    assert call_of(attempts) == ("/chat/completions", "Bearer key0", "trained")


async def test_a_model_that_uses_a_websocket_makes_requests(attempts, client):
    from agents.models.openai_responses import OpenAIResponsesWSModel

    await attempts.run(Agent("solver", model=OpenAIResponsesWSModel("users-model", client())))
    assert call_of(attempts) == ("/responses", "Bearer key0", "users-model")


async def test_a_model_in_the_runs_configuration_goes_before_the_agents(attempts, client):
    agent = Agent("solver", model=OpenAIResponsesModel("agents-model", client()))
    for number, model in enumerate(("runs-model", OpenAIChatCompletionsModel("runs-model", client()))):
        with attempts.inside(number):
            await Runner.run(agent, "the task", run_config=RunConfig(model=model))
        assert call_of(attempts, number)[2] == "runs-model"


async def test_a_run_configuration_may_be_a_dictionary(attempts):
    seen = []

    def shorten(data):
        seen.append(data.agent.name)
        data.model_data.input = [{"role": "user", "content": "short"}]
        return data.model_data

    given = {"call_model_input_filter": shorten, "model_settings": ModelSettings(temperature=0.25)}
    with attempts.inside():
        await Runner.run(Agent("solver"), "the task", run_config=given)
    (call,) = attempts.calls()
    assert (seen, call.body["temperature"]) == (["solver"], 0.25)
    assert [message["content"] for message in call.body["messages"]] == ["short"]
    assert given["call_model_input_filter"] is shorten


async def test_a_client_of_the_attempt_tries_as_often_as_the_users(attempts, client, script):
    script["answer"] = lambda body: Reply("no", status=500, headers={"retry-after-ms": "1"})
    for number, tries in enumerate((0, 1)):
        agent = Agent("solver", model=OpenAIResponsesModel("users-model", client(max_retries=tries)))
        with attempts.inside(number), pytest.raises(openai.InternalServerError):
            await Runner.run(agent, "the task")
        assert len(attempts.calls(number)) == tries + 1
        assert len({call.headers["x-agl-call"] for call in attempts.calls(number)}) == 1


async def test_options_of_the_users_chat_model_stay(attempts, client):
    """It is strict about what chat completions cannot do; another one says so and goes on."""
    for strict in (True, False):
        model = OpenAIChatCompletionsModel("users-model", client(), strict_feature_validation=strict)
        with attempts.inside(int(strict)):
            work = Runner.run(Agent("solver", model=model), "the task", previous_response_id="resp_1")
            if strict:
                with pytest.raises(UserError):
                    await work
            else:
                await work


REFUSED = {
    "a hosted tool": (Agent("solver", tools=[WebSearchTool()]), {}, "`web_search` is a tool that OpenAI's servers run"),
    "a stored prompt": (Agent("solver", prompt={"id": "pmpt_1"}), {}, "stored prompts"),
    "another's response to go on from": (Agent("solver"), {"previous_response_id": "resp_1"}, "no response `resp_1`"),
    "another's conversation": (Agent("solver"), {"conversation_id": "conv_1"}, "no conversation `conv_1`"),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_what_the_endpoint_cannot_do_is_refused_and_no_failure_of_the_agent(attempts, kind):
    agent, options, said = REFUSED[kind]
    with attempts.inside() as attempt, pytest.raises(openai.BadRequestError, match=said):
        await Runner.run(agent, "the task", **options)
    assert re.search(rf"role `solver` cannot be made at the endpoint of an attempt.*{said}", attempt.infrastructure_error)
    assert 'roles={"solver": "original"}' in attempt.infrastructure_error
    assert attempts.calls() == []


def as_sent(server, path):
    told = [call for call in server.requests if call.path.startswith(path)]
    server.requests.clear()
    return [(call.path, call.headers["authorization"], call.body) for call in told]


@pytest.mark.parametrize("settings", [None, ModelSettings(temperature=0.5, max_tokens=50)])
@pytest.mark.parametrize("by", ["object", "name", "configuration"])
async def test_the_calls_of_a_role_left_alone_are_the_same_bit_for_bit(attempts, client, script, by, settings):
    provider = OpenAIProvider(openai_client=client(attempts.server.base_url("/users")), use_responses=True)
    given = {} if settings is None else {"model_settings": settings}
    named = {"object": provider.get_model("gpt-5.2"), "name": "gpt-5.2", "configuration": None}[by]
    writer = Agent("writer", instructions="Write.", model=named, tools=[add], **given)
    triage = Agent("triage", handoffs=[writer])
    config = RunConfig(model_provider=provider, model="gpt-5.2" if by == "configuration" else None, workflow_name="mine")
    script["answer"] = lambda body: (
        Reply(None, [("transfer_to_writer", {})]) if "transfer_to_writer" in json.dumps(body.get("tools")) else "ok"
    )
    await Runner.run(triage, "the task", run_config=config)
    _, before = as_sent(attempts.server, "/users")
    with attempts.inside(roles={"writer": "original"}):
        assert (await Runner.run(triage, "the task", run_config=config)).final_output == "ok"
    assert attempts.roles() == ["triage"]
    (after,) = as_sent(attempts.server, "/users")
    assert before[0] == "/users/v1/responses"
    assert without_ids(after) == without_ids(before)


def without_ids(call):
    """Ids of the model's tool calls are made up by who answers, and chat completions have none for items."""
    path, key, body = call
    items = [{name: value for name, value in item.items() if name not in ("id", "call_id", "status")} for item in body["input"]]
    return path, key, {**body, "input": items}


class Keyed(OpenAIResponsesModel):
    """As the SDK's own model of OpenAI's endpoint: a run's calls share a key of the prompt cache."""

    cleaned = 0

    def _supports_default_prompt_cache_key(self):
        return True

    async def _cleanup_on_run_end(self, owner):
        self.cleaned += 1


@pytest.mark.parametrize("what", ["original", "train"])
async def test_a_model_left_alone_is_treated_as_itself_also_in_a_stream(attempts, client, what):
    model = Keyed("users-model", client(attempts.server.base_url("/users")))
    with attempts.inside(roles={"solver": what}):
        result = Runner.run_streamed(Agent("solver", model=model), "the task")
        async for _ in result.stream_events():
            pass
    assert result.final_output == "ok"
    ((path, _, body),) = as_sent(attempts.server, "/users") if what == "original" else as_sent(attempts.server, "/r/")
    assert ("prompt_cache_key" in body, path.endswith("/v1/responses")) == (what == "original", True)
    assert model.cleaned == int(what == "original")


async def test_a_run_below_another_has_the_users_configuration_once(attempts, script):
    seen = []

    def watch(data):
        seen.append(data.agent.name)
        return data.model_data

    script["answer"] = lambda body: Reply(None, [("ask", {"input": "?"})]) if body.get("tools") and len(body["messages"]) == 1 else "ok"
    boss = Agent("boss", model="m", tools=[Agent("helper", model="n").as_tool("ask", "Asks.")])
    with attempts.inside():
        await Runner.run(boss, "the task", run_config=RunConfig(model="runs-model", call_model_input_filter=watch))
    assert seen == ["boss", "helper", "boss"]
    assert [(call.body["model"], call.headers["x-agl-role"]) for call in attempts.calls()] == [
        ("runs-model", "boss"),
        ("runs-model", "boss/helper"),
        ("runs-model", "boss"),
    ]


async def test_without_a_model_in_the_resources_every_call_is_the_users(attempts, client):
    agent = Agent("solver", model=OpenAIResponsesModel("users-model", client(attempts.server.base_url("/users"))))
    await attempts.run(agent, llm=False)
    ((path, key, body),) = as_sent(attempts.server, "/users")
    assert (path, key, body["model"]) == ("/users/v1/responses", "Bearer users-key", "users-model")


async def test_a_role_may_go_to_a_model_of_its_own(attempts):
    judge = LLM(endpoint=attempts.server.base_url("/judge"), model="judge-model", api_key="judge-key")
    await attempts.run(Agent("critic"), roles={"critic": "judge"}, judge=judge)
    (call,) = attempts.server.requests
    assert (call.path, call.headers["authorization"]) == ("/judge/v1/responses", "Bearer judge-key")


class Parrot(Model):
    """A model of the user's own, that asks nobody."""

    async def get_response(self, system_instructions, input, *args, **kwargs):
        said = ResponseOutputText(type="output_text", text="squawk", annotations=[])
        message = ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=[said])
        return ModelResponse(output=[message], usage=Usage(), response_id=None)

    async def stream_response(self, *args, **kwargs):
        raise NotImplementedError
        yield


class Parrots(ModelProvider):
    def get_model(self, model_name):
        return Parrot()


async def test_a_model_of_the_users_own_is_used_and_said_once_to_be_out_of_sight(attempts, caplog):
    with caplog.at_level(logging.WARNING, logger="agl"):
        for agent, config in ((Agent("a", model=Parrot()), RunConfig()), (Agent("b", model="x"), RunConfig(model_provider=Parrots()))):
            with attempts.inside():
                assert (await Runner.run(agent, "the task", run_config=config)).final_output == "squawk"
    assert [record.message for record in caplog.records if "Parrot made no call" in record.message] != []
    assert len([record for record in caplog.records if "made no call" in record.message]) == 1
    assert attempts.calls() == []


class LitellmModel(Model):
    """What LiteLLM's model looks like from outside; its own calls would go to a provider's API."""

    model = "anthropic/some-model"

    async def get_response(self, *args, **kwargs):
        raise AssertionError("it was called")

    async def stream_response(self, *args, **kwargs):
        raise AssertionError("it was called")
        yield


async def test_a_model_of_another_sdk_is_served_by_the_attempt(attempts, monkeypatch):
    monkeypatch.setattr(LitellmModel, "__module__", "agents.extensions.models.litellm_model")
    result, _ = await attempts.run(Agent("solver", model=LitellmModel()))
    assert (result.final_output, call_of(attempts)[2]) == ("ok", "anthropic/some-model")
