"""An agent of a known framework whose plugin is missing gets an error that names the package."""

import pytest

from agl.discovery import PluginRow
from agl.errors import ConfigError
from agl.frameworks import package_for, why_unknown
from agl.plugins import Plugins


def a(module, name, *bases):
    return type(name, bases, {"__module__": module})


RUNNABLE = a("langchain_core.runnables.base", "Runnable")
CASES = [
    (a("langgraph.graph.state", "CompiledStateGraph", a("langgraph.pregel.main", "Pregel", RUNNABLE)), "agl-langgraph"),
    (a("langgraph.graph.state", "StateGraph"), "agl-langgraph"),
    (a("langgraph.pregel.remote", "RemoteGraph"), "agl-langgraph"),
    (a("langchain_core.runnables.base", "RunnableSequence", RUNNABLE), "agl-langgraph"),
    (a("crewai.crew", "Crew"), "agl-crewai"),
    (a("users_module", "MyFlow", a("crewai.flow.flow", "Flow")), "agl-crewai"),
    (a("crewai.agent.core", "Agent", a("crewai.agents.agent_builder.base_agent", "BaseAgent")), "agl-crewai"),
    (a("autogen_agentchat.agents._assistant_agent", "AssistantAgent", a("autogen_agentchat.agents._base", "BaseChatAgent")), "agl-autogen"),
    (a("autogen_agentchat.teams._round", "RoundRobin", a("autogen_agentchat.teams._base", "BaseGroupChat")), "agl-autogen"),
    (a("agents.agent", "Agent", a("agents.agent", "AgentBase")), "agl-openai-agents"),
    # A common name of a module, and names that only begin alike.
    (a("agents", "AgentBase"), None),
    (a("crewairy.crew", "Crew"), None),
    (a("users_module", "Crew"), None),
    (int, None),
]


@pytest.mark.parametrize(("cls", "package"), CASES)
def test_objects_and_classes_are_known_by_the_names_of_their_classes(cls, package):
    assert package_for(cls) == package
    assert package_for(cls()) == package


def row(state, reason=""):
    return PluginRow(name="crewai", package="agl-crewai", version="0.1.0", state=state, reason=reason)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], r"how to run a crewai\.crew\.Crew; installed are \[\]\. Its plugin is not installed: `pip install agl-crewai`"),
        (
            [row("unsupported", "needs crewai<2, installed is 3.0")],
            "plugin `crewai` of agl-crewai is unsupported: needs crewai<2, installed is 3.0",
        ),
        ([row("blocked", "named in $AGL_PLUGINS_DISABLED")], "is blocked: named in"),
        ([row("ok")], r"installed are \['crewai'\]\. agl-crewai 0\.1\.0 does not take it; wrap it"),
    ],
)
def test_the_error_says_what_is_the_matter_with_the_plugin(rows, says):
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(why_unknown(CASES[4][0](), rows))


def test_a_class_in_place_of_an_object_is_told():
    assert "the class users_module.MyFlow" in why_unknown(CASES[5][0], [row("ok")])
    assert "Give an object of the class" in why_unknown(CASES[5][0], [row("ok")])


def test_the_facade_says_it_and_an_unknown_object_may_be_wrapped():
    with pytest.raises(ConfigError, match="`pip install agl-crewai`"):
        Plugins(discover=False).adapt_agent(CASES[4][0]())
    with pytest.raises(ConfigError, match=r"a builtins\.int; .* wrap it in a function with `@agl\.rollout`"):
        Plugins(discover=False).adapt_agent(3)
