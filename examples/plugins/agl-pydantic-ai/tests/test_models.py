"""The attempt's model, whatever model the agent was given, and however it is run."""

import asyncio

import agl
import pytest
from agl.testing import Reply, ScriptedServer
from openai import DEFAULT_CONNECTION_LIMITS, DefaultAsyncHttpxClient
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.concurrency import ConcurrencyLimitedModel
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.providers.openai import OpenAIProvider

from team import calls_of, make_trainer, run_blocking, said


def chat():
    """A model that the core routes itself. It keeps no connection: the client is the user's, and each test has its own loop."""
    client = DefaultAsyncHttpxClient(limits=type(DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0))
    return OpenAIChatModel("gpt-4o", provider=OpenAIProvider(base_url="http://127.0.0.1:9/v1", api_key="users-key", http_client=client))


MODELS = {
    "chat": chat,
    "limited": lambda: ConcurrencyLimitedModel(chat(), limiter=64),
    "responses": lambda: OpenAIResponsesModel("gpt-5"),
    "anthropic": lambda: AnthropicModel("claude-sonnet-4-5"),
    "fallback": lambda: FallbackModel(chat(), MODELS["anthropic"]()),
    "test": lambda: TestModel(custom_output_text="not the policy"),
    "function": lambda: FunctionModel(lambda messages, info: pytest.fail("called")),
    "name": lambda: "openai:gpt-5",
    "limited anthropic": lambda: ConcurrencyLimitedModel(MODELS["anthropic"](), limiter=64),
}


def run(server, folder, agent, tasks, **options):
    spec = agent if callable(agent) else agl.agent(agent, input=lambda task: task["text"], reward=lambda task, output: 1.0)
    return make_trainer(server, folder, **options).evaluate(spec, [{"text": text} for text in tasks]).results


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_is_the_attempts_own_with_the_agents_settings(server, tmp_path, kind):
    agent = Agent(MODELS[kind](), name="solo", model_settings={"top_p": 0.5, "temperature": 0.1})
    (result,) = run(server, tmp_path, agent, ["a dog"])
    assert calls_of(result) == [("solo", "a rhyme on a dog")]
    (call,) = server.requests
    assert (call.body["model"], call.body["temperature"], call.body["top_p"]) == ("policy", 0.5, 0.5)
    assert "users-key" not in call.headers.get("authorization", "")


def test_a_model_that_is_named_late_needs_neither_its_key_nor_its_package(server, tmp_path, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    agent = Agent("mistral:large", name="solo", defer_model_check=True)

    @agl.rollout
    async def twice(task):
        await agent.run(task["text"])
        await agent.run(task["text"], model="anthropic:claude-sonnet-4-5")
        with agent.override(model=TestModel()):
            await agent.run(task["text"])
        return 1.0

    (result,) = run(server, tmp_path, twice, ["a dog"])
    assert calls_of(result) == [("solo", "a rhyme on a dog")] * 3


def test_outside_an_attempt_an_agent_has_its_own_model(server, tmp_path):
    agent = Agent(TestModel(custom_output_text="the user's own"), name="solo")
    run(server, tmp_path, agent, ["a dog"])
    assert asyncio.run(agent.run("a cat")).output == "the user's own"
    assert len(server.requests) == 1


def test_a_role_has_the_model_that_the_trainer_gives_it(server, tmp_path):
    agents = [Agent(AnthropicModel("claude-sonnet-4-5"), name=name) for name in ("judge", "player", "bystander")]
    own = Agent(TestModel(custom_output_text="the user's own"), name="own")

    @agl.rollout
    async def all_of_them(task):
        for agent in agents:
            await agent.run(task["text"])
        return float((await own.run(task["text"])).output == "the user's own")

    resources = {"second_llm": agl.LLM(endpoint=server.base_url(), model="second", version="9")}
    (result,) = run(server, tmp_path, all_of_them, ["a dog"], resources=resources, roles={"judge": "second_llm", "own": "original"})
    assert [call.body["model"] for call in server.requests] == ["second", "policy", "policy"]
    assert result.reward == 1.0


def test_a_structured_output_and_dependencies_pass_through(tmp_path):
    class Answer(BaseModel):
        value: int

    agent = Agent(AnthropicModel("claude-sonnet-4-5"), name="solo", output_type=Answer, deps_type=int)
    spec = agl.agent(
        agent, input=lambda task: {"user_prompt": "how many?", "deps": 7}, reward=lambda task, output: float(output == Answer(value=42))
    )
    with ScriptedServer(lambda body: Reply(tool_calls=[("final_result", {"value": 42})])) as server:
        assert make_trainer(server, tmp_path).evaluate(spec, [{}]).mean == 1.0


def test_blocking_and_streamed_runs_are_the_attempts_too(server, tmp_path):
    agent = Agent(AnthropicModel("claude-sonnet-4-5"), name="solo")

    @agl.rollout
    def blocking(task):
        return float(run_blocking(agent, task["text"]) == f"a rhyme on {task['text']}")

    @agl.rollout
    async def streamed(task):
        async with agent.run_stream(task["text"]) as stream:
            said = [piece async for piece in stream.stream_text()]
        async with agent.iter(task["text"]) as steps:
            async for _ in steps:
                pass
        return float(said[-1] == steps.result.output == f"a rhyme on {task['text']}")

    texts = [f"dog {number}" for number in range(8)]
    for results, count in ((run(server, tmp_path, blocking, texts), 1), (run(server, tmp_path, streamed, texts), 2)):
        assert [calls_of(result) for result in results] == [[("solo", f"a rhyme on {text}")] * count for text in texts]
        assert [result.reward for result in results] == [1.0] * 8


def test_prompts_by_role_reach_agents_of_any_model(server, tmp_path):
    agent = Agent(AnthropicModel("claude-sonnet-4-5"), name="solo", instructions="The user's own.")
    run(server, tmp_path, agent, ["a dog"], resources={"solo.instructions": agl.PromptTemplate(template="Be brief.")})
    run(server, tmp_path, agent, ["a dog"])
    assert [said(call.body)[0] for call in server.requests] == [["Be brief."], ["The user's own."]]
