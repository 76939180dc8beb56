"""AGL's kit, for each of the three ways in which a call can reach the attempt."""

from agl.testing import FrameworkConformance
from openai import DEFAULT_CONNECTION_LIMITS, DefaultAsyncHttpxClient
from pydantic_ai import Agent, RunContext
from pydantic_ai.capabilities import ProcessEventStream
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from team import run_blocking


class Case(FrameworkConformance):
    plugin = "agl_pydantic_ai.plugin"
    frameworks = ("pydantic_ai", "openai")
    entry_point = "pydantic_ai"
    retries = True
    records_spans = True

    def run_sync(self, agent, given):
        return run_blocking(agent, given)


def chat(llm):
    """A model that AGL's core routes. It keeps no connection: the client is the user's, and the kit has many event loops."""
    client = DefaultAsyncHttpxClient(limits=type(DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=0))
    return OpenAIChatModel(llm.model, provider=OpenAIProvider(base_url=llm.base_url, api_key=llm.api_key, http_client=client))


class TestOneAgent(Case):
    roles = ("solo",)
    has_prompts = ("solo.instructions",)

    def make_agent(self, llm):
        return Agent(chat(llm), name="solo", instructions="Answer.")


class TestDelegationAmongModelsThatTheCoreDoesNotSee(Case):
    roles = ("planner", "planner/writer", "planner")
    calls_tools = ("write", {"topic": "rain"})

    def make_agent(self, llm):
        provider = AnthropicProvider(base_url=llm.base_url.removesuffix("/v1"), api_key=llm.api_key)
        planner = Agent(AnthropicModel(llm.model, provider=provider), name="planner")
        writer = Agent(AnthropicModel(llm.model, provider=provider), name="writer")

        @planner.tool
        async def write(ctx: RunContext, topic: str) -> str:
            return (await writer.run(f"{topic}, for: {ctx.prompt}")).output

        return planner


class TestStreams(Case):
    roles = ("solo",)
    streams = True

    def make_agent(self, llm):
        async def listen(ctx, events):
            async for _ in events:
                pass

        return Agent(chat(llm), name="solo", capabilities=[ProcessEventStream(listen)])
