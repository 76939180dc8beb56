"""The plugin as a plugin: light to import, undone whole, clear about a framework that it does not know."""

import subprocess
import sys

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_core.tools import BaseTool

from agl.errors import PluginError
from agl.patching import Patch, Patches
from agl_autogen import _names, _patches, plugin

LATE = """
import asyncio, sys
from agl import context
from agl.context import ActiveAttempt
from agl.resources import Resources
from agl.rollouts import Attempt, Rollout
from agl.tasks import Task
from agl_autogen import plugin
assert not [name for name in sys.modules if name.startswith(("autogen", "openai", "pydantic"))]
rollout = Rollout(rollout_id="r", run_id="run", task=Task(task_id="t", data={}), group_id="g",
                  attempt=Attempt(attempt_id="a", rollout_id="r", number=1, worker_id="w"))
attempt = ActiveAttempt(rollout, Resources(version=1, values={}))
with context.entered(attempt), plugin.agl_trace_rollout(attempt):
    assert "autogen_agentchat" not in sys.modules
    from autogen_agentchat.agents import AssistantAgent
    from autogen_ext.models.replay import ReplayChatCompletionClient
    agent = AssistantAgent("late", ReplayChatCompletionClient(["ok"]))
    asyncio.run(agent.run(task="x"))
plugin.uninstall()
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("agl_autogen")]
assert [span.name for span in attempt.close()[0]] == ["late"]
"""


def run_python(code):
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)


def test_importing_the_plugin_imports_no_framework():
    heavy = "('autogen', 'openai', 'pydantic', 'opentelemetry')"
    done = run_python(f"import sys, agl_autogen.plugin; print([n for n in sys.modules if n.startswith({heavy})])")
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_the_plugin_costs_little_beyond_the_core():
    code = """
import agl.agents, agl.context, agl.hookspecs, time
started = time.process_time()
import agl_autogen.plugin
print(time.process_time() - started)
"""
    assert min(float(run_python(code).stdout) for _ in range(3)) < 0.03


def test_a_framework_imported_inside_the_first_attempt_is_traced_from_its_first_run():
    done = run_python(LATE)
    assert done.returncode == 0, done.stderr


def test_the_patches_fit_this_version_of_the_framework():
    _patches.PATCHES.check()


def test_a_patch_whose_target_is_gone_says_which_and_what_to_install():
    gone = Patch("autogen_agentchat.agents:BaseChatAgent.run_no_more", "something works", lambda original: original)
    with pytest.raises(PluginError, match=r"run_no_more.*is gone.*pip install 'autogen-agentchat"):
        Patches("autogen", [gone], supported=_patches.PATCHES.supported).check()


def test_a_private_attribute_that_is_gone_is_named_with_what_to_install():
    with pytest.raises(PluginError, match=r"`object` has no `_system_messages`; install a version that it knows"):
        _names.private(object(), "_system_messages")


def test_uninstall_gives_the_original_methods_back(attempts):
    before = AssistantAgent.run, AssistantAgent.on_messages_stream, BaseTool.run_json
    with attempts.inside():
        assert before != (AssistantAgent.run, AssistantAgent.on_messages_stream, BaseTool.run_json)
    plugin.uninstall()
    assert before == (AssistantAgent.run, AssistantAgent.on_messages_stream, BaseTool.run_json)


def test_the_users_telemetry_is_left_alone(attempts):
    from opentelemetry import trace

    before = trace.get_tracer_provider()
    with attempts.inside():
        pass
    assert trace.get_tracer_provider() is before
    assert "opentelemetry.sdk" not in sys.modules
