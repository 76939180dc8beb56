"""What the tests of the core share: records made short, stores that open fast, gateways over a scripted endpoint."""

import asyncio
import itertools
import json
import shutil
import signal
import sys
import time

import pytest
from msgspec import to_builtins

from agl.context import ActiveAttempt
from agl.plugins import Plugins
from agl.resources import LLM, Resources
from agl.results import RolloutResult
from agl.rollouts import Attempt, AttemptStatus, Rollout, new_id
from agl.spans import Choice, LLMCall, Span, SpanKind, SpanStatus, new_span_id
from agl.store.base import RunRecord
from agl.store.sqlite import SQLiteStore
from agl.tasks import Mode, Task
from agl.transitions import call_of

RUN = "run"
# A shell's background job, as CI may be, ignores Ctrl-C and hands that on to the processes that tests send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
_numbers = itertools.count()
USER = [{"role": "user", "content": "hi"}]
KEY = "sk-upstream-secret-key"


@pytest.fixture(scope="session")
def _empty_store(tmp_path_factory):
    """A store with one run in it, to copy: migrating anew for each test takes longer than the test."""
    path = tmp_path_factory.mktemp("store") / "store.sqlite"
    store = SQLiteStore(path)
    record = RunRecord(run_id=RUN, created_at=0.0, status="running", step=0, seed=0, config={}, command=[], folder="", directory="")
    asyncio.run(store.create_run(record))
    store.close()
    return path


@pytest.fixture
def store_path(_empty_store, tmp_path):
    path = tmp_path / "s" / "store.sqlite"
    path.parent.mkdir()
    shutil.copy(_empty_store, path)
    return path


@pytest.fixture
def store(store_path):
    opened = SQLiteStore(store_path)
    yield opened
    opened.close()


@pytest.fixture
def make_rollout():
    def make(data=None, *, mode=Mode.TRAIN, **values):
        task = Task(task_id=f"t{next(_numbers)}", data={"q": "?"} if data is None else data, mode=mode)
        return Rollout(**{"rollout_id": new_id("ro"), "run_id": RUN, "task": task, "group_id": "g", "created_at": time.time(), **values})

    return make


@pytest.fixture
def make_span():
    def make(rollout=None, **values):
        attempt = rollout.attempt.attempt_id if rollout is not None else "at"
        known = {
            "span_id": new_span_id(),
            "trace_id": "0" * 32,
            "rollout_id": rollout.rollout_id if rollout else "ro",
            "attempt_id": attempt,
        }
        return Span(**{**known, "name": "s", "kind": SpanKind.OPERATION, "started_at": 1.0, "ended_at": 2.0, **values})

    return make


@pytest.fixture
def make_call(make_span):
    """An llm span: prompt ids, then the response ids of each choice; every call starts after the one before."""
    clock = itertools.count(1)

    def make(prompt, *responses, version="1", role=None, call_id=None, failed=False, logprobs=None, request=None, **values):
        choices = [
            Choice(
                response_ids=ids,
                logprobs=logprobs if logprobs is not None else None if ids is None else [-0.5] * len(ids),
                finish_reason="stop",
            )
            for ids in responses
        ]
        call = LLMCall(
            request=request or {}, response=None if failed else {}, choices=[] if failed else choices, prompt_ids=prompt, version=version
        )
        known = {
            "started_at": float(next(clock)),
            "role": role,
            "kind": SpanKind.LLM,
            "status": SpanStatus.ERROR if failed else SpanStatus.OK,
        }
        return make_span(**{**known, "attributes": {"agl.call": to_builtins(call), "agl.call_id": call_id}, **values})

    return make


@pytest.fixture
def make_attempt():
    """An active attempt that is in no store."""

    def make(resources=None, *, mode=Mode.TRAIN, seed=0, **values):
        number = next(_numbers)
        rollout_id = f"ro-{number}"
        attempt = Attempt(attempt_id=f"at-{number}", rollout_id=rollout_id, number=1, worker_id="w")
        task = Task(task_id="t", data={}, mode=mode)
        rollout = Rollout(rollout_id=rollout_id, run_id=RUN, task=task, group_id="g", attempt=attempt, seed=seed, **values)
        return ActiveAttempt(rollout, Resources(version=1, values=resources or {}))

    return make


@pytest.fixture
def make_result(make_attempt):
    def make(**values):
        return RolloutResult(rollout=make_attempt().rollout, **values)

    return make


@pytest.fixture
def plugins():
    return Plugins()


@pytest.fixture
def llm_of():
    def make(server, **values):
        return LLM(**{"endpoint": server.base_url(), "model": "policy", "version": "1", **values})

    return make


@pytest.fixture
def install_package(tmp_path, monkeypatch):
    """Installs a package that exists for one test: its name, its entry points, their group, and modules by name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(dist, entry_points, group="agl", *, requires=(), version="1.0", **modules):
        info = tmp_path / f"{dist.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\nProvides-Extra: instruments\n{needs}")
        (info / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in entry_points.items()))
        for name, code in modules.items():
            (tmp_path / f"{name}.py").write_text(code)
            monkeypatch.delitem(sys.modules, name, raising=False)

    return install


class Desk:
    """A gateway with one open attempt on it."""

    def __init__(self, store, gateway, attempt, llms):
        self.store, self.gateway, self.attempt, self.llms = store, gateway, attempt, llms
        self.llm = next(iter(llms.values()))

    def client(self, **options):
        from openai import AsyncOpenAI

        return AsyncOpenAI(**{"base_url": self.llm.base_url, "api_key": self.llm.api_key, "max_retries": 0, **options})

    async def ask(self, **body):
        async with self.client() as client:
            return await client.chat.completions.create(**{"model": "users-model", "messages": USER, **body})

    async def stream(self, **body):
        async with self.client() as client:
            answers = await client.chat.completions.create(model="users-model", messages=USER, stream=True, **body)
            return [chunk async for chunk in answers]

    async def post(self, path="/chat/completions", body=None, *, raw=None, headers=None, url=None):
        import aiohttp

        body = {"model": "m", "messages": USER} if body is None else body
        async with aiohttp.ClientSession() as session:
            sent = session.post((url or self.llm.base_url) + path, data=raw if raw is not None else json.dumps(body), headers=headers or {})
            async with sent as response:
                return response.status, json.loads(await response.read()), response.headers

    async def spans(self):
        """All spans so far, after the end of the attempt."""
        await self.gateway.close(self.attempt.attempt_id)
        await self.store.finish(self.attempt.attempt_id, AttemptStatus.SUCCEEDED)
        (result,) = await self.store.results([self.attempt.rollout.rollout_id])
        return result.spans

    async def calls(self):
        return [call_of(span) for span in await self.spans()]


@pytest.fixture
async def open_desk(store, make_rollout):
    """Opens attempts on one gateway: with the servers of their models, and with other fields of these."""
    from agl.gateway.server import Gateway

    gateway = Gateway(store)
    await gateway.start()

    async def open_(*servers, mode=Mode.TRAIN, seed=0, **values):
        await store.enqueue([make_rollout(mode=mode, seed=seed)])
        (rollout,) = await store.claim("run", "w")
        known = {"model": "policy", "version": "1", "api_key": KEY}
        llms = {f"llm{i}": LLM(**{"endpoint": server.base_url(), **known, **values}) for i, server in enumerate(servers)}
        attempt = ActiveAttempt(rollout, Resources(version=0, values=llms))
        return Desk(store, gateway, attempt, gateway.open(attempt, llms))

    yield open_
    await gateway.stop()


@pytest.fixture
def thinking(monkeypatch):
    """Makes the scripted server's chat completions tell a line of reasoning before their text."""
    from agl.testing.dialects.chat import Completions, Event

    answer, events = Completions.answer, Completions.events

    def whole(self, number, body, replies, version):
        told = answer(self, number, body, replies, version)
        for choice in told["choices"]:
            choice["message"]["reasoning_content"] = "let me think"
        return told

    def streamed(self, body, told):
        first, *rest = events(self, body, told)
        yield first
        for text in ("let me ", "think"):
            yield Event({"choices": [{"index": 0, "delta": {"reasoning_content": text}, "finish_reason": None}]})
        yield from rest

    monkeypatch.setattr(Completions, "answer", whole)
    monkeypatch.setattr(Completions, "events", streamed)
