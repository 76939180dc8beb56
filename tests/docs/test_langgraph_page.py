"""The page on LangGraph is run from its first block to its last."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from agl.testing.scripted import Reply, ScriptedServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "frameworks" / "langgraph.md").read_text()
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def answer(body):
    return "42" if body["messages"][-1]["role"] == "tool" else Reply(tool_calls=[("multiply", {"a": 6, "b": 7})])


def test_every_block_runs_in_the_order_of_the_page(tmp_path):
    blocks = BLOCK.findall(PAGE)
    assert len(blocks) == 6
    with ScriptedServer(answer) as server:
        code = "\n".join(blocks).replace("http://127.0.0.1:8000/v1", server.base_url())
        environment = {**os.environ, "OPENAI_API_KEY": "users-key"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    assert "reward 1" in done.stdout
    assert "tool multiply" in done.stdout
    said = [call.body["messages"][0]["content"] for call in server.requests]
    assert said == ["You are a calculator."] * 2 + ["You are a calculator. Always use the tool."] * 2 + ["You are a calculator."] * 2


def test_the_supported_versions_are_those_of_the_package():
    about = tomllib.loads((ROOT / "plugins" / "langgraph" / "pyproject.toml").read_text())
    for requirement in about["project"]["optional-dependencies"]["instruments"]:
        assert f"`{requirement}`" in PAGE
