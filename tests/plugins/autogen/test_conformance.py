"""The conformance kit, for an agent, a team with a selector, and a team inside a team."""

import asyncio

import pytest

from agl.resources import LLM
from agl.testing import FrameworkConformance

# AutoGen warns of every answer from a model with another name than the agent's, which is what training is.
pytestmark = pytest.mark.filterwarnings("ignore:Resolved model mismatch")


def model_of(llm, **options):
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    info = {"vision": False, "function_calling": True, "json_output": True, "family": "unknown", "structured_output": True}
    return OpenAIChatCompletionClient(model=llm.model, base_url=llm.base_url, api_key=llm.api_key, model_info=info, **options)


def clients_of(member):
    """The model clients of an agent, or of all agents of a team."""
    members = getattr(member, "_participants", None)
    return [member._model_client] if members is None else [client for inner in members for client in clients_of(inner)]


def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


class AutoGenConformance(FrameworkConformance):
    plugin = "agl_autogen.plugin"
    frameworks = ("autogen_agentchat", "autogen_core", "autogen_ext")
    entry_point = "autogen"
    records_spans = True
    retries = True
    patched_objects = ()

    def output_text(self, output):
        return output.messages[-1].content

    async def run_alone(self, agent, given):
        await agent.reset() if hasattr(agent, "reset") else await agent.on_reset(None)
        return await agent.run(task=given)

    def run_sync(self, agent, given):
        return asyncio.run(self._in_a_loop_of_its_own(given))

    async def _in_a_loop_of_its_own(self, given):
        """As blocking code must: agents keep their history in themselves, clients belong to a loop."""
        made = self.make_agent(LLM(endpoint="http://127.0.0.1:9/v1", model="users-model", api_key="users-key"))
        try:
            return await made.run(task=given)
        finally:
            for client in clients_of(made):
                await client.close()


class TestAssistantWithTools(AutoGenConformance):
    roles = ("helper", "helper")
    calls_tools = ("add", {"a": 1, "b": 2})
    has_prompts = ("helper.system_prompt", "helper.tools.add.description")

    def make_agent(self, llm):
        from autogen_agentchat.agents import AssistantAgent

        return AssistantAgent("helper", model_of(llm), tools=[add], reflect_on_tool_use=True, system_message="Help.")


class TestStreamingAssistant(AutoGenConformance):
    roles = ("helper",)
    streams = True

    def make_agent(self, llm):
        from autogen_agentchat.agents import AssistantAgent

        return AssistantAgent("helper", model_of(llm), model_client_stream=True)


class TestTeam(AutoGenConformance):
    roles = ("RoundRobinGroupChat/writer", "RoundRobinGroupChat/critic")
    has_prompts = ("RoundRobinGroupChat/writer.system_prompt",)

    def make_agent(self, llm):
        from autogen_agentchat.agents import AssistantAgent
        from autogen_agentchat.conditions import MaxMessageTermination
        from autogen_agentchat.teams import RoundRobinGroupChat

        members = [AssistantAgent(name, model_of(llm), system_message=f"You are the {name}.") for name in ("writer", "critic")]
        return RoundRobinGroupChat(members, termination_condition=MaxMessageTermination(3))


class TestTeamInsideATeam(AutoGenConformance):
    roles = ("outer/inner/writer", "outer/inner/critic", "outer/judge")

    def make_agent(self, llm):
        from autogen_agentchat.agents import AssistantAgent
        from autogen_agentchat.conditions import MaxMessageTermination
        from autogen_agentchat.teams import RoundRobinGroupChat

        writer, critic, judge = (AssistantAgent(name, model_of(llm)) for name in ("writer", "critic", "judge"))
        inner = RoundRobinGroupChat([writer, critic], name="inner", termination_condition=MaxMessageTermination(3))
        return RoundRobinGroupChat([inner, judge], name="outer", max_turns=2)
