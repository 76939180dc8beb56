"""A run with all that an export may meet: tools, retries, several answers, failures, roles, rewards of all kinds."""

import asyncio
import itertools

import msgspec
import pytest

from agl.resources import LLM
from agl.results import RolloutResult
from agl.rewards import Reward
from agl.rollouts import Attempt, AttemptStatus, Failure, Rollout, RolloutStatus
from agl.spans import Choice, LLMCall, Span, SpanKind, SpanStatus
from agl.store.base import RunRecord
from agl.store.sqlite import SQLiteStore
from agl.tasks import Mode, Task

TOOLS = [{"type": "function", "function": {"name": "query", "parameters": {"type": "object", "properties": {"sql": {"type": "string"}}}}}]
SYSTEM, USER = {"role": "system", "content": "You write SQL."}, {"role": "user", "content": "How many?"}
ASKS = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "query", "arguments": '{"sql":"select 1"}'}}],
}
TOOL = {"role": "tool", "tool_call_id": "c1", "content": "1"}


class RunMaker:
    """Makes the rollouts of a run, call by call."""

    def __init__(self, run_id="run-1"):
        self.run_id = run_id
        self.results = []
        self._numbers = itertools.count(1)

    def call(self, messages, *answers, prompt=(1, 2), failed=False, role=None, call_id=None, tools=TOOLS, **values):
        """A call: each answer is a message with its token ids, or a text."""
        number = next(self._numbers)
        answers = [answer if isinstance(answer, tuple) else (answer, [10 + number, 11]) for answer in answers]
        answers = [({"role": "assistant", "content": said} if isinstance(said, str) else said, ids) for said, ids in answers]
        choices = [Choice(response_ids=ids, logprobs=ids and [-0.1 / number] * len(ids), finish_reason="stop") for _, ids in answers]
        given = [{"index": index, "message": said, "finish_reason": "stop"} for index, (said, _) in enumerate(answers)]
        request = {"model": "policy", "temperature": 0.7, "messages": messages} | ({"tools": tools} if tools else {})
        known = {"prompt_ids": list(prompt), "version": "3", "response": None if failed else {"id": "x", "choices": given}}
        call = LLMCall(**{"request": request, "choices": choices, **known, **values})
        return Span(
            span_id=f"{number:016x}",
            trace_id="0" * 32,
            rollout_id="",
            attempt_id="",
            name="chat policy",
            kind=SpanKind.LLM,
            started_at=1000.0 + number,
            ended_at=1000.5 + number,
            role=role,
            status=SpanStatus.ERROR if failed else SpanStatus.OK,
            error="the endpoint answered 500" if failed else None,
            attributes={"agl.call_id": call_id, "agl.call": msgspec.to_builtins(call)},
        )

    def rollout(self, *spans, reward=None, rewards=(), group="g1", mode=Mode.TRAIN, failure=None, task=None, **values):
        number = next(self._numbers)
        rollout_id, attempt_id = f"ro-{number}", f"at-{number}"
        status = AttemptStatus.SUCCEEDED if failure is None else AttemptStatus.FAILED
        times = {"started_at": 1000.0, "heartbeat_at": 1001.0, "ended_at": 2000.0}
        attempt = Attempt(
            attempt_id=attempt_id,
            rollout_id=rollout_id,
            number=1,
            worker_id="w",
            status=status,
            failure=failure,
            output={"said": number},
            **times,
        )
        known = {
            "rollout_id": rollout_id,
            "run_id": self.run_id,
            "group_id": group,
            "task": Task(task_id=group, data={"question": group} if task is None else task, mode=mode),
            "status": RolloutStatus.SUCCEEDED if failure is None else RolloutStatus.FAILED,
            "attempt": attempt,
            "step": 2,
            "resources_version": 3,
            "ended_at": 2000.0,
        }
        spans = tuple(msgspec.structs.replace(span, rollout_id=rollout_id, attempt_id=attempt_id) for span in spans)
        final = () if reward is None else (Reward(value=reward, source="returned", created_at=5.0),)
        self.results.append(RolloutResult(rollout=Rollout(**{**known, **values}), spans=spans, rewards=(*rewards, *final)))
        return self.results[-1]

    def talk(self, answer, reward, *, group="g1", ids=(21, 22), **values):
        """A rollout of two calls: a tool, then the answer."""
        first = self.call([SYSTEM, USER], (ASKS, [3, 4]), prompt=[1, 2])
        second = self.call([SYSTEM, USER, ASKS, TOOL], (answer, list(ids)), prompt=[1, 2, 3, 4, 5])
        return self.rollout(first, second, reward=reward, group=group, **values)

    def write(self, path, **config):
        """The store with this run in it."""

        async def work():
            record = RunRecord(
                run_id=self.run_id,
                created_at=7.0,
                status="done",
                step=3,
                seed=5,
                config={"algorithm": "grpo", "api_key": "sk-secret", **config},
                command=[],
                folder="",
                directory=str(path.parent / "runs" / self.run_id),
            )
            await store.create_run(record)
            await store.publish(self.run_id, {"main_llm": LLM(endpoint="http://h/v1", model="policy")})
            await store.restore(self.results)

        store = SQLiteStore(path)
        try:
            asyncio.run(work())
        finally:
            store.close()
        return path


@pytest.fixture
def maker():
    return RunMaker()


@pytest.fixture
def whole_run(maker, tmp_path):
    """A store with a run that has everything."""
    maker.talk("one", 1.0)
    maker.talk("two", 0.0)
    lost = maker.call([USER], failed=True, call_id="a" * 16, version=None, http_status=500)
    again = maker.call([USER], "yes", "no", call_id="a" * 16, retry_of="a" * 16, role="team/writer")
    critic = maker.call([USER], ("fine", None), role="critic", prompt=[7], tools=None, overridden={"temperature": None})
    raw = maker.call([], "text", tools=None, dialect="completions", request={"model": "policy", "prompt": "Once"})
    judged = (
        Reward(value=0.25, name="format", source="judge", span_id=again.span_id, details={"why": "ok"}),
        Reward(value=0.5, source="judge", role="critic", created_at=4.0),
        Reward(value=0.75, name="style", source="judge", span_id="f" * 16),
    )
    maker.rollout(lost, again, critic, raw, rewards=judged, reward=0.5, group="g2")
    maker.rollout(maker.call([USER], "oh"), failure=Failure.INFRASTRUCTURE, group="g3")
    maker.rollout(group="g4", reward=0.0)
    combined = Reward(value=0.5, source="combined", created_at=6.0)
    maker.talk("three", 0.9, group="g5", mode=Mode.VAL, reward_weights={"reward": 1.0}, rewards=(combined,))
    return maker.write(tmp_path / "store.sqlite", roles={"critic": "freeze"})
