"""A retrieval agent as users of Agent Lightning 0.3 have it: async rollouts of an SDK agent with an MCP server; only the import differs."""

import logging
import re
import sys
from typing import Any, cast

import pytest
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner
from agents.mcp import MCPServerStdio
from openai import AsyncOpenAI

import agl
from agl.testing import Reply, ScriptedServer

logger = logging.getLogger("rag_agent")
RETRIEVER = """
import mcp.server
Server = getattr(mcp.server, "MCPServer", None)
if Server is None:
    from mcp.server.fastmcp import FastMCP as Server
server = Server("retriever")

@server.tool()
def retrieve(query: str) -> str:
    "Passages of an encyclopedia."
    return {"France": "The capital of France is Paris.", "Japan": "The capital of Japan is Tokyo."}.get(query, "Nothing found.")

server.run("stdio")
"""
TASKS = [{"question": "Capital of France?", "answer": "Paris"}, {"question": "Capital of Japan?", "answer": "Kyoto"}]


class RAGAgent(agl.LitAgent[dict[str, Any]]):
    def __init__(self, retriever: str) -> None:
        super().__init__()
        self.retriever = retriever

    async def training_rollout_async(self, task: dict[str, Any], resources: agl.NamedResources, rollout: agl.Rollout) -> float | None:
        llm = cast(agl.LLM, resources["main_llm"])
        rollout = cast(agl.AttemptedRollout, rollout)
        base_url = llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id)
        logger.info("Model %s on %s", llm.model, base_url)
        async with (
            MCPServerStdio(
                name="retriever", params={"command": sys.executable, "args": [self.retriever]}, client_session_timeout_seconds=60
            ) as server,
            AsyncOpenAI(base_url=base_url, api_key="any") as client,
        ):
            agent = Agent(
                model=OpenAIChatCompletionsModel(model=llm.model, openai_client=client),
                model_settings=ModelSettings(max_tokens=2048, temperature=0.7),
                name="Assistant",
                instructions="Answer from the passages, in <answer> tags.",
                mcp_servers=[server],
            )
            result = await Runner.run(agent, task["question"])
        found = re.findall(r"<answer>(.*?)</answer>", result.final_output)
        return float(found == [task["answer"]])

    async def validation_rollout_async(self, task: dict[str, Any], resources: agl.NamedResources, rollout: agl.Rollout) -> float | None:
        llm = cast(agl.LLM, resources["main_llm"])
        rollout = cast(agl.AttemptedRollout, rollout)
        val_resources: agl.NamedResources = {
            "main_llm": agl.LLM(
                endpoint=llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id),
                model=llm.model,
                sampling_parameters={"temperature": 0.7},
            )
        }
        return await self.training_rollout_async(task, val_resources, rollout)


def answer(body):
    last = body["messages"][-1]
    if last["role"] == "user":
        return Reply(tool_calls=[("retrieve", {"query": last["content"].split()[-1].rstrip("?")})])
    [found] = re.findall(r"is (\w+)", str(last["content"]))
    return f"<answer>{found}</answer>"


@pytest.fixture
def agent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "retriever.py").write_text(RETRIEVER)
    return RAGAgent(str(tmp_path / "retriever.py"))


def test_its_dry_run_runs(agent, capsys):
    with ScriptedServer(answer) as server:
        resources: dict[str, agl.ResourceUnion] = {
            "main_llm": agl.LLM(endpoint=server.base_url(), model="some-model", sampling_parameters={"temperature": 0.0})
        }
        trainer = agl.Trainer(initial_resources=resources)
        results = trainer.dev(agent, train_dataset=TASKS)
    assert [result.reward for result in results] == [1.0, 0.0]
    assert {item.role for result in results for item in result.transitions} == {"Assistant"}
    assert "tool retrieve" in capsys.readouterr().out
    assert {call.body["temperature"] for call in server.requests} == {0.0}  # the resource's, as for every agent


def test_it_is_trained_in_both_modes(agent):
    with ScriptedServer(answer, weight_version="1") as server:
        trainer = agl.Trainer(
            n_runners=4,
            algorithm=agl.Baseline(),
            adapter={"agent_match": "Assistant"},
            initial_resources={"main_llm": server.llm()},
            quiet=True,
        )
        result = trainer.fit(agent, train_dataset=TASKS[:1], val_dataset=TASKS)
    assert (result.directory / "evaluations.jsonl").read_text().count('"reward": 0.5') == 1
    assert len(server.requests) == 6
    assert {call.body["temperature"] for call in server.requests} == {0.7}
