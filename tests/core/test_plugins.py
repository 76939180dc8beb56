"""Plugins: a broken one is a row with a reason, a decision fails with the plugin's name, an observer never stops a run."""

import asyncio
import contextlib
import logging
import subprocess
import sys
import types

import pytest

import agl
from agl import plugins as module
from agl.errors import ConfigError, PluginError
from agl.plugins import Plugins, active
from agl.rewards import Reward, make_reward
from agl.transitions import Transition


def plugin(name="mine", **hooks):
    """A plugin object with these hooks."""
    made = types.ModuleType(name)
    for hook, function in hooks.items():
        setattr(made, hook, agl.hookimpl(function))
    return made


def rows(plugins):
    return {row.name: row for row in plugins.rows}


# Discovery.


def test_the_cores_own_plugins_are_loaded_as_anyones():
    found = rows(Plugins())
    assert {name: found[name].state for name in ("functions", "openai_sdk", "credit")} == dict.fromkeys(
        ("functions", "openai_sdk", "credit"), "ok"
    )
    assert (found["credit"].package, found["credit"].version) == ("agl-core", agl.__version__)


@pytest.mark.parametrize("code", ["import no_such_module", "1 / 0", "raise SystemExit(3)", "def broken(:"])
def test_a_plugin_that_cannot_be_imported_is_a_row_and_the_others_work(install_package, code):
    install_package("broken-dist", {"broken": "broken_plugin"}, broken_plugin=code)
    found = rows(Plugins())
    assert (found["broken"].state, found["broken"].package, found["broken"].version) == ("failed", "broken-dist", "1.0")
    assert found["broken"].reason
    assert found["functions"].state == "ok"


@pytest.mark.parametrize("value", ["broken", "other, broken", "*"])
def test_a_plugin_named_in_the_environment_is_blocked_and_not_imported(install_package, monkeypatch, value):
    install_package("broken-dist", {"broken": "broken_plugin"}, broken_plugin="1 / 0")
    monkeypatch.setenv("AGL_PLUGINS_DISABLED", value)
    row = rows(Plugins())["broken"]
    assert (row.state, row.reason) == ("blocked", "named in $AGL_PLUGINS_DISABLED")


def test_two_packages_with_one_plugin_name_are_a_clash_until_one_is_blocked(install_package, monkeypatch):
    install_package("first-dist", {"same": "first_plugin"}, first_plugin="")
    install_package("second-dist", {"same": "second_plugin"}, second_plugin="")
    states = [(row.state, row.reason) for row in Plugins().rows if row.name == "same"]
    assert [state for state, _ in states] == ["clash", "clash"]
    assert "second-dist brings a plugin `same`, too, and neither is loaded" in states[0][1]
    monkeypatch.setenv("AGL_PLUGINS_DISABLED", "second-dist:same")
    assert [(row.package, row.state) for row in Plugins().rows if row.name == "same"] == [("first-dist", "ok"), ("second-dist", "blocked")]


def test_nobody_takes_over_a_name_of_the_core(install_package):
    install_package("rogue-dist", {"credit": "rogue_plugin"}, rogue_plugin="1 / 0")
    found = {row.package: row for row in Plugins().rows if row.name == "credit"}
    assert (found["agl-core"].state, found["rogue-dist"].state) == ("ok", "clash")
    assert "`credit` is the core's own; rename the plugin of rogue-dist" in found["rogue-dist"].reason


def test_a_misspelt_hook_is_named_with_those_that_exist(install_package):
    code = "import agl\n@agl.hookimpl\ndef agl_rewards(result): pass\n"
    install_package("typo-dist", {"typo": "typo_plugin"}, typo_plugin=code)
    row = rows(Plugins())["typo"]
    assert row.state == "unknown-hook"
    assert "['agl_rewards'], which are no hooks; did you mean ['agl_reward']? The hooks are [" in row.reason
    assert "agl_reward'" in row.reason


def test_an_unknown_argument_of_a_hook_is_refused_and_nothing_of_the_plugin_stays():
    with pytest.raises(PluginError, match=r"plugin `mine` does not fit.*outcome"):
        Plugins([plugin(agl_reward=lambda outcome: None)])


def test_a_hook_without_its_mark_is_refused_since_it_would_never_be_called():
    class Mine:
        def agl_reward(self, result): ...

    with pytest.raises(PluginError, match=r"`Mine` defines \['agl_reward'\] without `@agl.hookimpl`"):
        Plugins([Mine()])


def test_a_wrapper_is_refused_since_nothing_would_call_it():
    made = plugin()
    made.agl_reward = agl.hookimpl(wrapper=True)(lambda result: (yield))
    with pytest.raises(PluginError, match=r"plugin `mine` wraps \['agl_reward'\]"):
        Plugins([made])


def test_names_in_a_module_that_are_no_functions_are_no_hooks():
    made = plugin()
    made.agl_langgraph, made.agl_settings, made.agl_plugin_api = types.ModuleType("agl_langgraph"), {"a": 1}, agl.AGL_PLUGIN_API
    assert Plugins([made], discover=False).rows == []


def test_a_plugin_for_another_api_is_refused():
    made = plugin()
    made.agl_plugin_api = agl.AGL_PLUGIN_API + 1
    with pytest.raises(PluginError, match="is made for plugin API 2, this is 1"):
        Plugins([made])


def test_plugins_of_one_trainer_are_not_those_of_another(make_result):
    mine = plugin(agl_reward=lambda result: Reward(value=1.0))
    assert len(asyncio.run(Plugins([mine]).rewards(make_result()))) == 1
    assert asyncio.run(Plugins().rewards(make_result())) == []


def test_an_installed_plugin_that_is_given_again_is_there_once(make_result):
    from agl.builtin import credit

    assert len(Plugins([credit])._implementations("agl_assign_credit")) == 1


def test_two_objects_of_one_class_are_two_plugins(make_result):
    class Mine:
        def __init__(self, value):
            self.value = value

        @agl.hookimpl
        def agl_reward(self, result):
            return Reward(value=self.value)

    assert sorted(reward.value for reward in asyncio.run(Plugins([Mine(1.0), Mine(2.0)]).rewards(make_result()))) == [1.0, 2.0]


def test_discovery_imports_no_framework():
    code = "import sys\nfrom agl.plugins import Plugins\nPlugins()\n"
    code += "print([name for name in ('torch', 'langchain_core', 'langgraph', 'openai') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# Decisions.


async def test_a_hook_may_take_fewer_arguments_and_be_async(make_result):
    async def later(result):
        await asyncio.sleep(0)
        return [make_reward(0.25, name="style", source="agent")]

    made = Plugins([plugin("none", agl_reward=lambda: None), plugin("late", agl_reward=later)])
    (reward,) = await made.rewards(make_result())
    assert (reward.value, reward.name, reward.source) == (0.25, "style", "plugin:late")


async def test_a_decision_that_fails_names_the_plugin_and_the_hook(make_result):
    def fail(result):
        raise KeyError("field")

    with pytest.raises(PluginError, match="plugin `judge` failed in `agl_reward`: KeyError: 'field'") as caught:
        await Plugins([plugin("judge", agl_reward=fail)]).rewards(make_result())
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("given", [1.0, 0.0, "good", [Reward(value=1.0), 2.0], Reward(value=float("nan")), [Reward(value="x")]])
async def test_what_is_no_reward_is_refused_with_the_plugins_name(make_result, given):
    with pytest.raises(PluginError, match="plugin `judge` failed in `agl_reward`"):
        await Plugins([plugin("judge", agl_reward=lambda: given)]).rewards(make_result())


def test_the_first_answer_decides_and_plugins_go_before_the_built_in_ones(make_result):
    item = Transition(span_id="s", rollout_id="ro", attempt_id="at")
    calls = []
    last = plugin("last", agl_assign_credit=lambda transitions: calls.append("last"))
    first = plugin("first", agl_assign_credit=lambda transitions: [calls.append("first"), *transitions][1:])
    assert Plugins([first, last]).assign_credit(make_result(), [item]) == (item,)
    assert calls == ["first"]


def test_an_agent_that_nobody_knows_is_refused_with_its_type_and_what_to_install(plugins):
    with pytest.raises(ConfigError, match=r"no plugin knows how to run a .*Strange; installed are .*pip install agl-langgraph"):
        plugins.adapt_agent(type("Strange", (), {})())


def test_a_plugin_may_refuse_the_configuration():
    def refuse(config):
        raise ConfigError(f"seed {config['seed']} is unlucky")

    def fail(config):
        raise ValueError("oops")

    with pytest.raises(ConfigError, match="seed 13 is unlucky"):
        Plugins([plugin(agl_configure=refuse)]).configure({"seed": 13})
    with pytest.raises(PluginError, match="plugin `mine` failed in `agl_configure`: ValueError: oops"):
        Plugins([plugin(agl_configure=fail)]).configure({})


def test_a_callback_handler_that_no_plugin_has_says_what_to_install():
    with pytest.raises(PluginError, match="no installed plugin gives a callback handler for `nosuch`"):
        Plugins(discover=False).callback_handler("nosuch")


# Context managers around an attempt.


def traced(log, name="mine", fail=None, swallow=False):
    @contextlib.contextmanager
    def trace(attempt):
        if fail == "enter":
            raise OSError("no port")
        log.append("enter")
        try:
            yield
        except ValueError:
            log.append("saw it")
            if not swallow:
                raise
        finally:
            log.append("exit")
            if fail == "exit":
                raise OSError("no port")

    return plugin(name, agl_trace_rollout=trace)


def test_context_managers_are_open_around_the_attempt_and_see_its_exception(make_attempt):
    log = []

    def run():
        with Plugins([traced(log)]).opened(make_attempt()):
            log.append("run")
            raise ValueError("the agent's own")

    with pytest.raises(ValueError, match="the agent's own"):
        run()
    assert log == ["enter", "run", "saw it", "exit"]


@pytest.mark.parametrize("when", ["enter", "exit"])
def test_a_context_manager_that_fails_is_named_and_not_taken_for_the_agents_failure(make_attempt, when):
    made = Plugins([traced([], "tracer", fail=when)])
    with pytest.raises(PluginError, match="plugin `tracer` failed in `agl_trace_rollout`: OSError: no port"), made.opened(make_attempt()):
        pass


def test_what_was_opened_is_closed_when_a_later_plugin_fails_to_open(make_attempt):
    log = []
    made = Plugins([traced(log, "early"), traced(log, "later", fail="enter")])
    with pytest.raises(PluginError, match="later"), made.opened(make_attempt()):
        log.append("run")
    assert log == ["enter", "exit"]


def test_a_plugin_cannot_swallow_the_agents_exception(make_attempt):
    with pytest.raises(ValueError, match="agent's"), Plugins([traced([], swallow=True)]).opened(make_attempt()):
        raise ValueError("the agent's own")


def test_inside_an_attempt_its_trainers_plugins_are_the_active_ones(make_attempt):
    made = Plugins([plugin(agl_callback_handler=lambda framework: f"handler for {framework}")])
    with made.opened(make_attempt()):
        assert active() is made
        assert active().callback_handler("x") == "handler for x"
    assert active() is module._installed()


# Observers.


async def test_an_observer_that_fails_warns_once_and_the_others_hear(caplog):
    heard = []

    async def fail(rollout):
        raise RuntimeError("tracker down")

    made = Plugins([plugin("ear", agl_rollout_started=lambda rollout: heard.append(rollout)), plugin("tracker", agl_rollout_started=fail)])
    with caplog.at_level(logging.WARNING, logger="agl"):
        for number in range(3):
            await made.observe("agl_rollout_started", rollout=number)
    assert heard == [0, 1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "plugin `tracker` failed in `agl_rollout_started`: RuntimeError: tracker down (said once)"
    ]


def test_a_plugin_whose_commands_fail_is_left_out_with_a_warning(caplog):
    added = []

    def fail(cli):
        raise RuntimeError("no click")

    Plugins(
        [plugin("good", agl_register_commands=lambda cli: added.append(cli)), plugin("bad", agl_register_commands=fail)]
    ).register_commands("cli")
    assert added == ["cli"]
    assert "plugin `bad` failed in `agl_register_commands`: RuntimeError: no click" in caplog.text
