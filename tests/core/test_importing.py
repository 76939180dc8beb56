"""A plugin waits for its framework, and never imports it."""

import importlib
import sys

import pytest

from agl.importing import OnImport, when_imported


@pytest.fixture
def framework(tmp_path, monkeypatch):
    """A package that is not imported yet."""
    package = tmp_path / "late_framework"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "agents.py").write_text("class Agent:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    finders = list(sys.meta_path)
    yield "late_framework.agents"
    assert sys.meta_path == finders
    for name in [name for name in sys.modules if name.startswith("late_framework")]:
        del sys.modules[name]


def test_what_is_not_imported_is_waited_for_and_not_imported(framework):
    seen = []
    when_imported(framework, seen.append)
    assert "late_framework" not in sys.modules
    module = importlib.import_module(framework)
    assert seen == [module]
    assert seen[0].Agent
    importlib.reload(module)
    assert len(seen) == 1


def test_what_is_imported_already_is_there_at_once(framework):
    module = importlib.import_module(framework)
    seen = []
    when_imported(framework, seen.append)
    assert seen == [module]


def test_several_may_wait_for_the_same(framework):
    seen = []
    for name in "ab":
        when_imported(framework, lambda module, name=name: seen.append((name, module.Agent.__name__)))
    importlib.import_module(framework)
    assert seen == [("a", "Agent"), ("b", "Agent")]


def test_waiting_can_be_given_up(framework):
    seen = []
    stop = when_imported(framework, seen.append)
    stop()
    stop()
    importlib.import_module(framework)
    assert seen == []


def test_an_import_that_fails_is_waited_for_again(framework, tmp_path):
    path = tmp_path / "late_framework" / "agents.py"
    path.write_text("raise ImportError('half installed')")
    seen = []
    when_imported(framework, seen.append)
    with pytest.raises(ImportError, match="half installed"):
        importlib.import_module(framework)
    assert seen == []
    path.write_text("class Agent: pass\n# longer than before, so that it is compiled again\n")
    importlib.invalidate_caches()
    importlib.import_module(framework)
    assert len(seen) == 1


def test_what_the_plugin_raises_comes_out_of_the_import(framework):
    def fail(module):
        raise RuntimeError("no place to patch")

    when_imported(framework, fail)
    with pytest.raises(RuntimeError, match="no place to patch"):
        importlib.import_module(framework)


def test_a_module_that_does_not_exist_is_no_error_until_it_is_imported():
    stop = when_imported("no_such_framework", lambda module: None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_framework")
    stop()


def test_started_twice_it_acts_once_and_again_after_a_stop(framework):
    seen = []
    on_import = OnImport(framework, seen.append)
    on_import.start()
    on_import.start()
    module = importlib.import_module(framework)
    on_import.start()
    assert seen == [module]
    on_import.stop()
    on_import.start()
    assert seen == [module, module]


def test_stopped_before_the_import_it_does_not_act(framework):
    seen = []
    on_import = OnImport(framework, seen.append)
    on_import.start()
    on_import.stop()
    on_import.stop()
    importlib.import_module(framework)
    assert seen == []


def test_what_fails_at_once_may_be_started_again(framework):
    importlib.import_module(framework)
    tries = []

    def fail_first(module):
        tries.append(module)
        if len(tries) == 1:
            raise RuntimeError("not yet")

    on_import = OnImport(framework, fail_first)
    with pytest.raises(RuntimeError, match="not yet"):
        on_import.start()
    on_import.start()
    assert len(tries) == 2
