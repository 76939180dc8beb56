"""Bench: runs a case's agent the way AGL does: plugins, store, gateway and runners are the real ones, the model is scripted."""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

import agl.builtin.credit
import agl.builtin.functions
import agl.builtin.openai_sdk
from agl.agents import AgentSpec
from agl.context import ActiveAttempt, entered
from agl.errors import ConfigError, PluginError
from agl.gateway.server import Gateway
from agl.plugins import Plugins
from agl.resources import LLM, PromptTemplate, Resource, Resources
from agl.results import RolloutResult
from agl.rollouts import Attempt, Rollout, new_id
from agl.runner import BoundAgent, ThreadExecutor
from agl.spans import Span, SpanKind
from agl.store.base import RunRecord
from agl.store.sqlite import SQLiteStore
from agl.tasks import Task
from agl.testing.case import FrameworkCase
from agl.testing.expected import ConformanceError, require
from agl.testing.reply import Reply
from agl.testing.scripted import ScriptedServer
from agl.transitions import transitions_of

BUILT_IN = (agl.builtin.functions, agl.builtin.openai_sdk, agl.builtin.credit)
RUN = "run"
FIRST = LLM(endpoint="", model="policy", api_key="upstream-key", version="1")
"""The model under training; its endpoint is put in when the bench is up."""
USERS = LLM(endpoint="", model="users-model", api_key="users-key")
"""The model that the user's own code names."""


class Model:
    """The scripted model: it calls the case's tool once where it is offered, and answers with the task that it was asked about."""

    def __init__(self, case: FrameworkCase) -> None:
        self._tool = case.calls_tools
        self.said: list[tuple[dict[str, Any], Reply]] = []
        """Every request that was answered, with its answer."""
        self.delay = 0.0
        """Seconds before each answer."""
        self.first_delay = 0.0
        """Seconds more before the next one."""
        self.refuse: Callable[[dict[str, Any]], Reply | None] = lambda body: None
        """Gives the refusal of a request, or None."""

    def __call__(self, body: dict[str, Any]) -> Reply:
        refusal = self.refuse(body)
        if refusal is not None:
            return refusal
        text = f"the answer to {' and '.join(tasks_in(body)) or 'nothing'}"
        calls = [self._tool] if self._tool is not None and _offers(body, self._tool[0]) and not has_tool_result(body) else []
        reply = Reply(None if calls else text, calls, delay=self.delay + self.first_delay)
        self.first_delay = 0.0
        self.said.append((body, reply))
        return reply


def tasks_in(body: Any) -> list[str]:
    """The tasks that are named anywhere in a request, such as `task-7`."""
    return sorted(set(re.findall(r"\btask-\d+\b", msgspec.json.encode(body).decode())))


def _offers(body: Mapping[str, Any], tool: str) -> bool:
    return any(tool in (offered.get("name"), offered.get("function", {}).get("name")) for offered in body.get("tools") or ())


def has_tool_result(body: Mapping[str, Any]) -> bool:
    """Whether a request, of any dialect, tells the model what a tool gave."""
    items: list[Any] = [*(body.get("messages") or ()), *(body["input"] if isinstance(body.get("input"), list) else ())]
    blocks = [block for item in items if isinstance(item.get("content"), list) for block in item["content"]]
    kinds = {item.get("role") for item in items} | {part.get("type") for part in [*items, *blocks]}
    return bool(kinds & {"tool", "function_call_output", "tool_result"})


class Bench:
    """One run of a case, ready to take rollouts."""

    def __init__(self, case: FrameworkCase, store: SQLiteStore, gateway: Gateway, servers: Sequence[ScriptedServer], model: Model) -> None:
        self.case, self.model = case, model
        self.endpoint, self.users = servers
        self.plugins = plugins_of(case)
        self.store, self._gateway = store, gateway
        self.policy = msgspec.structs.replace(FIRST, endpoint=self.endpoint.base_url())
        self.agent: Any = case.make_agent(msgspec.structs.replace(USERS, endpoint=self.users.base_url()))

    async def one(self, agent: Any = None, **options: Any) -> RolloutResult:
        """One rollout of `task-1`, which must succeed."""
        (result,) = await self.run([1], agent, **options)
        return succeeded(result)

    async def run(
        self,
        tasks: Iterable[int],
        agent: Any = None,
        *,
        resources: Mapping[int, Mapping[str, Resource]] | None = None,
        timeout: float | None = 30.0,
    ) -> list[RolloutResult]:
        """Rollouts of the tasks with these numbers, all at the same time.

        Args:
            tasks: their numbers.
            agent: the case's own when None.
            resources: for each task the version that it runs under; the same for all when None.
            timeout: seconds one attempt may take.

        Returns:
            Results with their transitions, in the order of the tasks.

        Raises:
            ConformanceError: the plugin stopped the run.
        """
        versions = {0: await self._publish({"main_llm": self.policy, **self.prompts()})} if resources is None else {}
        for number in resources or {}:
            versions[number] = await self._publish((resources or {})[number])
        rollouts = [_rollout(number, versions.get(number, versions.get(0, 0)), timeout) for number in tasks]
        await self.store.enqueue(rollouts)
        ids = [rollout.rollout_id for rollout in rollouts]
        async with self._working(self._bound(self.agent if agent is None else agent), len(ids)) as work:
            while await self.store.wait_ended(ids, timeout=1.0) and not work.done():
                pass
            if work.done():
                work.result()
        return [self._with_transitions(result) for result in await self.store.results(ids)]

    def prompts(self, mark: str = "1") -> dict[str, Resource]:
        """The case's prompt resources, each with a text to be found again."""
        return {name: PromptTemplate(template=f"{name} of version-{mark}.") for name in self.case.has_prompts}

    @contextlib.contextmanager
    def attempt(self, number: int = 1) -> Generator[ActiveAttempt]:
        """An attempt whose calls go to the endpoint directly, open in this context."""
        rollout = _rollout(number, 1, None)
        started = Attempt(attempt_id=new_id("at"), rollout_id=rollout.rollout_id, number=1, worker_id="bench")
        rollout = msgspec.structs.replace(rollout, attempt=started)
        llm = msgspec.structs.replace(self.policy, endpoint=self.endpoint.base_url(f"/r/{rollout.rollout_id}/{started.attempt_id}"))
        attempt = ActiveAttempt(rollout, Resources(version=1, values={"main_llm": llm, **self.prompts()}))
        try:
            with entered(attempt), self.plugins.opened(attempt):
                yield attempt
        finally:
            attempt.close()

    async def call(self, number: int = 1, resources: Resources | None = None) -> Any:
        """Have the adapter run the agent on a task, in the context as it is."""
        adapter = self.plugins.adapt_agent(self.agent)
        given = resources or Resources(version=0, values={"main_llm": msgspec.structs.replace(USERS, endpoint=self.users.base_url())})
        return await adapter.run(self._input(adapter.returns_reward, number), given, _rollout(number, 0, None))

    async def alone(self, number: int = 1) -> Any:
        """Run the agent as its user does without AGL."""
        given = self.case.make_input(text_of(number))
        if self.case.defines("run_alone"):
            return await self.case.run_alone(self.agent, given)
        return await self.call(number)

    def _input(self, whole_task: bool, number: int) -> Any:
        return {"text": text_of(number)} if whole_task else self.case.make_input(text_of(number))

    def _given(self, task: dict[str, Any]) -> Any:
        return self.case.make_input(task["text"])

    def _bound(self, agent: Any) -> BoundAgent:
        spec = agent if isinstance(agent, AgentSpec) else AgentSpec(agent)
        if not self.plugins.adapt_agent(spec.agent).returns_reward:
            spec.input = spec.input or self._given
            spec.output, spec.reward = spec.output or self.case.output_text, spec.reward or _one
        return BoundAgent(spec, self.plugins)

    async def _publish(self, values: Mapping[str, Resource]) -> int:
        return (await self.store.publish(RUN, values)).version

    @contextlib.asynccontextmanager
    async def _working(self, agent: BoundAgent, n_runners: int) -> AsyncGenerator[asyncio.Task[None]]:
        given: dict[str, Any] = {"store": self.store, "gateway": self._gateway, "plugins": self.plugins}
        work = asyncio.ensure_future(ThreadExecutor(run_id=RUN, agent=agent, n_runners=n_runners, **given).run())
        try:
            yield work
        except PluginError as error:
            raise ConformanceError(f"the plugin stopped the run: {error}") from error
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    def _with_transitions(self, result: RolloutResult) -> RolloutResult:
        found = self.plugins.assign_credit(result, transitions_of(result.spans))
        return msgspec.structs.replace(result, transitions=tuple(found))


async def _one(task: Any, output: Any) -> float:
    return 1.0


def text_of(number: int) -> str:
    """What the agent is asked."""
    return f"Please solve task-{number}"


def succeeded(result: RolloutResult) -> RolloutResult:
    """The result, after a check that the attempt ended well."""
    attempt = result.rollout.attempt
    require(result.succeeded, f"the rollout of `{text_of_result(result)}` failed ({result.failure}): {attempt.error if attempt else ''}")
    return result


def text_of_result(result: RolloutResult) -> str:
    """What the agent was asked."""
    return str(result.task.data["text"])


def calls_of(result: RolloutResult) -> list[Span]:
    """The llm spans of a result."""
    return [span for span in result.spans if span.kind == SpanKind.LLM]


def plugins_of(case: FrameworkCase, *, built_in: bool = True) -> Plugins:
    """The case's plugin and the core's own, and no installed one.

    Raises:
        ConformanceError: the plugin does not fit.
    """
    plugin = case.plugin_object()
    own = [built for built in BUILT_IN if built is not plugin] if built_in else []
    try:
        return Plugins([plugin, *own], discover=False)
    except (ConfigError, PluginError) as error:
        raise ConformanceError(f"the plugin cannot be registered: {error}") from error


def _rollout(number: int, version: int, timeout: float | None) -> Rollout:
    task = Task(task_id=f"task-{number}", data={"text": text_of(number)})
    given: dict[str, Any] = {"resources_version": version, "timeout": timeout, "created_at": time.time()}
    return Rollout(rollout_id=new_id("ro"), run_id=RUN, task=task, group_id=f"g{number}", **given)


_empty: list[bytes] = []


async def _empty_store() -> bytes:
    """A store with one run in it, to copy: migrating anew for each check takes longer than the check."""
    if not _empty:
        with tempfile.TemporaryDirectory() as folder:
            store = SQLiteStore(Path(folder) / "store.sqlite")
            given: dict[str, Any] = {"config": {}, "command": [], "folder": "", "directory": ""}
            await store.create_run(RunRecord(run_id=RUN, created_at=0.0, status="running", step=0, seed=0, **given))
            store.close()
            _empty.append((Path(folder) / "store.sqlite").read_bytes())
    return _empty[0]


@contextlib.asynccontextmanager
async def opened(case: FrameworkCase) -> AsyncGenerator[Bench]:
    """A bench for one check."""
    model = Model(case)
    with tempfile.TemporaryDirectory() as folder, ScriptedServer(model) as endpoint, ScriptedServer(model) as users:
        path = Path(folder) / "store.sqlite"
        path.write_bytes(await _empty_store())
        store = SQLiteStore(path)
        gateway = Gateway(store)
        await gateway.start()
        try:
            yield Bench(case, store, gateway, (endpoint, users), model)
        finally:
            await gateway.stop()
            store.close()


async def with_bench(case: FrameworkCase, check: Callable[[Bench], Awaitable[None]]) -> None:
    """Run a check on a bench of its own."""
    async with opened(case) as bench:
        await cast(Any, check)(bench)
    await asyncio.sleep(0.01)  # the loop sees that the servers are gone, and lets go of connections to them
