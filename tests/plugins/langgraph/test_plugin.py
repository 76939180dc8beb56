"""The plugin as a plugin: light to import, and inert outside an attempt."""

import subprocess
import sys

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableLambda

from agl_langgraph import plugin

LATE = """
import contextlib, sys
from agl import context
from agl.context import ActiveAttempt
from agl.resources import Resources
from agl.rollouts import Attempt, Rollout
from agl.tasks import Task
from agl_langgraph import plugin
assert not [name for name in sys.modules if name.startswith(("langchain", "langgraph", "openai"))]
rollout = Rollout(rollout_id="r", run_id="run", task=Task(task_id="t", data={}), group_id="g",
                  attempt=Attempt(attempt_id="a", rollout_id="r", number=1, worker_id="w"))
attempt = ActiveAttempt(rollout, Resources(version=1, values={}))
with context.entered(attempt), plugin.agl_trace_rollout(attempt):
    assert "langchain_core" not in sys.modules
    from langchain_core.runnables import RunnableLambda
    def late(x): return x + 1
    assert RunnableLambda(late).invoke(1) == 2
    import langchain_core.tracers.context as module
    assert type(module.__loader__).__name__ == "SourceFileLoader"
assert [span.name for span in attempt.close()[0]] == ["late"]
"""


def run_python(code):
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)


def test_importing_the_plugin_imports_no_framework():
    code = "import sys, agl_langgraph.plugin; print([n for n in sys.modules if n.startswith(('langchain', 'langgraph', 'pydantic'))])"
    assert run_python(code).stdout.strip() == "[]"


def test_importing_the_plugin_costs_little_beyond_the_core():
    code = """
import agl.agents, agl.context, agl.hookspecs, time
started = time.process_time()
import agl_langgraph.plugin
print(time.process_time() - started)
"""
    assert min(float(run_python(code).stdout) for _ in range(3)) < 0.03


def test_a_framework_imported_inside_the_first_attempt_is_traced_from_its_first_run():
    result = run_python(LATE)
    assert result.returncode == 0, result.stderr


def test_nothing_is_traced_outside_an_attempt(attempts, tree):
    with attempts.inside() as attempt:
        pass
    assert RunnableLambda(lambda x: x).invoke(1) == 1
    assert tree(attempt) == []


def test_work_that_outlives_its_attempt_is_not_traced(attempts, tree):
    import contextvars

    with attempts.inside() as attempt:
        left = contextvars.copy_context()
    assert left.run(RunnableLambda(lambda x: x).invoke, 1) == 1
    assert tree(attempt) == []


def test_the_handler_given_to_users_is_the_attempts_own_and_records_nothing_twice(attempts, tree):
    def named(x):
        return x

    with attempts.inside() as attempt:
        handler = plugin.agl_callback_handler("langchain")
        assert plugin.agl_callback_handler("langgraph") is handler
        RunnableLambda(named).invoke(1, {"callbacks": [handler]})
    assert tree(attempt) == [["named"]]


def test_outside_an_attempt_the_handler_does_nothing():
    handler = plugin.agl_callback_handler("langchain")
    assert isinstance(handler, BaseCallbackHandler)
    assert RunnableLambda(lambda x: x).invoke(1, {"callbacks": [handler]}) == 1


def test_a_handler_of_another_framework_is_left_to_its_plugin():
    assert plugin.agl_callback_handler("crewai") is None


def test_uninstalled_it_leaves_langchain_as_it_was_and_works_again_in_the_next_attempt(attempts, tree):
    from langchain_core.caches import InMemoryCache
    from langchain_core.globals import get_llm_cache, set_llm_cache
    from langchain_core.tracers import context as tracers

    from agl_langgraph._cache import BypassedCache

    plugin.uninstall()
    before, cache = list(tracers._configure_hooks), InMemoryCache()
    with attempts.inside():
        assert len(tracers._configure_hooks) == len(before) + 1
    set_llm_cache(BypassedCache(cache))
    plugin.uninstall()
    plugin.uninstall()
    try:
        assert tracers._configure_hooks == before
        assert get_llm_cache() is cache
    finally:
        set_llm_cache(None)

    def named(x):
        return x

    with attempts.inside() as attempt:
        RunnableLambda(named).invoke(1)
    assert tree(attempt) == [["named"]]


def test_uninstalled_before_langchain_is_imported_it_no_longer_waits_for_it():
    code = """
import sys
from agl_langgraph import _activation, plugin
found = list(sys.meta_path)
_activation.watch()
assert sys.meta_path != found
plugin.uninstall()
assert sys.meta_path == found
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
