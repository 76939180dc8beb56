"""The prompts that are listed are those that the model gets, and others reach it in their place."""

import asyncio

import pytest
from autogen_agentchat.agents import AssistantAgent, SocietyOfMindAgent
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat, Swarm
from autogen_agentchat.tools import AgentTool

import agl
from agl.errors import ConfigError
from agl.testing import Reply
from agl_autogen import plugin

pytestmark = pytest.mark.filterwarnings("ignore:Resolved model mismatch")

SELECTOR = "SelectorGroupChat/SelectorGroupChatManager.selector_prompt"


def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


def texts(prompts):
    return {name: template.template for name, template in prompts.items()}


def sent(server):
    """System and user messages of each call, by role."""
    return {call.headers["x-agl-role"]: [message["content"] for message in call.body["messages"]] for call in server.requests}


def selecting(client, prompt="Choose one of {participants} for {history}. {roles}"):
    members = [AssistantAgent(name, client(), description=f"A {name}.") for name in ("writer", "critic")]
    return SelectorGroupChat(members, client(), selector_prompt=prompt, max_turns=1)


def test_what_is_not_of_autogen_has_no_prompts_here():
    assert plugin.agl_list_prompts(add) is None


async def test_an_agents_prompts_are_its_system_prompt_and_its_tools(client):
    writer = AgentTool(AssistantAgent("writer", client(), description="Writes.", system_message="Write."))
    solver = AssistantAgent("solver", client(), tools=[add, writer], handoffs=["other"], system_message="Solve.")
    found = texts(plugin.agl_list_prompts(solver))
    assert found.pop("solver.tools.transfer_to_other.description").startswith("Handoff to other")
    assert found == {
        "solver.system_prompt": "Solve.",
        "solver.tools.add.description": "The sum of two numbers.",
        "solver.tools.writer.description": "Writes.",
        "solver/writer.system_prompt": "Write.",
    }


async def test_an_agent_without_a_system_message_has_no_system_prompt(client):
    assert plugin.agl_list_prompts(AssistantAgent("solver", client(), system_message=None)) == {}


async def test_listed_names_are_the_roles_of_the_calls(attempts, client, script):
    inner = RoundRobinGroupChat([AssistantAgent("writer", client())], name="inner", max_turns=1)
    team = RoundRobinGroupChat([SocietyOfMindAgent("society", inner, client()), AssistantAgent("judge", client())], max_turns=2)
    await attempts.run(team)
    assert {name.rpartition(".")[0] for name in plugin.agl_list_prompts(team)} == set(attempts.roles())


async def test_a_selectors_prompt_is_listed_with_its_placeholders_and_filled_in_by_the_framework(attempts, client, script):
    team = selecting(client)
    assert texts(plugin.agl_list_prompts(team))[SELECTOR] == "Choose one of {participants} for {history}. {roles}"
    script["answer"] = lambda body: "critic"
    await attempts.run(team, **{SELECTOR: agl.PromptTemplate(template="Pick from {participants}!")})
    assert sent(attempts.server)["SelectorGroupChat/SelectorGroupChatManager"] == ["Pick from ['writer', 'critic']!"]
    assert texts(plugin.agl_list_prompts(team))[SELECTOR].startswith("Choose one")


async def test_a_selectors_prompt_reaches_a_team_that_a_function_makes_and_is_given_back(attempts, client, script):
    team = selecting(client)
    script["answer"] = lambda body: "critic"
    with attempts.inside(**{SELECTOR: agl.PromptTemplate(template="Pick from {participants}!")}) as attempt:
        await team.run(task="the task")
    assert sent(attempts.server)["SelectorGroupChat/SelectorGroupChatManager"] == ["Pick from ['writer', 'critic']!"]
    assert attempt.used_prompts == {SELECTOR}


async def test_a_selectors_prompt_with_unknown_placeholders_is_refused_by_name(attempts, client):
    given = {SELECTOR: agl.PromptTemplate(template="Pick from {members}!")}
    with pytest.raises(ConfigError, match=r"placeholders \['members'\]; AutoGen fills in \['history', 'participants', 'roles'\]"):
        await attempts.run(selecting(client), **given)


async def test_a_society_of_minds_instructions_are_put_in_and_given_back(attempts, client):
    inner = RoundRobinGroupChat([AssistantAgent("writer", client())], name="inner", max_turns=1)
    society = SocietyOfMindAgent("society", inner, client(), instruction="Earlier:", response_prompt="Answer.")
    assert texts(plugin.agl_list_prompts(society))["society.instruction"] == "Earlier:"
    with attempts.inside(**{"society.instruction": agl.PromptTemplate(template="Before:")}):
        await society.run(task="the task")
    assert sent(attempts.server)["society"][0] == "Before:"
    assert sent(attempts.server)["society"][-1] == "Answer."
    assert texts(plugin.agl_list_prompts(society))["society.instruction"] == "Earlier:"


async def test_system_prompts_and_tool_descriptions_of_one_role_change_and_others_stay(attempts, client):
    team = Swarm([AssistantAgent(name, client(), tools=[add], system_message=f"I am {name}.") for name in ("one", "two")], max_turns=1)
    better = {"Swarm/one.system_prompt": "Better.", "Swarm/one.tools.add.description": "Adds."}
    for number, given in enumerate([{name: agl.PromptTemplate(template=text) for name, text in better.items()}, {}]):
        await attempts.run(team, number=number, **given)
    changed, own = attempts.server.requests
    assert (changed.body["messages"][0]["content"], changed.body["tools"][0]["function"]["description"]) == ("Better.", "Adds.")
    assert (own.body["messages"][0]["content"], own.body["tools"][0]["function"]["description"]) == ("I am one.", "The sum of two numbers.")


def test_a_prompt_that_no_agent_has_is_refused_before_anything_starts(tmp_path, plain_client):
    llm = agl.LLM(endpoint="http://127.0.0.1:9/v1", model="trained", api_key="k")
    given = {"main_llm": llm, "solver.sistem_prompt": agl.PromptTemplate(template="x")}
    agent = agl.agent(AssistantAgent("solver", plain_client()), input=lambda task: "x", reward=lambda task, output: 1.0)
    with pytest.raises(ConfigError, match=r"no prompt `solver.sistem_prompt`; did you mean `solver.system_prompt`"):
        agl.Trainer(store=tmp_path / "store.sqlite", initial_resources=given).dev(agent, [{"q": 1}])


def test_agl_prompts_lists_them(plain_client):
    assert list(agl.prompts(agl.agent(AssistantAgent("solver", plain_client(), system_message="Solve.")))) == ["solver.system_prompt"]


async def test_prompts_of_32_concurrent_rollouts_never_mix(attempts, client, script):
    script["answer"] = lambda body: Reply("critic", delay=0.02)
    adapter = plugin.agl_adapt_agent(selecting(client))

    async def attempt_of(number):
        with attempts.inside(number, **{SELECTOR: agl.PromptTemplate(template=f"Prompt {number} {{participants}}")}) as attempt:
            await adapter.run("the task", attempt.resources, attempt.rollout)

    await asyncio.gather(*(attempt_of(number) for number in range(32)))
    asked = [call for call in attempts.server.requests if "Manager" in call.headers["x-agl-role"]]
    assert len(asked) == 32
    assert all(call.body["messages"][0]["content"].split()[1] == call.path.split("/")[2].removeprefix("ro") for call in asked)
