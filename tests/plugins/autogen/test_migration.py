"""A calculator agent as users of Agent Lightning 0.3 have it: a function around an assistant; only the import differs."""

import asyncio
import json
import os
import re
from typing import TypedDict, cast

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelFamily
from autogen_core.tools import FunctionTool, StaticWorkbench
from autogen_ext.models.openai import OpenAIChatCompletionClient

import agl
from agl.testing import Reply, ScriptedServer

# As in the original, a client is made for each rollout and nobody closes its connections.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed :ResourceWarning")

FORM = "Answer in the form ### ANSWER: <answer> ###."


class MathProblem(TypedDict):
    id: str
    question: str
    result: str


TASKS = cast(
    agl.Dataset[MathProblem],
    [{"id": "1", "question": "6 times 7?", "result": "42"}, {"id": "2", "question": "5 times 5?", "result": "26"}],
)


def calculate(expression: str) -> str:
    """Work out a product such as `2*3`."""
    left, right = expression.split("*")
    return str(int(left) * int(right))


def assistant(model: str, base_url: str, temperature: float, workbench: StaticWorkbench) -> AssistantAgent:
    client = OpenAIChatCompletionClient(
        model=model,
        base_url=base_url,
        api_key=os.environ.get("OPENAI_API_KEY", "token"),
        model_info={
            "vision": False,
            "function_calling": True,
            "json_output": False,
            "family": ModelFamily.UNKNOWN,
            "structured_output": False,
        },
        temperature=temperature,
    )
    return AssistantAgent(name="calc", model_client=client, workbench=workbench, reflect_on_tool_use=True)


@agl.rollout
async def calc_agent(task: MathProblem, llm: agl.LLM) -> None:
    async with StaticWorkbench([FunctionTool(calculate, "Work out a product.")]) as workbench:
        agent = assistant(llm.model, llm.endpoint, llm.sampling_parameters.get("temperature", 0.7), workbench)
        try:
            result = await asyncio.wait_for(agent.run(task=f"{task['question']} {FORM}"), timeout=60.0)
            last = cast(str, result.messages[-1].content)
            found = re.search(r"###\s*ANSWER:\s*(.+?)(\s*###|$)", last)
            answer = found.group(1) if found else last
        except TimeoutError:
            answer = "None"
        agl.emit_reward(float(answer == task["result"]))


def answer(body):
    asked = body["messages"][1]["content"]
    if body["messages"][-1]["role"] != "user":
        return f"### ANSWER: {body['messages'][-1]['content']} ###"
    left, right = re.findall(r"\d+", asked)[:2]
    return Reply(tool_calls=[("calculate", {"expression": f"{left}*{right}"})])


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_it_is_trained_with_the_options_that_it_is_trained_with():
    with ScriptedServer(answer, weight_version="1") as server:
        options = {
            "algorithm": agl.Baseline(),
            "n_runners": 10,
            "store": agl.InMemoryLightningStore(),
            "adapter": agl.LlmProxyTraceToTriplet(),
            "initial_resources": {"main_llm": server.llm(sampling_parameters={"temperature": 1.0})},
        }
        with pytest.warns(DeprecationWarning, match="`tracer=` has no effect"):
            trainer = agl.Trainer(tracer=agl.OtelTracer(), quiet=True, **options)
        result = trainer.fit(calc_agent, TASKS, val_dataset=TASKS)
    assert result.resources.version == 1
    assert [line["reward"] for line in lines(result, "metrics")] == [0.5]
    assert [line["reward"] for line in lines(result, "evaluations")] == [0.5]
    assert {call.body["temperature"] for call in server.requests} == {1.0}
    assert len(server.requests) == 8


def lines(result, name):
    return [json.loads(line) for line in (result.directory / f"{name}.jsonl").read_text().splitlines()]


def test_its_calls_are_one_row_that_can_be_learned_from(capsys):
    with ScriptedServer(answer) as server:
        (result, _) = agl.Trainer(initial_resources={"main_llm": server.llm()}).dev(calc_agent, TASKS)
    assert [item.role for item in result.transitions if item.trainable] == ["calc", "calc"]
    assert result.reward == 1.0
    assert "calculate" in capsys.readouterr().out


async def test_it_is_debugged_by_hand_with_a_runner():
    with pytest.warns(DeprecationWarning, match="the tracer of `LitAgentRunner` has no effect"):
        runner = agl.LitAgentRunner[MathProblem](agl.OtelTracer())
    store = agl.InMemoryLightningStore()
    with ScriptedServer(answer) as server, runner.run_context(agent=calc_agent, store=store):
        resource = agl.LLM(endpoint=server.base_url(), model="some-model", sampling_parameters={"temperature": 1.0})
        found = [await runner.step(task, resources={"main_llm": resource}) for task in TASKS]
    rewards = [agl.find_final_reward(await store.query_spans(rollout.rollout_id)) for rollout in found]
    assert rewards == [1.0, 0.0]
