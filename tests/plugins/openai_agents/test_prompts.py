"""Prompts: which ones an agent has, and others in their place for one attempt."""

import pytest
from agents import Agent, Runner, WebSearchTool, function_tool, handoff

import agl
from agl.resources import PromptTemplate
from agl.testing import Reply
from agl_openai_agents import plugin


@function_tool
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


def team():
    helper = Agent("helper", instructions="Help.", tools=[add])
    math = Agent("math", instructions="Reckon.", tools=[add, helper.as_tool("ask_helper", "Asks."), WebSearchTool()])
    poet = Agent("poet", instructions=lambda context, agent: "Rhyme.", handoffs=[math])
    return Agent("triage", instructions="Find who can.", handoffs=[math, handoff(poet, tool_description_override="To the poet.")])


def test_prompts_of_every_agent_that_can_be_reached_are_listed_by_role():
    listed = agl.prompts(agl.agent(team()))
    assert {name: prompt.template for name, prompt in listed.items() if "transfer" not in name} == {
        "triage.instructions": "Find who can.",
        "math.instructions": "Reckon.",
        "math.tools.add.description": "The sum of two numbers.",
        "math.tools.ask_helper.description": "Asks.",
        "math/helper.instructions": "Help.",
        "math/helper.tools.add.description": "The sum of two numbers.",
    }
    handoffs = {name: prompt.template for name, prompt in listed.items() if "transfer" in name}
    assert handoffs.pop("triage.tools.transfer_to_poet.description") == "To the poet."
    assert set(handoffs) == {"triage.tools.transfer_to_math.description", "poet.tools.transfer_to_math.description"}


def test_agents_that_lead_back_to_themselves_are_listed_once():
    one, two = Agent("one", instructions="One."), Agent("two", instructions="Two.")
    one.handoffs, two.handoffs = [two], [one]
    one.tools = [two.as_tool("ask_two", "Asks.")]
    listed = agl.prompts(one)
    assert (listed["one.instructions"].template, listed["two.instructions"].template) == ("One.", "Two.")
    assert listed["one/two.instructions"].template == "Two."
    assert len([name for name in listed if name.endswith("instructions")]) == 3


def test_a_name_that_two_different_agents_share_is_left_out():
    shared = [Agent("writer", instructions=text) for text in ("One.", "Two.")]
    assert "writer.instructions" not in agl.prompts(Agent("triage", handoffs=shared))


def test_objects_of_others_are_not_the_plugins():
    assert plugin.agl_list_prompts(object()) is None


async def test_other_prompts_are_in_the_calls_of_their_roles_and_nowhere_else(attempts, script):
    steps = iter([Reply(None, [("transfer_to_math", {})]), Reply(None, [("ask_helper", {"input": "?"})]), "helped", "ok"])
    script["answer"] = lambda body: next(steps)
    agent = team()
    agent.handoffs[0].tools.pop()  # a hosted tool is none of chat completions
    before = {name: prompt.template for name, prompt in agl.prompts(agent).items()}
    names = ("triage.instructions", "triage.tools.transfer_to_math.description", "math/helper.instructions", "math.tools.add.description")
    await attempts.run(agent, **{name: PromptTemplate(template=f"new {name}") for name in names})
    triage, math, helper, again = (call.body for call in attempts.calls())
    system = [call["messages"][0]["content"] for call in (triage, math, helper, again)]
    assert system == ["new triage.instructions", "Reckon.", "new math/helper.instructions", "Reckon."]
    told = [{tool["function"]["name"]: tool["function"]["description"] for tool in call["tools"]} for call in (triage, math, helper)]
    assert told[0]["transfer_to_math"] == "new triage.tools.transfer_to_math.description"
    assert (told[1]["add"], told[2]["add"]) == ("new math.tools.add.description", "The sum of two numbers.")
    assert {name: prompt.template for name, prompt in agl.prompts(agent).items()} == before


async def test_instructions_of_a_function_are_worded_in_each_attempt(attempts):
    agent = Agent("poet", instructions=lambda context, agent: f"Rhyme on {context.context}.")
    for number, word in enumerate(("moon", "June")):
        await attempts.run(agent, {"input": "the task", "context": word}, number)
        assert attempts.calls(number)[0].body["messages"][0]["content"] == f"Rhyme on {word}."


async def test_prompts_reach_the_users_own_model_where_there_is_no_other(attempts, client):
    from agents import OpenAIResponsesModel

    model = OpenAIResponsesModel("users-model", client(attempts.server.base_url("/users")))
    agent = Agent("solver", instructions="Solve.", tools=[add], model=model)
    better = {"solver.instructions": PromptTemplate(template="Solve it well.")}
    with attempts.inside(llm=False, **better):
        await Runner.run(agent, "the task")
    assert attempts.server.requests[-1].body["instructions"] == "Solve it well."


def test_a_prompt_that_no_agent_has_is_refused_before_anything_starts(attempts):
    resources = {"main_llm": agl.LLM(endpoint=attempts.server.base_url(), model="m"), "triage.instruction": PromptTemplate(template="x")}
    with pytest.raises(agl.AglError, match=r"did you mean `triage\.instructions`"):
        agl.Trainer(initial_resources=resources, plugins=[plugin]).dev(agl.agent(team(), reward=lambda task, output: 1.0), [{"input": "x"}])
