"""What AGL's plugin and OpenInference's instrumentor each add to one LLM call of an agent; run where the framework is installed.

    python benchmarks/overhead_of.py FRAMEWORK [ROUNDS]

One process, one agent with a tool, the same scripted answers, given below the SDK so that no network is timed. Each round runs
the agent bare, inside an attempt, the same by the plugin's adapter, and with the instrumentor, in an order that rotates. What an
arm adds is the median of its differences to the bare run of the same round. The last line is one JSON object.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false", "OPENAI_API_KEY": "the-users-own"}

import openai
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agl import context
from agl.builtin import openai_sdk
from agl.context import ActiveAttempt, ContextExecutor
from agl.resources import LLM, Resources
from agl.rollouts import Attempt, Rollout
from agl.tasks import Task

TOOL_CALLS = 4
"""Before the answer: one LLM call each, and one for the answer."""
ROUNDS, WARM_UP = 40, 3
ENDPOINT = "http://127.0.0.1:9/v1"
QUESTION = "How much are 1 + 1, 2 + 1, 3 + 1 and 4 + 1 together? Use the tool for every sum."


class Agent(NamedTuple):
    """An agent of a framework."""

    subject: Any
    """What the plugin's adapter takes."""
    task: Any
    """What the adapter gives it."""
    run: Callable[[], Awaitable[Any]]
    """How a user runs it."""


def langgraph() -> Agent:
    from langchain.agents import create_agent
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    agent = create_agent(ChatOpenAI(model="m", base_url=ENDPOINT), [tool(add)], system_prompt="You add.", name="solver")
    task = {"messages": [("user", QUESTION)]}
    return Agent(agent, task, lambda: agent.ainvoke(task))


def crewai() -> Agent:
    import crewai
    from crewai.tools import tool

    llm = crewai.LLM(model="openai/m", base_url=ENDPOINT)
    agent = crewai.Agent(role="solver", goal="Add.", backstory="You add.", llm=llm, tools=[tool("add")(add)], cache=False)
    work = crewai.Task(name="solve", description=QUESTION, expected_output="A number", agent=agent)
    crew = crewai.Crew(agents=[agent], tasks=[work], cache=False)
    return Agent(crew, {}, lambda: asyncio.to_thread(crew.kickoff))


def autogen() -> Agent:
    from autogen_agentchat.agents import AssistantAgent
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    info: Any = {"vision": False, "function_calling": True, "json_output": True, "family": "unknown", "structured_output": True}
    client = OpenAIChatCompletionClient(model="m", base_url=ENDPOINT, model_info=info)
    agent = AssistantAgent("solver", client, tools=[add], system_message="You add.", max_tool_iterations=TOOL_CALLS + 1)

    async def run() -> Any:
        result = await agent.run(task=QUESTION)
        await agent.on_reset(None)  # type: ignore[arg-type]
        return result

    return Agent(agent, QUESTION, run)


def openai_agents() -> Agent:
    import agents

    agents.set_trace_processors([])  # nothing is sent to OpenAI
    agent = agents.Agent(name="solver", instructions="You add.", model="m", tools=[agents.function_tool(add)])
    agents.set_default_openai_client(openai.AsyncOpenAI(base_url=ENDPOINT))
    agents.set_default_openai_api("chat_completions")
    return Agent(agent, QUESTION, lambda: agents.Runner.run(agent, QUESTION))


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


PACKAGES = {
    "langgraph": ("langgraph", "langchain-core", "openinference-instrumentation-langchain"),
    "crewai": ("crewai", "openinference-instrumentation-crewai"),
    "autogen": ("autogen-agentchat", "openinference-instrumentation-autogen-agentchat"),
    "openai_agents": ("openai-agents", "openinference-instrumentation-openai-agents"),
}
INSTRUMENTORS = {
    "langgraph": ("langchain", "LangChainInstrumentor"),
    "crewai": ("crewai", "CrewAIInstrumentor"),
    "autogen": ("autogen_agentchat", "AutogenAgentChatInstrumentor"),
    "openai_agents": ("openai_agents", "OpenAIAgentsInstrumentor"),
}
AGENTS = {"langgraph": langgraph, "crewai": crewai, "autogen": autogen, "openai_agents": openai_agents}


class Answers:
    """The scripted endpoint, in place of the transport of the SDK's HTTP library."""

    def __init__(self) -> None:
        self.count = 0
        library = next(cls.__module__ for cls in openai.DefaultHttpxClient.__mro__ if cls.__module__ in ("httpx", "httpx2"))
        http = importlib.import_module(library)

        def answer(transport: Any, request: Any) -> Any:
            self.count += 1
            return http.Response(200, json=_answer(json.loads(request.read()), self.count))

        async def aanswer(transport: Any, request: Any) -> Any:
            self.count += 1
            return http.Response(200, json=_answer(json.loads(await request.aread()), self.count))

        http.HTTPTransport.handle_request, http.AsyncHTTPTransport.handle_async_request = answer, aanswer


def _answer(body: dict[str, Any], number: int) -> dict[str, Any]:
    used = sum(message["role"] == "tool" for message in body["messages"])
    call = {"id": f"call_{number}", "type": "function", "function": {"name": "add", "arguments": json.dumps({"a": used + 1, "b": 1})}}
    asks = {"role": "assistant", "content": None, "tool_calls": [call]}
    message = asks if used < TOOL_CALLS else {"role": "assistant", "content": "The sums are 2, 3, 4 and 5: 14 together."}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if used < TOOL_CALLS else "stop"}
    usage = {"prompt_tokens": 100 + 20 * used, "completion_tokens": 20, "total_tokens": 120 + 20 * used}
    about = {"id": f"chatcmpl-{number}", "object": "chat.completion", "created": 1, "model": "m"}
    return about | {"choices": [choice], "usage": usage}


class Took(NamedTuple):
    """Seconds of one run."""

    wall: float
    cpu: float
    """Of all threads of this process: what other work on the machine changes little."""


class Bench:
    """One agent, and the ways to run it."""

    def __init__(self, framework: str) -> None:
        self.agent = AGENTS[framework]()
        self.plugin = importlib.import_module(f"agl_{framework}.plugin")
        self.adapter = self.plugin.agl_adapt_agent(self.agent.subject)
        module, name = INSTRUMENTORS[framework]
        self.instrumentor = getattr(importlib.import_module(f"openinference.instrumentation.{module}"), name)()
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.spans: dict[str, int] = {}
        """How many the last run of a way has recorded."""

    async def bare(self) -> Took:
        """The agent by itself."""
        return await timed(self.agent.run)

    async def agl(self) -> Took:
        """Inside an attempt, whose beginning and end are timed, too."""
        return await self._inside("agl", lambda attempt: self.agent.run())

    async def agl_adapter(self) -> Took:
        """The same by the plugin's adapter: on a copy where the framework keeps its state in the user's objects."""
        return await self._inside("agl_adapter", lambda attempt: self.adapter.run(self.agent.task, attempt.resources, attempt.rollout))

    async def openinference(self) -> Took:
        """With OpenInference's instrumentor, whose spans go to memory at once."""
        self.exporter.clear()
        self.instrumentor.instrument(tracer_provider=self.provider, skip_dep_check=True)
        try:
            return await timed(self.agent.run)
        finally:
            self.instrumentor.uninstrument()
            self.spans["openinference"] = len(self.exporter.get_finished_spans())

    async def _inside(self, way: str, run: Callable[[ActiveAttempt], Awaitable[Any]]) -> Took:
        with self._attempt():  # the first one puts the patches in place
            pass
        recorded: list[Any] = []

        async def attempted() -> None:
            with self._attempt() as attempt:
                await run(attempt)
            recorded.extend(attempt.close()[0])

        try:
            return await timed(attempted)
        finally:
            self.plugin.uninstall()
            openai_sdk.uninstall()
            self.spans[way] = len(recorded)

    @contextlib.contextmanager
    def _attempt(self) -> Iterator[ActiveAttempt]:
        started = Attempt(attempt_id="a", rollout_id="r", number=1, worker_id="w")
        rollout = Rollout(rollout_id="r", run_id="run", task=Task(task_id="t", data={}), group_id="g", attempt=started)
        llm = LLM(endpoint="http://127.0.0.1:9/r/r/a/v1", model="m", api_key="k")
        attempt = ActiveAttempt(rollout, Resources(version=1, values={"main_llm": llm}))
        with context.entered(attempt), self.plugin.agl_trace_rollout(attempt):
            openai_sdk.agl_inject_resources(attempt)
            yield attempt


async def timed(run: Callable[[], Awaitable[Any]]) -> Took:
    """What one run takes."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    await run()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


async def measure(framework: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of one LLM call with each way to run the agent, and what they were measured with."""
    asyncio.get_running_loop().set_default_executor(ContextExecutor())
    answers, bench = Answers(), Bench(framework)
    ways = [bench.bare, bench.agl, bench.agl_adapter, bench.openinference]
    took: dict[str, list[Took]] = {way.__name__: [] for way in ways}
    for number in range(WARM_UP + rounds):
        if number == WARM_UP:
            gc.freeze()  # what is there by now is looked through no more
        for turn in range(len(ways)):
            way = ways[(number + turn) % len(ways)]
            before = answers.count
            seconds = await way()
            assert answers.count - before == TOOL_CALLS + 1, f"{way.__name__} made {answers.count - before} calls"
            if number >= WARM_UP:
                took[way.__name__].append(seconds)
    return {
        **{f"{clock}_ms": _per_call(took, clock) for clock in Took._fields},
        "fastest_cpu_ms": _fastest(took),
        "spans": bench.spans,
        "rounds": rounds,
        "versions": {name: version(name) for name in (*PACKAGES[framework], "openai")},
    }


def _per_call(took: dict[str, list[Took]], clock: str) -> dict[str, float]:
    """Milliseconds per LLM call: of the bare run, and what each other way adds to that of its round; medians."""
    each = {way: [getattr(seconds, clock) * 1e3 / (TOOL_CALLS + 1) for seconds in times] for way, times in took.items()}
    bare = each.pop("bare")
    added = {way: [with_it - without for with_it, without in zip(times, bare, strict=True)] for way, times in each.items()}
    return {"bare": statistics.median(bare), **{way: statistics.median(times) for way, times in added.items()}}


def _fastest(took: dict[str, list[Took]]) -> dict[str, float]:
    """The same of the fastest tenth of each way's runs, by processor time: nearer to what a machine without other work would show."""
    each = {way: statistics.quantiles([run.cpu * 1e3 / (TOOL_CALLS + 1) for run in runs], n=10)[0] for way, runs in took.items()}
    bare = each.pop("bare")
    return {"bare": bare, **{way: fastest - bare for way, fastest in each.items()}}


if __name__ == "__main__":
    given = sys.argv[1:]
    print(json.dumps(asyncio.run(measure(given[0], int(given[1]) if len(given) > 1 else ROUNDS))), flush=True)
