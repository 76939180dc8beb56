"""The kit for framework plugins is proved: a plugin as it should be passes, each broken one is caught by the checks that are named for it."""

import asyncio
import re
import time
import unittest

import agl_quill
import broken_plugins
import pytest
import quill

from agl.testing import FrameworkConformance, bench, checks, kit_loop
from agl.testing.expected import ConformanceError, checks_of, failing


def add(a, b):
    return a + b


class TestQuill(FrameworkConformance):
    """A team: two helpers at the same time, then the lead, which streams and calls a tool."""

    plugin = agl_quill.QuillPlugin()
    frameworks = ("quill",)
    roles = ("lead/left", "lead/right", "lead", "lead")
    calls_tools = ("add", {"a": 1, "b": 2})
    has_prompts = ("lead_instructions",)
    streams = retries = records_spans = True
    patched_objects = ("quill:Model", "quill:Agent")

    def make_agent(self, llm):
        model = quill.Model(llm.base_url, llm.api_key, llm.model)
        return quill.Agent("lead", model, tools=[add], helpers=[quill.Agent(name, model) for name in ("left", "right")], stream=True)

    def run_sync(self, agent, given):
        return agent.run_sync(given)


@pytest.fixture
def _original_quill():
    """Quill as it was: some of the broken plugins leave it changed."""
    functions = quill.Model.complete, quill.Agent.system_message
    yield
    quill.Model.complete, quill.Agent.system_message = functions
    quill.observers.clear()


def kit_of(plugin, **values):
    return type("Kit", (TestQuill,), {"plugin": plugin, **values})


@pytest.mark.usefixtures("_original_quill")
@pytest.mark.parametrize(("broken", "expected"), broken_plugins.CAUGHT.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_plugin_is_caught_by_the_checks_that_are_named_for_it(broken, expected):
    kit = kit_of(broken())
    quick = tuple(name for name in checks_of(kit) if name != "test_imports_without_the_framework")
    certainly, perhaps = expected
    assert failing(kit, only=quick).keys() - perhaps == certainly


def test_a_plugin_that_imports_its_framework_is_caught():
    found = failing(kit_of("eager_plugin"), only=("test_imports_without_the_framework",))
    assert "ModuleNotFoundError: No module named 'quill' (the check hides it)" in found["test_imports_without_the_framework"]


def test_the_plain_functions_are_the_checks_of_the_kit():
    assert {f"test_{name}" for name in checks.__all__} == set(checks_of(FrameworkConformance))
    for name in checks.__all__:
        function = getattr(checks, name)
        assert function.__doc__.startswith("If this fails, ")
        assert getattr(FrameworkConformance, f"test_{name}").__doc__ == function.__doc__


def test_a_plain_function_takes_a_case_and_raises_what_is_wrong():
    assert checks.every_call_is_a_transition(TestQuill()) is None
    wrong = kit_of(TestQuill.plugin, roles=("lead",))()
    with pytest.raises(ConformanceError, match=r"the model was called 4 times, `roles` has 1 calls"):
        checks.every_call_is_a_transition(wrong)


async def test_a_plain_function_may_be_called_where_a_loop_runs():
    checks.every_call_is_a_transition(TestQuill())


@pytest.mark.parametrize(
    ("values", "check", "says"),
    [
        ({"patched_objects": ("json:JSONEncoder",)}, "undo_leaves_the_original_objects", "`json:JSONEncoder`, which nothing shadows"),
        ({"entry_point": "quill"}, "entry_point_resolves", "0 installed packages have the entry point `quill`"),
        ({"entry_point": "credit"}, "entry_point_resolves", "names agl.builtin.credit, which is not the plugin of this case"),
        ({"plugin": object()}, "recognises_its_own_agents_only", "the agent is not recognised: no plugin knows how to run a quill.Agent"),
        ({"roles": ("lead",)}, "roles_are_those_of_the_callers", "`roles` says {'lead': 1}"),
    ],
)
def test_a_case_that_says_what_is_not_so_is_told(values, check, says):
    with pytest.raises(ConformanceError, match=re.escape(says)):
        getattr(checks, check)(kit_of(values.pop("plugin", TestQuill.plugin), **values)())


@pytest.mark.parametrize(
    ("offer", "result"),
    [
        ({"tools": [{"type": "function", "function": {"name": "add"}}]}, {"messages": [{"role": "tool", "content": "3"}]}),
        ({"tools": [{"type": "function", "name": "add"}]}, {"input": [{"type": "function_call_output", "output": "3"}]}),
        ({"tools": [{"name": "add"}]}, {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "3"}]}]}),
    ],
    ids=["chat", "responses", "messages"],
)
def test_the_scripted_model_calls_the_tool_once_in_every_dialect(offer, result):
    model = bench.Model(TestQuill())
    assert model({**offer, "input": "task-1"}).tool_calls == [("add", {"a": 1, "b": 2})]
    assert model({**offer, **result}).tool_calls == []
    assert model({"input": "task-1"}).tool_calls == []


def test_what_a_case_does_not_have_is_left_out():
    class Plain(TestQuill):
        streams = retries = False
        calls_tools = None
        has_prompts = ()

    for name in ("streams_are_recorded", "tool_calls_are_recorded", "retries_are_not_counted_twice", "prompts_reach_the_model"):
        with pytest.raises(unittest.SkipTest, match="the case sets no `"):
            getattr(checks, name)(Plain())


def test_a_check_that_hangs_ends_and_says_where():
    async def hang():
        time.sleep(3)

    with pytest.raises(ConformanceError, match=r"(?s)did not end within 0\.2 s; .*time\.sleep\(3\)"):
        kit_loop.run(hang(), seconds=0.2)
    assert kit_loop.run(asyncio.sleep(0, "goes on")) == "goes on"
