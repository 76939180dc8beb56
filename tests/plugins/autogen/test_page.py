"""The page on AutoGen is run from its first block to its last."""

import re
import tomllib
from pathlib import Path

import pytest

from agl.testing import Reply, ScriptedServer

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "frameworks" / "autogen.md").read_text()
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def answer(body):
    offered, last = body.get("tools"), body["messages"][-1]
    return Reply(tool_calls=[("multiply", {"a": 6, "b": 7})]) if offered and last["role"] != "tool" else "42 is right."


@pytest.mark.filterwarnings("ignore:Resolved model mismatch")
@pytest.mark.filterwarnings(
    "ignore:unclosed :ResourceWarning"
)  # of a client that the page's runs use one after the other, each in its own loop
def test_every_block_runs_in_the_order_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "users-key")
    blocks, names = BLOCK.findall(PAGE), {}
    with ScriptedServer(answer) as server:
        for block in blocks:
            exec(compile(block.replace("http://127.0.0.1:8000/v1", server.base_url()), "autogen.md", "exec"), names)
    assert len(blocks) == 7
    assert names["results"][0].reward == 1.0
    assert "tool multiply" in capsys.readouterr().out
    said = [call.body["messages"][0]["content"] for call in server.requests]
    assert said.count("You are a calculator. Always use the tool.") == 1


def test_the_supported_versions_are_those_of_the_package():
    about = tomllib.loads((ROOT / "plugins" / "autogen" / "pyproject.toml").read_text())
    for requirement in about["project"]["optional-dependencies"]["instruments"]:
        assert f"`{requirement}`" in PAGE
