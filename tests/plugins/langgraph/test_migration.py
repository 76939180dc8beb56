"""An SQL agent as users of Agent Lightning 0.3 have it: a `LitAgent` around a graph; only the import differs."""

import logging
import os
import re
import sqlite3
from typing import Any, TypedDict, cast

import pytest
from langchain.chat_models import init_chat_model
from langchain_core.prompts import ChatPromptTemplate
from langgraph.graph import END, START, StateGraph

import agl
from agl.testing import ScriptedServer

logger = logging.getLogger(__name__)
WRITE = ChatPromptTemplate([("system", "Write SQL."), ("user", "{question}")])
CHECK = ChatPromptTemplate([("system", "Check SQL."), ("user", "{question}\n{query}\n{found}")])
REWRITE = ChatPromptTemplate([("system", "Mend SQL."), ("user", "{question}\n{query}\n{feedback}")])
TASKS = [
    {"question": "How many users?", "query": "SELECT count(*) FROM users"},
    {"question": "Name of user 2?", "query": "SELECT name FROM users WHERE id = 2"},
]


class State(TypedDict, total=False):
    question: str
    query: str
    found: str
    feedback: str
    turns: int


class SQLAgent:
    def __init__(self, path: str, endpoint: str, replacement: dict[str, Any]) -> None:
        self.path = path
        self.llm = init_chat_model(
            replacement["model"],
            model_provider="openai",
            openai_api_base=endpoint,
            openai_api_key=os.environ.get("OPENAI_API_KEY", "dummy"),
            temperature=replacement["temperature"],
            max_retries=0,
            max_tokens=64,
        )

    def write_query(self, state: State) -> State:
        return {**state, "query": self.ask(WRITE, state), "turns": 1}

    def execute_query(self, state: State) -> State:
        return {**state, "found": execute(self.path, state["query"])}

    def check_query(self, state: State) -> State:
        return {**state, "feedback": str(self.llm.invoke(CHECK.invoke(dict(state))).content)}

    def rewrite_query(self, state: State) -> State:
        return {**state, "query": self.ask(REWRITE, state), "turns": state["turns"] + 1}

    def ask(self, prompt: ChatPromptTemplate, state: State) -> str:
        said = str(self.llm.invoke(prompt.invoke(dict(state))).content)
        return re.findall(r"```sql\n(.*?)\n```", said, re.DOTALL)[-1]

    def graph(self) -> Any:
        builder = StateGraph(State)
        for node in (self.write_query, self.execute_query, self.check_query, self.rewrite_query):
            builder.add_node(node)
        builder.add_edge(START, "write_query")
        builder.add_edge("write_query", "execute_query")
        builder.add_edge("execute_query", "check_query")
        builder.add_conditional_edges("check_query", lambda state: END if "CORRECT" in state["feedback"] else "rewrite_query")
        builder.add_edge("rewrite_query", "execute_query")
        return builder.compile()


def execute(path: str, query: str) -> str:
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute(query).fetchall())
    except sqlite3.Error as error:
        return f"error: {error}"
    finally:
        connection.close()


class LitSQLAgent(agl.LitAgent[dict[str, Any]]):
    def __init__(self, path: str, val_temperature: float | None = None) -> None:
        super().__init__()
        self.path, self.val_temperature = path, val_temperature

    def rollout(self, task: dict[str, Any], resources: agl.NamedResources, rollout: agl.Rollout) -> float | None:
        llm: agl.LLM = cast(agl.LLM, resources["main_llm"])
        logger.info("[Rollout %s] %s", rollout.rollout_id, task["question"])
        temperature = llm.sampling_parameters.get("temperature", 0.0)
        if rollout.mode != "train" and self.val_temperature is not None:
            temperature = self.val_temperature
        graph = SQLAgent(
            self.path,
            endpoint=llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id),
            replacement={"model": llm.model, "temperature": temperature},
        ).graph()
        try:
            handler = self.tracer.get_langchain_handler()
            result = graph.invoke({"question": task["question"]}, {"callbacks": [handler] if handler else [], "recursion_limit": 100})
        except Exception as error:
            logger.exception("[Rollout %s] %s", rollout.rollout_id, error)
            return None
        return float(execute(self.path, result["query"]) == execute(self.path, task["query"]))


def answer(body):
    """The writer is wrong about the second question, the checker sees it, the second writer mends it."""
    kind, asked = body["messages"][0]["content"], body["messages"][1]["content"]
    if kind == "Check SQL.":
        return "CORRECT" if "error" not in asked else "There is no such column."
    if "How many" in asked:
        return "```sql\nSELECT count(*) FROM users\n```"
    column = "title" if kind == "Write SQL." else "name"
    return f"So:\n```sql\nSELECT {column} FROM users WHERE id = 2\n```"


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    connection = sqlite3.connect(tmp_path / "users.sqlite")
    connection.executescript("CREATE TABLE users (id INTEGER, name TEXT); INSERT INTO users VALUES (1, 'Ann'), (2, 'Bo');")
    connection.close()
    return str(tmp_path / "users.sqlite")


def test_its_dry_run_runs(path, capsys):
    with ScriptedServer(answer) as server:
        llm = agl.LLM(endpoint=server.base_url(), model="some-model", sampling_parameters={"temperature": 0.7})
        trainer = agl.Trainer(n_workers=1, initial_resources={"main_llm": llm})
        results = trainer.dev(LitSQLAgent(path), TASKS)
    assert [result.reward for result in results] == [1.0, 1.0]
    assert "rewrite_query" in capsys.readouterr().out
    assert {call.body["model"] for call in server.requests} == {"some-model"}


def test_it_is_trained_with_only_the_writer_learned_from(path):
    """A learner that looks at what a policy loss would read."""

    class Looking(agl.Algorithm):
        name = "looking"

        async def fit(self, run):
            groups = await run.rollout(list(run.train), n=2)
            self.rewards = [group.rewards for group in groups]
            self.trained = sorted({t.role for g in groups for r in g.results for t in r.transitions if t.trainable})
            self.others = sorted({t.role for g in groups for r in g.results for t in r.transitions if not t.trainable})
            self.rows = sum(len(result.rows()) for group in groups for result in group.results)

    with ScriptedServer(answer, weight_version="1") as server:
        algorithm = Looking()
        trainer = agl.Trainer(
            n_runners=10, algorithm=algorithm, adapter={"agent_match": "write"}, initial_resources={"main_llm": server.llm()}
        )
        assert trainer.adapter.agent_match == "write"
        trainer.fit(LitSQLAgent(path, val_temperature=0.0), train_dataset=TASKS, val_dataset=TASKS)
    assert algorithm.rewards == [[1.0, 1.0], [1.0, 1.0]]
    assert (algorithm.trained, algorithm.others) == (["rewrite_query", "write_query"], ["check_query"])
    assert algorithm.rows == 6
