"""What is run, on copies of what, with which prompts."""

import logging

import pytest
from crewai import Crew, Process, Task
from crewai.flow import Flow, start
from crewai.tools import BaseTool

import agl
from agl.errors import ConfigError
from agl_crewai import plugin


def prompts(**named):
    return {name: agl.PromptTemplate(template=text) for name, text in named.items()}


def test_what_is_not_of_crewai_is_left_to_others():
    assert plugin.agl_adapt_agent(lambda task: 1.0) is None
    assert plugin.agl_adapt_agent(object()) is None
    assert plugin.agl_adapt_agent(dict) is None
    assert plugin.agl_list_prompts(object()) is None


async def test_a_crew_that_is_not_given_its_inputs_by_name_says_what_to_give(attempts, team):
    with pytest.raises(ConfigError, match=r"a crew takes its inputs by name, given was 'sums'; .*input=lambda task"):
        await attempts.run(team(), "sums")
    assert attempts.server.requests == []


async def test_the_users_crew_stays_as_it_is(attempts, team):
    crew = team()
    await attempts.run(crew, {"topic": "sums"}, **prompts(**{"crew/Critic.goal": "Other"}))
    assert [agent.role for agent in crew.agents] == ["Solver of {topic}", "Critic"]
    assert crew.tasks[0].description == "Solve {topic}"
    assert crew.tasks[0].output is None
    assert crew.agents[1].goal == "GOAL of Critic"


async def test_a_crew_that_has_run_before_starts_from_its_placeholders(attempts, team, model):
    crew = team(model(attempts.server.base_url("/users")))
    await crew.akickoff({"topic": "before"})
    attempts.server.requests.clear()
    await attempts.run(crew, {"topic": "now"})
    assert attempts.roles() == ["crew/Solver of %7Btopic%7D", "crew/Critic"]
    said = attempts.server.requests[0].body["messages"]
    assert "Solver of now" in said[0]["content"]
    assert "Solve now" in said[1]["content"]


async def test_agents_of_one_role_keep_their_tasks(attempts, member):
    twins = [member("Twin"), member("Twin")]
    twins[1].backstory = "SECOND"
    tasks = [Task(description="x", expected_output="y", agent=twin) for twin in twins]
    await attempts.run(Crew(agents=twins, tasks=tasks), {})
    said = [call.body["messages"][0]["content"] for call in attempts.server.requests]
    assert ["SECOND" in text for text in said] == [False, True]


@pytest.mark.filterwarnings("ignore:function callbacks cannot be serialized")
async def test_callbacks_stay_the_users_own_functions_inside_the_attempt(attempts, member):
    seen = []
    agent = member("solver")
    task = Task(description="x", expected_output="y", agent=agent, callback=lambda output: seen.append(agl.current()))
    _, attempt = await attempts.run(Crew(agents=[agent], tasks=[task], step_callback=lambda step: seen.append(agl.current())), {})
    assert len(seen) >= 1
    assert set(seen) == {attempt}


async def test_a_tool_with_a_limit_of_uses_has_it_anew_in_each_attempt(attempts, member, script):
    from agl.testing import Reply

    class Once(BaseTool):
        name: str = "once"
        description: str = "Can be used once."
        max_usage_count: int | None = 1

        def _run(self) -> str:
            return "used"

    script["answer"] = lambda body: "ok" if body["messages"][-1]["role"] == "tool" else Reply(None, [("once", {})])
    agent = member("solver", tools=[Once()])
    for number in range(2):
        await attempts.run(agent, "go", number)
    results = [call.body["messages"][-1]["content"] for call in attempts.server.requests if call.body["messages"][-1]["role"] == "tool"]
    assert results == ["used", "used"]


async def test_what_is_set_on_a_flow_is_on_every_new_one_and_nothing_comes_back(attempts, team):
    class Notes(Flow):
        def __init__(self, crew):
            super().__init__()
            self.crew, self.notes = crew, []

        @start()
        async def write(self):
            self.notes.append(self.state["topic"])
            await self.crew.akickoff({"topic": self.state["topic"]})
            return list(self.notes)

    flow = Notes(team())
    flow.state["topic"] = "mine"
    for number in range(2):
        output, _ = await attempts.run(flow, None, number)
        assert output == ["mine"]
    assert flow.notes == []


def test_a_flows_class_that_needs_arguments_is_refused_with_what_to_give():
    class Needs(Flow):
        def __init__(self, topic):
            super().__init__()

        @start()
        def begin(self):
            return 1

    with pytest.raises(ConfigError, match=r"the flow `Needs` cannot be made without arguments .*give AGL an object of it"):
        plugin.agl_adapt_agent(Needs)


def test_a_crew_with_a_memory_is_warned_of(team, caplog):
    with caplog.at_level(logging.WARNING, "agl.crewai"):
        plugin.agl_adapt_agent(team(memory=True))
    assert "has a memory, which its attempts share" in caplog.text


def test_the_prompts_of_a_crew_are_listed_by_the_roles_of_its_agents(team):
    listed = plugin.agl_list_prompts(team())
    assert {name: template.template for name, template in listed.items()} == {
        "crew/Solver of {topic}.goal": "GOAL of Solver of {topic}",
        "crew/Solver of {topic}.backstory": "STORY of Solver of {topic}",
        "crew/Solver of {topic}.tools.add.description": "Adds two numbers.",
        "crew/Critic.goal": "GOAL of Critic",
        "crew/Critic.backstory": "STORY of Critic",
        "crew.tasks.solve.description": "Solve {topic}",
        "crew.tasks.solve.expected_output": "A number",
        "crew.tasks.judge.description": "Judge it",
        "crew.tasks.judge.expected_output": "A word",
    }


async def test_prompts_are_templates_and_reach_the_model(attempts, team, add):
    given = {
        "crew/Solver of {topic}.goal": "NEW GOAL for {topic}",
        "crew/Solver of {topic}.backstory": "NEW STORY",
        "crew/Solver of {topic}.tools.add.description": "NEW TOOL",
        "crew.tasks.solve.description": "NEW TASK on {topic}",
        "crew.tasks.judge.expected_output": "NEW OUTPUT",
    }
    _, attempt = await attempts.run(team(), {"topic": "sums"}, **prompts(**given))
    first, second = (call.body for call in attempts.server.requests)
    assert first["messages"][0]["content"] == "You are Solver of sums. NEW STORY\nYour personal goal is: NEW GOAL for sums"
    assert "NEW TASK on sums" in first["messages"][1]["content"]
    assert first["tools"][0]["function"]["description"] == "NEW TOOL"
    assert "NEW OUTPUT" in second["messages"][1]["content"]
    assert attempt.used_prompts == set(given)
    assert "NEW" not in add.description


async def test_the_prompts_of_a_manager_that_the_framework_makes_are_known_and_can_be_exchanged(attempts, team, model):
    crew = team(process=Process.hierarchical, manager_llm=model())
    name = "crew/Crew Manager.goal"
    listed = plugin.agl_list_prompts(crew)
    assert "Manage the team" in listed[name].template
    assert "crew/Crew Manager/Critic.goal" in listed
    await attempts.run(crew, {"topic": "sums"}, **prompts(**{name: "NEW GOAL"}))
    assert "Your personal goal is: NEW GOAL" in attempts.server.requests[0].body["messages"][0]["content"]


def test_texts_that_differ_under_one_name_are_not_listed(member):
    twins = [member("Twin"), member("Twin")]
    twins[1].backstory = "SECOND"
    listed = plugin.agl_list_prompts(Crew(agents=twins, tasks=[Task(description="x", expected_output="y", agent=twins[0])]))
    assert "crew/Twin.goal" in listed
    assert "crew/Twin.backstory" not in listed
