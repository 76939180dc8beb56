"""The graph writes, runs, checks and rewrites, and stops when it should; the model is a list of replies."""

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import BaseMessage

from sandbox import read_schema
from sql_agent import build_graph, extract_sql, is_content, run_for_model

GOOD = "SELECT count(*) FROM pet"
BAD = "SELECT TOP 1 * FROM pet"


class Scripted(FakeListChatModel):
    """Replies from a list and keeps what it was asked."""

    asked: list[list[BaseMessage]] = []

    def _call(self, messages: list[BaseMessage], *args: Any, **options: Any) -> str:
        self.asked.append(messages)
        return super()._call(messages, *args, **options)


@pytest.fixture
def db_path(tmp_path: Path) -> str:
    path = tmp_path / "pets.sqlite"
    connection = sqlite3.connect(path)
    with connection:
        connection.executescript("CREATE TABLE pet(id INTEGER, name TEXT, age REAL); INSERT INTO pet VALUES (1, 'Rex', 2.5), (2, NULL, 3);")
    connection.close()
    return str(path)


def _ask(db_path: str, replies: list[str], **options: Any) -> tuple[dict[str, Any], Scripted]:
    model = Scripted(responses=replies, asked=[])
    return build_graph(llm=model, **options).invoke({"question": "How many pets?", "db_path": db_path}), model


def test_a_query_that_validates_at_once_ends_the_graph(db_path: str) -> None:
    state, model = _ask(db_path, [f"```sql\n{GOOD};\n```", "CORRECT"])
    assert (state["query"], state["result"], state["turns"]) == (GOOD, "2", 1)
    assert len(model.asked) == 2


def test_an_error_leads_to_a_rewrite_that_sees_it(db_path: str) -> None:
    state, model = _ask(db_path, [BAD, "INCORRECT: error", GOOD, "CORRECT"])
    assert (state["query"], state["turns"]) == (GOOD, 2)
    rewrite = str(model.asked[2][-1].content)
    assert all(part in rewrite for part in ("pet(id, name, age)", "How many pets?", BAD, "Error: near", "INCORRECT: error"))


def test_the_graph_stops_at_max_turns_without_a_last_check(db_path: str) -> None:
    state, model = _ask(db_path, [BAD, "INCORRECT"], max_turns=2)
    assert state["turns"] == 2
    assert len(model.asked) == 3


def test_the_write_prompt_holds_schema_and_question_and_no_more(db_path: str) -> None:
    _, model = _ask(db_path, [GOOD, "CORRECT"])
    assert model.asked[0][-1].content == "pet(id, name, age)\nQuestion: How many pets?"


def test_the_graph_is_built_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    graph = build_graph(base_url="http://localhost:1/v1", model="local", temperature=0.0)
    assert {"write_query", "execute_query", "check_query", "rewrite_query"} <= set(graph.nodes)


@pytest.mark.parametrize(
    "reply",
    [
        GOOD,
        f" {GOOD} ;\n",
        f"```sql\n{GOOD}\n```",
        f"```\n{GOOD};\n```",
        f"```SQL {GOOD}```",
        f"Here you are:\n```sqlite\n{GOOD}\n```\nIt counts.",
        f"```sql\n{GOOD}",
    ],
)
def test_sql_is_found_with_or_without_a_fence(reply: str) -> None:
    assert extract_sql(reply) == GOOD


@pytest.mark.parametrize(
    ("verdict", "content"),
    [
        ("CORRECT", True),
        ("Correct.", True),
        ("INCORRECT: error", False),
        ("Not correct", False),
        ("The result is incorrect", False),
        ("", False),
    ],
)
def test_only_a_clear_verdict_accepts_the_query(verdict: str, content: bool) -> None:
    assert is_content(verdict) is content


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("SELECT name, age FROM pet", "Rex, 2.5; NULL, 3"),
        ("SELECT name FROM pet WHERE 0", "no rows"),
        ("SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4", "1; 2; 3; ..."),
        ("SELECT YEAR(age) FROM pet", "Error: no such function: YEAR"),
        ("DROP TABLE pet", "Error: not authorized"),
    ],
)
def test_a_result_is_shown_in_a_few_characters(db_path: str, query: str, shown: str) -> None:
    assert run_for_model(db_path, query) == shown


def test_a_long_result_is_cut_hard(db_path: str) -> None:
    assert len(run_for_model(db_path, "SELECT printf('%.*c', 5000, 'x')")) == 60


def test_the_schema_is_read_from_the_database(db_path: str) -> None:
    connection = sqlite3.connect(db_path)
    with connection:
        connection.execute('CREATE TABLE "two words"("a b", c)')
    connection.close()
    assert read_schema(db_path) == 'pet(id, name, age)\n"two words"("a b", c)'


def test_the_agent_file_needs_no_training_package() -> None:
    folder = Path(__file__).parents[2] / "examples" / "sql_agent"
    probe = "import sys, sql_agent; print([name for name in ('agl', 'torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
