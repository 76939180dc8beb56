"""Every dialect through the gateway to the native engine: what is recorded is what the engine sampled, token by token."""

from __future__ import annotations

import anthropic
import openai
import pytest

from agl.context import ActiveAttempt
from agl.gateway.server import Gateway
from agl.resources import LLM, Resources
from agl.rollouts import AttemptStatus, Rollout, new_id
from agl.spans import SpanKind
from agl.store.base import RunRecord
from agl.store.sqlite import SQLiteStore
from agl.tasks import Task
from agl.transitions import call_of, transitions_of
from agl_grpo.server import serve

USER = [{"role": "user", "content": "Hello"}]
LONGEST = 24


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = SQLiteStore(tmp_path_factory.mktemp("store") / "store.sqlite")
    yield made
    made.close()


async def chat(client, claude, stream):
    given = {"model": "m", "messages": USER, "max_tokens": LONGEST, "n": 2}
    answer = await client.chat.completions.create(**given, stream=stream)
    return [chunk async for chunk in answer] if stream else answer


async def completions(client, claude, stream):
    answer = await client.completions.create(model="m", prompt="Once", max_tokens=LONGEST, n=2, stream=stream)
    return [chunk async for chunk in answer] if stream else answer


async def responses(client, claude, stream):
    first = None
    for text in ("Hello", "And?"):
        answer = await client.responses.create(model="m", input=text, max_output_tokens=LONGEST, stream=stream, previous_response_id=first)
        first = ([event async for event in answer][-1].response if stream else answer).id


async def messages(client, claude, stream):
    given = {"model": "m", "messages": USER, "max_tokens": LONGEST, "system": "Be brief."}
    if not stream:
        return await claude.messages.create(**given)
    async with claude.messages.stream(**given) as events:
        return await events.get_final_message()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", [chat, completions, responses, messages])
async def test_every_sampled_token_is_recorded_as_the_engine_sampled_it(store, engine, sampled, dialect, stream) -> None:
    gateway, run = Gateway(store), new_id("run")
    await store.create_run(
        RunRecord(run_id=run, created_at=0.0, status="running", step=0, seed=0, config={}, command=[], folder="", directory="")
    )
    await store.enqueue([Rollout(rollout_id=new_id("ro"), run_id=run, task=Task(task_id="t", data={}), group_id="g")])
    (rollout,) = await store.claim(run, "w")
    await gateway.start()
    async with serve(engine) as url:
        llm = LLM(endpoint=url, model="policy", version="0", seeded=True)
        attempt = ActiveAttempt(rollout, Resources(version=0, values={"main_llm": llm}))
        own = gateway.open(attempt, {"main_llm": llm})["main_llm"]
        async with (
            openai.AsyncOpenAI(base_url=own.endpoint, api_key=own.api_key, max_retries=0) as client,
            anthropic.AsyncAnthropic(base_url=own.endpoint.removesuffix("/v1"), api_key=own.api_key, max_retries=0) as claude,
        ):
            await dialect(client, claude, stream)
        await gateway.close(attempt.attempt_id)
    await gateway.stop()
    await store.finish(attempt.attempt_id, AttemptStatus.SUCCEEDED)
    (result,) = await store.results([rollout.rollout_id])
    calls = [call_of(span) for span in result.spans if span.kind == SpanKind.LLM]
    recorded = [(call.prompt_ids, choice.response_ids, choice.logprobs) for call in calls for choice in call.choices]
    assert len(sampled) == 2 - (dialect is messages)
    assert [row[:2] for row in recorded] == [row[:2] for row in sampled]
    assert [row[2] for row in recorded] == [pytest.approx(row[2], abs=1e-6) for row in sampled]
    assert all(item.trainable for item in transitions_of(result.spans))
