"""The page on CrewAI is run from its first block to its last."""

import re
import tomllib
from pathlib import Path

from agl.testing import Reply, ScriptedServer

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "frameworks" / "crewai.md").read_text()
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def answer(body):
    return "42" if body["messages"][-1]["role"] == "tool" else Reply(tool_calls=[("multiply", {"a": 6, "b": 7})])


def test_every_block_runs_in_the_order_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(PAGE)
    names = {}
    with ScriptedServer(answer) as server:
        for block in blocks:
            exec(compile(block.replace("http://127.0.0.1:8000/v1", server.base_url()), "crewai.md", "exec"), names)
    assert len(blocks) == 5
    assert names["results"][0].reward == 1.0
    assert "tool multiply" in capsys.readouterr().out
    said = [call.body["messages"][0]["content"] for call in server.requests]
    assert said[2:] == ["You are Solver. You calculate.\nYour personal goal is: Answer “What is 6 times 7?”, always with the tool."] * 2


def test_the_supported_versions_are_those_of_the_package():
    about = tomllib.loads((ROOT / "plugins" / "crewai" / "pyproject.toml").read_text())
    for requirement in about["project"]["optional-dependencies"]["instruments"]:
        assert f"`{requirement}`" in PAGE
