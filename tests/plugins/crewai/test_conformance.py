"""The conformance kit, for a crew with tools, a crew with a manager, a flow and single agents."""

from agl.resources import LLM
from agl.testing import FrameworkConformance

TASK = "{text}"
USERS = LLM(endpoint="http://127.0.0.1:9/v1", model="users-model", api_key="users-key")
IN_THREADS = "agents call the model in threads, which nobody can stop; AGL's gateway drops such a call, and this check goes around it"


def model_of(llm, **options):
    from crewai import LLM as Model

    # Without a URL, CrewAI takes only names of OpenAI's own models.
    return Model(model=f"openai/{llm.model}", base_url=llm.base_url or "http://127.0.0.1:9/v1", api_key=llm.api_key, **options)


def agent_of(role, llm, **options):
    """An agent with a model of its own, or with the one that is given in place of its description."""
    from crewai import Agent

    model = model_of(llm) if isinstance(llm, LLM) else llm
    return Agent(role=role, goal=f"Be a good {role}.", backstory="You help.", llm=model, **options)


def add_tool():
    from crewai.tools import tool

    @tool("add")
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    return add


class CrewConformance(FrameworkConformance):
    plugin = "agl_crewai.plugin"
    frameworks = ("crewai", "crewai_core")
    entry_point = "crewai"
    records_spans = True
    retries = True
    expected_failures = {"test_a_stopped_rollout_stops_its_work": IN_THREADS}

    def make_input(self, text):
        return {"text": text}

    def run_sync(self, agent, given):
        """As blocking code must: a crew holds the state of its run."""
        return self.make_agent(USERS).kickoff(given)


class TestCrewWithTools(CrewConformance):
    roles = ("crew/solver", "crew/solver", "crew/critic")
    calls_tools = ("add", {"a": 1, "b": 2})
    has_prompts = (
        "crew/solver.goal",
        "crew/solver.backstory",
        "crew/solver.tools.add.description",
        "crew/critic.goal",
        "crew.tasks.solve.expected_output",
    )

    def make_agent(self, llm):
        from crewai import Crew, Task

        solver, critic = agent_of("solver", llm, tools=[add_tool()]), agent_of("critic", llm)
        solve = Task(name="solve", description=TASK, expected_output="A number.", agent=solver)
        judge = Task(name="judge", description="Judge the answer to {text}", expected_output="A word.", agent=critic)
        return Crew(agents=[solver, critic], tasks=[solve, judge])


class TestCrewWithManager(CrewConformance):
    roles = ("crew/Crew Manager", "crew/Crew Manager/writer", "crew/Crew Manager")
    calls_tools = ("delegate_work_to_coworker", {"task": "write for task-1", "context": "none", "coworker": "writer"})
    has_prompts = ("crew/Crew Manager.goal", "crew/Crew Manager/writer.backstory", "crew.tasks.1.expected_output")
    expected_failures = {
        **CrewConformance.expected_failures,
        "test_rollouts_with_different_resources_never_mix": "the scripted manager hands on the same text in every attempt",
        "test_threads_keep_their_spans": "the scripted manager hands on the same text in every attempt",
        "test_gathered_runs_keep_their_spans": "the scripted manager hands on the same text in every attempt",
    }

    def make_agent(self, llm):
        from crewai import Crew, Process, Task

        task = Task(description=TASK, expected_output="A text.")
        return Crew(agents=[agent_of("writer", llm)], tasks=[task], process=Process.hierarchical, manager_llm=model_of(llm))


class TestFlow(CrewConformance):
    roles = ("Pipeline/first", "Pipeline/second/solver", "Pipeline/third/crew/critic")

    def make_agent(self, llm):
        from crewai import Crew, Task
        from crewai.flow import Flow, listen, start

        model = model_of(llm)

        class Pipeline(Flow):
            @start()
            def first(self):
                return model.call([{"role": "user", "content": self.state["text"]}])

            @listen(first)
            async def second(self, answer):
                return (await agent_of("solver", model).akickoff(self.state["text"])).raw

            @listen(second)
            async def third(self, answer):
                critic = agent_of("critic", model)
                crew = Crew(agents=[critic], tasks=[Task(description=TASK, expected_output="A word.", agent=critic)])
                return (await crew.akickoff(self.state.copy())).raw

        return Pipeline

    def run_sync(self, agent, given):
        return self.make_agent(USERS)().kickoff(given)


class TestSingleAgent(CrewConformance):
    roles = ("helper", "helper")
    calls_tools = ("add", {"a": 1, "b": 2})
    has_prompts = ("helper.goal", "helper.tools.add.description")

    def make_agent(self, llm):
        return agent_of("helper", llm, tools=[add_tool()])

    def make_input(self, text):
        return text


class TestStreamingAgent(CrewConformance):
    roles = ("helper",)
    streams = True

    def make_agent(self, llm):
        from crewai import Agent

        return Agent(role="helper", goal="Help.", backstory="You help.", llm=model_of(llm, stream=True))

    def make_input(self, text):
        return text
