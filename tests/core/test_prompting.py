"""Prompts have names, are found in requests and in recorded calls, and are put into single requests."""

import copy

import openai
import pytest

import agl
from agl import context
from agl.builtin import openai_sdk
from agl.errors import ConfigError, PluginError
from agl.plugins import Plugins
from agl.prompting import check, prompts_of, put_in, unused
from agl.resources import LLM, PromptTemplate
from agl.roles import Roles
from agl.testing.scripted import ScriptedServer


def given(**texts):
    return {name.replace("__", "."): PromptTemplate(template=text) for name, text in texts.items()}


TOOLS = [
    {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {}}},
    {"type": "function", "function": {"name": "bare"}},
]
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}, {"role": "system", "content": "old"}], "tools": TOOLS}


def test_the_first_system_message_and_tool_descriptions_of_a_role_are_replaced():
    body, overridden = put_in(CHAT, "team/a", given(**{"team/a__system_prompt": "new", "team/a__tools__add__description": "Sum."}))
    assert body["messages"] == [{"role": "user", "content": "hi"}, {"role": "system", "content": "new"}]
    assert body["tools"] == [{"type": "function", "function": {"name": "add", "description": "Sum.", "parameters": {}}}, TOOLS[1]]
    assert overridden == {"team/a.system_prompt": "old", "team/a.tools.add.description": "Add."}


def test_the_users_own_objects_are_never_changed():
    before = copy.deepcopy(CHAT)
    put_in(CHAT, "a", given(a__system_prompt="new", a__tools__add__description="Sum."))
    assert before == CHAT


def test_the_same_text_put_in_leaves_the_request_as_it_is():
    assert put_in(CHAT, "a", given(a__system_prompt="old", a__tools__add__description="Add."))[0] == CHAT


@pytest.mark.parametrize("name", ["system_prompt", "instructions"])
@pytest.mark.parametrize(
    ("body", "changed"),
    [
        ({"instructions": "old", "input": "hi"}, {"instructions": "new", "input": "hi"}),
        ({"input": [{"role": "developer", "content": "old"}]}, {"input": [{"role": "developer", "content": "new"}]}),
        ({"messages": [{"role": "developer", "content": "old"}]}, {"messages": [{"role": "developer", "content": "new"}]}),
    ],
)
def test_both_names_fit_both_apis(name, body, changed):
    assert put_in(body, "a", given(**{f"a__{name}": "new"})) == (changed, {f"a.{name}": "old"})


def test_tools_of_the_responses_api_are_described_beside_their_name():
    body = {"input": "hi", "tools": [{"type": "function", "name": "add", "description": "Add."}, {"type": "web_search"}]}
    changed, overridden = put_in(body, "a", given(a__tools__add__description="Sum."))
    assert changed["tools"] == [{"type": "function", "name": "add", "description": "Sum."}, {"type": "web_search"}]
    assert overridden == {"a.tools.add.description": "Add."}


def test_a_content_of_parts_keeps_its_form():
    part = {"type": "text", "text": "old", "cache_control": {"type": "ephemeral"}}
    body, overridden = put_in({"messages": [{"role": "system", "content": [part]}]}, "a", given(a__system_prompt="new"))
    assert body["messages"][0]["content"] == [{**part, "text": "new"}]
    assert overridden == {"a.system_prompt": "old"}


@pytest.mark.parametrize(
    "body",
    [{}, {"messages": [{"role": "user", "content": "hi"}]}, {"messages": None}, {"messages": ["x"]}, {"input": "hi", "tools": [3]}],
)
def test_where_there_is_no_prompt_none_is_added(body):
    assert put_in(body, "a", given(a__system_prompt="new", a__instructions="new", a__tools__add__description="Sum.")) == (body, {})


def test_braces_are_text():
    text = 'Answer as {"number": 1}, {name}.'
    assert put_in(CHAT, "a", given(a__system_prompt=text))[0]["messages"][1]["content"] == text


# In the calls of the OpenAI SDK.


@pytest.fixture
def server():
    with ScriptedServer("ok") as running:
        yield running
    openai_sdk.uninstall()


def ask(server, **options):
    client = openai.OpenAI(base_url=server.base_url(), api_key="users-key", max_retries=0)
    client.chat.completions.create(**{**CHAT, **options})


@pytest.fixture
def inside(make_attempt, server):
    def make(resources, role="writer"):
        attempt = make_attempt({"main_llm": LLM(endpoint=server.base_url("/r/x/y"), model="policy"), **resources})
        openai_sdk.agl_inject_resources(attempt)
        with context.entered(attempt), context.role(role):
            ask(server)
        return attempt

    return make


def test_a_call_carries_the_prompts_of_its_role_and_tells_the_agents_own(inside, server):
    attempt = inside(given(writer__system_prompt="new", critic__system_prompt="other", writer__system="other", plain="other"))
    assert server.requests[0].body["messages"][1]["content"] == "new"
    assert server.requests[0].body["agl_overridden"] == {"writer.system_prompt": "old"}
    assert attempt.used_prompts == {"writer.system_prompt"}


def test_prompts_of_other_roles_leave_the_call_as_it_is(inside, server):
    inside(given(writer__system_prompt="new"), role="writer/draft")
    assert server.requests[0].body == CHAT


def test_what_a_plugin_puts_in_itself_is_left_to_it(make_attempt, server):
    llm = LLM(endpoint=server.base_url(), model="policy")
    attempt = make_attempt({"main_llm": llm, **given(writer__instructions="new {x}")})
    openai_sdk.agl_inject_resources(attempt)
    assert attempt.claim_prompt("writer.goal") is None
    assert attempt.claim_prompt("writer.instructions").format(x=1) == "new 1"
    with context.entered(attempt), context.role("writer"):
        ask(server)
    assert server.requests[0].body == CHAT
    assert attempt.used_prompts == {"writer.instructions"}


def test_an_attempt_without_a_model_puts_prompts_into_calls_of_the_users_endpoint(make_attempt, server):
    attempt = make_attempt(given(writer__system_prompt="new"))
    openai_sdk.agl_inject_resources(attempt)
    with context.entered(attempt), context.role("writer"):
        ask(server)
    (request,) = server.requests
    assert request.body == {**CHAT, "messages": [CHAT["messages"][0], {"role": "system", "content": "new"}]}
    assert request.headers["authorization"] == "Bearer users-key"
    (span,) = attempt.close()[0]
    assert span.attributes["agl.call"]["overridden"] == {"writer.system_prompt": "old"}


# Which there are.


def recorded(make_call, role, texts, **values):
    return [make_call([1], [2], role=role, request={"messages": [{"role": "system", "content": text}]}, **values) for text in texts]


def test_recorded_calls_tell_the_prompts_that_stay_the_same(make_call):
    spans = recorded(make_call, "writer", ["w", "w"]) + recorded(make_call, "guide", ["one", "two"]) + recorded(make_call, None, ["x"])
    assert prompts_of(spans) == given(writer__system_prompt="w")


def test_recorded_calls_tell_the_agents_own_prompt_and_not_what_replaced_it(make_call):
    (span,) = recorded(make_call, "writer", ["new"])
    span.attributes["agl.call"]["overridden"] = {"writer.system_prompt": "own"}
    assert prompts_of([span]) == given(writer__system_prompt="own")


class Listing:
    """A plugin that knows the prompts of texts."""

    def __init__(self, answer):
        self.answer = answer

    @agl.hookimpl
    def agl_list_prompts(self, agent):
        return self.answer if isinstance(agent, str) else None


def test_a_plugin_lists_the_prompts_of_its_agents():
    plugins = Plugins([Listing(given(a__goal="win"))], discover=False)
    assert plugins.prompts("agent") == given(a__goal="win")
    assert plugins.prompts(3) is None


@pytest.mark.parametrize("wrong", [["a"], {"a": "text"}, {1: PromptTemplate(template="x")}])
def test_a_plugin_that_lists_something_else_is_refused(wrong):
    with pytest.raises(PluginError, match=r"`agl_list_prompts` must give `agl\.PromptTemplate` by name, or None"):
        Plugins([Listing(wrong)], discover=False).prompts("agent")


def test_an_agent_that_nobody_knows_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match=r"prompts of a builtins\.function are not known.*`agl\.prompts\(trainer\.dev\(agent, tasks\)\)`"):
        agl.prompts(lambda task: 1)


LISTED = given(a__goal="win", a__tools__add__description="Add.")


def test_a_prompt_that_a_known_role_does_not_have_is_refused_with_the_near_one():
    with pytest.raises(
        ConfigError, match=r"no prompt `a\.gaol`; did you mean `a\.goal`\? It has \['a\.goal', 'a\.tools\.add\.description'\]"
    ):
        check(given(a__gaol="x"), Roles(), LISTED)


@pytest.mark.parametrize("fine", ["a.goal", "a.tools.add.description", "inside a tool.system_prompt", "a_prompt_of_the_users_code"])
def test_prompts_that_may_have_a_place_are_let_through(fine):
    check({fine: PromptTemplate(template="x")}, Roles(), LISTED)
    check({fine: PromptTemplate(template="x")}, Roles(), None)


def test_prompts_that_no_rollout_used_are_told(make_result, make_span):
    results = [make_result(spans=(make_span(attributes={"agl.prompts": ["a.goal"]}),)), make_result()]
    assert unused(given(a__goal="x", a__gaol="x", plain="x"), results) == ["a.gaol"]
