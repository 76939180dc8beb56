"""A text-to-SQL agent: a LangGraph graph that writes a query, runs it, checks the result and rewrites the query until the check is content.

    write_query -> execute_query -> check_query -> rewrite_query -> execute_query -> ...

Nothing here knows of training. Run it against any endpoint that speaks OpenAI's protocol:

    OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_API_KEY=none python examples/sql_agent/sql_agent.py --model my-model
"""

from __future__ import annotations

import argparse
import os
import re
import sqlite3
import tempfile
from pathlib import Path
from typing import Any, Literal, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from sandbox import QueryError, Value, read_schema, run_query

WRITE_PROMPT = "Write one SQLite query that answers the question. Reply with SQL only."
CHECK_PROMPT = "Does the result of this SQLite query answer the question? Reply CORRECT, or INCORRECT and a short reason."
REWRITE_PROMPT = "This SQLite query is wrong. Write a better one. Reply with SQL only."

_SECONDS = 2.0
_SHOWN_ROWS = 3
_SHOWN_CHARACTERS = 60


class State(TypedDict, total=False):
    """What the nodes share. The caller gives `question` and `db_path`."""

    question: str
    db_path: str
    schema: str
    query: str
    """The newest query; the agent's answer once the graph has ended."""
    result: str
    """What running `query` gave, cut short, or the error message."""
    feedback: str
    """The checker's verdict on `query`."""
    turns: int
    """How many queries have been written so far."""


def build_graph(
    *, base_url: str | None = None, model: str = "gpt-4o-mini", max_turns: int = 3, llm: BaseChatModel | None = None, **chat_options: Any
) -> CompiledStateGraph[State, None, State, State]:
    """Builds the agent.

    Args:
        base_url: The endpoint; None leaves the choice to the environment, as everywhere with the OpenAI client.
        model: The model's name at the endpoint.
        max_turns: How many queries the agent may write for one question.
        llm: A chat model to use in place of `ChatOpenAI`, such as a scripted one in a test.
        **chat_options: What else `ChatOpenAI` takes: `temperature`, `api_key`, `max_tokens`...

    Returns:
        A graph to `invoke` with `{"question": ..., "db_path": ...}`; the final state holds `query`.
    """
    if "OPENAI_API_KEY" not in os.environ:
        # A local endpoint wants no key, but the client refuses to be made without one.
        chat_options.setdefault("api_key", "none")
    nodes = _Nodes(llm or ChatOpenAI(base_url=base_url, model=model, **chat_options), max_turns)
    graph = StateGraph(State)
    graph.add_node("write_query", nodes.write_query)
    graph.add_node("execute_query", nodes.execute_query)
    graph.add_node("check_query", nodes.check_query)
    graph.add_node("rewrite_query", nodes.rewrite_query)
    graph.add_edge(START, "write_query")
    graph.add_edge("write_query", "execute_query")
    graph.add_conditional_edges("execute_query", nodes.after_execution)
    graph.add_conditional_edges("check_query", nodes.after_check)
    graph.add_edge("rewrite_query", "execute_query")
    return graph.compile()


class _Nodes:
    def __init__(self, llm: BaseChatModel, max_turns: int) -> None:
        self._llm = llm
        self._max_turns = max_turns

    def write_query(self, state: State) -> State:
        schema = read_schema(state["db_path"])
        return {"schema": schema, "query": extract_sql(self._ask(write_messages(state["question"], schema))), "turns": 1}

    def execute_query(self, state: State) -> State:
        return {"result": run_for_model(state["db_path"], state["query"])}

    def check_query(self, state: State) -> State:
        return {"feedback": self._ask(check_messages(state["question"], state["query"], state["result"]))}

    def rewrite_query(self, state: State) -> State:
        messages = rewrite_messages(state["question"], state["schema"], state["query"], state["result"], state["feedback"])
        return {"query": extract_sql(self._ask(messages)), "turns": state["turns"] + 1}

    def after_execution(self, state: State) -> Literal["check_query", "__end__"]:
        # A verdict that can no longer lead to a rewrite is not worth a call.
        return END if state["turns"] >= self._max_turns else "check_query"

    def after_check(self, state: State) -> Literal["rewrite_query", "__end__"]:
        return END if is_content(state["feedback"]) else "rewrite_query"

    def _ask(self, messages: list[BaseMessage]) -> str:
        return self._llm.invoke(messages).text.strip()


def write_messages(question: str, schema: str) -> list[BaseMessage]:
    """What `write_query` sends."""
    return [SystemMessage(WRITE_PROMPT), HumanMessage(f"{schema}\nQuestion: {question}")]


def check_messages(question: str, query: str, result: str) -> list[BaseMessage]:
    """What `check_query` sends."""
    return [SystemMessage(CHECK_PROMPT), HumanMessage(f"Question: {question}\nQuery: {query}\nResult: {result}")]


def rewrite_messages(question: str, schema: str, query: str, result: str, feedback: str) -> list[BaseMessage]:
    """What `rewrite_query` sends."""
    tried = f"Query: {query}\nResult: {result}\nFeedback: {feedback}"
    return [SystemMessage(REWRITE_PROMPT), HumanMessage(f"{schema}\nQuestion: {question}\n{tried}")]


def extract_sql(reply: str) -> str:
    """Takes the SQL out of a reply, with or without a Markdown fence around it."""
    fenced = re.search(r"```(?:\w*\s*\n|sql\s+)?(.*?)(?:```|\Z)", reply, re.DOTALL | re.IGNORECASE)
    return (fenced.group(1) if fenced else reply).strip().rstrip(";").rstrip()


def is_content(feedback: str) -> bool:
    """Whether a verdict accepts the query; an unclear verdict does not."""
    return (
        re.search(r"\bCORRECT\b", feedback, re.IGNORECASE) is not None
        and re.search(r"\b(INCORRECT|NOT)\b", feedback, re.IGNORECASE) is None
    )


def run_for_model(db_path: str, query: str) -> str:
    """Runs a query and describes what came of it in the few characters that a prompt has room for."""
    try:
        found = run_query(db_path, query, seconds=_SECONDS, max_rows=_SHOWN_ROWS)
    except QueryError as error:
        return f"Error: {error}"[:_SHOWN_CHARACTERS]
    shown = "; ".join(", ".join(map(_cell, row)) for row in found.rows)[:_SHOWN_CHARACTERS]
    return f"{shown}; ..." if found.truncated else shown or "no rows"


def _cell(value: Value) -> str:
    if value is None:
        return "NULL"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


_SAMPLE_DATABASE = """
CREATE TABLE singer(id INTEGER PRIMARY KEY, name TEXT, city TEXT, age INTEGER);
CREATE TABLE concert(id INTEGER PRIMARY KEY, singer_id INTEGER, hall TEXT, held TEXT, seats INTEGER);
INSERT INTO singer VALUES (1, 'Ann', 'Ashford', 31), (2, 'Bob', 'Oakton', 40), (3, 'Cleo', 'Ashford', 52);
INSERT INTO concert VALUES (1, 1, 'Arena', '2019-05-01', 300), (2, 2, 'Dome', '2020-07-11', 450), (3, 2, 'Arena', '2020-09-30', 120);
"""
_SAMPLE_QUESTIONS = (
    "How many singers have age at least 40?",
    "Which 2 concerts have the highest seats? Show the hall.",
    "How many concerts have held in the year 2020?",
)


def main() -> None:
    """Answers three questions about a database made on the spot."""
    parser = argparse.ArgumentParser(description="Answer a few questions with the bare SQL agent.")
    parser.add_argument("--model", default=os.environ.get("OPENAI_MODEL", "gpt-4o-mini"), help="the model's name at the endpoint")
    arguments = parser.parse_args()
    graph = build_graph(model=arguments.model, temperature=0.0)
    with tempfile.TemporaryDirectory() as folder:
        db_path = str(Path(folder) / "music.sqlite")
        with sqlite3.connect(db_path) as connection:
            connection.executescript(_SAMPLE_DATABASE)
        connection.close()
        for question in _SAMPLE_QUESTIONS:
            state = graph.invoke({"question": question, "db_path": db_path})
            print(f"{question}\n  {state['query']}\n  -> {state['result']}  ({state['turns']} turns)")


if __name__ == "__main__":
    main()
