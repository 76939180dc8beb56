"""The plugin as a plugin: light to import, found by AGL, and inert outside an attempt."""

import subprocess
import sys

import agl
import pytest
from agl.plugins import Plugins
from pydantic_ai import Agent
from pydantic_ai.agent import WrapperAgent

from agl_pydantic_ai import plugin

LATE = """
import sys
import agl
from agl.testing import ScriptedServer

@agl.rollout
async def late(task):
    assert "pydantic_ai" not in sys.modules
    from pydantic_ai import Agent
    return float((await Agent("test", name="late").run("a dog")).output == "routed")

with ScriptedServer("routed") as server:
    llm = agl.LLM(endpoint=server.base_url(), model="policy", version="1")
    (result,) = agl.Trainer(initial_resources={"main_llm": llm}, quiet=True).dev(late, [{}])
assert result.reward == 1.0, result
assert [step.role for step in result.transitions] == ["late"]
"""


def run_python(code, folder):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder)


def test_importing_the_plugin_imports_no_framework(tmp_path):
    code = "import sys, agl_pydantic_ai.plugin; print([n for n in sys.modules if n.startswith(('pydantic', 'openai', 'httpx'))])"
    assert run_python(code, tmp_path).stdout.strip() == "[]"


def test_a_framework_that_is_imported_inside_the_first_rollout_is_served(tmp_path):
    made = run_python(LATE, tmp_path)
    assert made.returncode == 0, made.stderr


def test_agl_finds_the_plugin_and_the_versions_it_supports():
    (row,) = [row for row in Plugins().rows if row.name == "pydantic_ai"]
    assert (row.package, row.state) == ("agl-pydantic-ai", "ok")
    assert set(row.frameworks) == {"openai", "pydantic-ai-slim"}


def test_agents_and_their_wrappers_are_recognised_and_nothing_else():
    agent = Agent("test", name="solo")
    assert isinstance(plugin.agl_adapt_agent(agent), agl.AgentAdapter)
    assert isinstance(plugin.agl_adapt_agent(WrapperAgent(agent)), agl.AgentAdapter)
    assert plugin.agl_adapt_agent(print) is None


def test_the_patch_is_there_once_and_leaves_the_original():
    original = Agent.iter
    plugin.agl_trace_rollout()
    patched = Agent.iter
    plugin.agl_trace_rollout()
    assert Agent.iter is patched is not original
    plugin.uninstall()
    assert Agent.iter is original


def test_waiting_for_an_import_can_be_undone():
    before = [*sys.meta_path]
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "pydantic_ai.agent")
        plugin.agl_trace_rollout()
        plugin.agl_trace_rollout()
        assert len(sys.meta_path) == len(before) + 1
    plugin.uninstall()
    assert sys.meta_path == before


def test_a_task_without_the_field_input_is_refused_before_anything_starts():
    with pytest.raises(agl.AglError, match="say which part of a task the agent may see"):
        agl.Trainer(initial_resources={}).evaluate(Agent("test", name="solo"), [{"question": "?"}])
