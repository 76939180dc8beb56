"""The conformance kit: an agent with a tool, a handoff pair, an agent as a tool; Responses and chat completions; streams."""

import openai
import pytest

import agl
from agl.testing import FrameworkConformance

# `Runner.run_sync` ends the generators of its thread's event loop, and uses the loop again.
pytestmark = pytest.mark.filterwarnings("ignore:asynchronous generator .* was scheduled after:ResourceWarning")


def client_of(llm):
    """The user's client. It keeps no connections: nobody closes those of an agent when its test is over."""
    limits = type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0)
    http = openai.DefaultAsyncHttpxClient(limits=limits, verify=False)
    return openai.AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key, http_client=http)


def chat(llm):
    from agents import OpenAIChatCompletionsModel

    return OpenAIChatCompletionsModel(llm.model, client_of(llm))


def responses(llm):
    from agents import OpenAIResponsesModel

    return OpenAIResponsesModel(llm.model, client_of(llm))


def add_tool():
    from agents import function_tool

    @function_tool
    def add(a: int, b: int) -> int:
        """The sum of two numbers."""
        return a + b

    return add


class AgentsConformance(FrameworkConformance):
    plugin = "agl_openai_agents.plugin"
    frameworks = ("agents",)
    entry_point = "openai_agents"
    records_spans = True
    retries = True

    def output_text(self, output):
        return output.final_output


class TestToolAgent(AgentsConformance):
    """A Responses model, which is what the SDK takes by itself."""

    roles = ("solver", "solver")
    calls_tools = ("add", {"a": 1, "b": 2})
    has_prompts = ("solver.instructions", "solver.tools.add.description")

    def make_agent(self, llm):
        from agents import Agent

        return Agent("solver", instructions="Solve it.", tools=[add_tool()], model=responses(llm))

    def run_sync(self, agent, given):
        from agents import Runner

        return Runner.run_sync(agent, given)


class TestHandoff(AgentsConformance):
    """Two agents with chat completions models; the second takes the conversation over."""

    roles = ("triage", "writer")
    calls_tools = ("transfer_to_writer", {})
    has_prompts = ("triage.instructions", "writer.instructions", "triage.tools.transfer_to_writer.description")
    expected_failures = {"test_tool_calls_are_recorded": "a handoff runs no tool: its span says who hands over to whom"}

    def make_agent(self, llm):
        from agents import Agent

        writer = Agent("writer", instructions="Write it.", model=chat(llm))
        return Agent("triage", instructions="Find who can do it.", handoffs=[writer], model=chat(llm))

    def run_sync(self, agent, given):
        from agents import Runner

        return Runner.run_sync(agent, given)


class TestAgentAsTool(AgentsConformance):
    """An agent that asks another one, which words its instructions for each run."""

    roles = ("boss", "boss/helper", "boss")
    calls_tools = ("ask_helper", {"input": "What is it?"})
    has_prompts = ("boss.instructions", "boss.tools.ask_helper.description")

    def make_agent(self, llm):
        from agents import Agent

        helper = Agent("helper", instructions=lambda ctx, agent: f"Help with: {ctx.context}", model=responses(llm))
        return Agent("boss", instructions="Ask.", tools=[helper.as_tool("ask_helper", "Asks the helper.")], model=chat(llm))

    def make_input(self, text):
        return {"input": text, "context": text}


class TestStreamInAFunction(AgentsConformance):
    """The user's own code makes the run, and reads its events."""

    roles = ("solver", "solver")
    calls_tools = ("add", {"a": 1, "b": 2})
    streams = True

    def make_agent(self, llm):
        from agents import Agent, Runner

        solver = Agent("solver", instructions="Solve it.", tools=[add_tool()], model=responses(llm))

        @agl.rollout
        async def ask(task):
            result = Runner.run_streamed(solver, task["text"])
            async for _ in result.stream_events():
                pass
            return float("answer" in result.final_output)

        return ask


class TestTracingDisabled(AgentsConformance):
    """Without the SDK's tracing there are roles, and a span for each run."""

    roles = ("triage", "writer")
    calls_tools = ("transfer_to_writer", {})
    records_spans = False

    def make_agent(self, llm):
        from agents import Agent, RunConfig, Runner

        writer = Agent("writer", model=responses(llm))
        triage = Agent("triage", handoffs=[writer], model=responses(llm))

        @agl.rollout
        async def ask(task):
            result = await Runner.run(triage, task["text"], run_config=RunConfig(tracing_disabled=True))
            return float("answer" in result.final_output)

        return ask


del AgentsConformance
