"""The page on the OpenAI Agents SDK is run from its first block to its last."""

import re
import tomllib
from pathlib import Path

from agl.testing import Reply, ScriptedServer

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "frameworks" / "openai_agents.md").read_text()
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def answer(body):
    offered = [tool["function"]["name"] for tool in body.get("tools") or ()]
    if "transfer_to_math" in offered:
        return Reply(tool_calls=[("transfer_to_math", {})])
    asked = any(message.get("tool_calls") and message["tool_calls"][0]["function"]["name"] == "multiply" for message in body["messages"])
    return "42 is right." if asked else Reply(tool_calls=[("multiply", {"a": 6, "b": 7})])


def test_every_block_runs_in_the_order_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    blocks, names = BLOCK.findall(PAGE), {}
    with ScriptedServer(answer) as server:
        for block in blocks:
            exec(compile(block.replace("http://127.0.0.1:8000/v1", server.base_url()), "openai_agents.md", "exec"), names)
    assert len(blocks) == 8
    assert names["results"][0].reward == 1.0
    assert "tool multiply" in capsys.readouterr().out
    said = [call.body["messages"][0]["content"] for call in server.requests]
    assert said.count("You are a calculator. Always use the tool.") == 2


def test_the_supported_versions_are_those_of_the_package():
    about = tomllib.loads((ROOT / "plugins" / "openai_agents" / "pyproject.toml").read_text())
    for requirement in about["project"]["optional-dependencies"]["instruments"]:
        assert f"`{requirement}`" in PAGE
