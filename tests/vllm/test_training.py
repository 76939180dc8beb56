"""Native GRPO with a real vLLM: two steps, each version of the weights in the server before the next rollouts are sampled."""

from __future__ import annotations

import asyncio
import json
import sys

import openai
import pytest

import agl
from agl.spans import SpanKind
from agl.store.opening import opened
from agl.transitions import call_of
from agl_grpo.vllm import VLLMEngine

TASKS = [{"question": text} for text in ("Name a city.", "Name a river.", "Name a fruit.")]
STEPS = {"steps": 2, "batch_size": 2, "group_size": 4, "max_tokens": 12, "threads": 1, "checkpoint_every": 2}


@agl.rollout
async def agent(task, llm):
    """The reward is something that differs between answers: how often a letter is in it."""
    async with openai.AsyncOpenAI(base_url=llm.base_url, api_key=llm.api_key, max_retries=0) as client:
        messages = [{"role": "user", "content": task["question"]}]
        answer = await client.chat.completions.create(model=llm.model, messages=messages)
    return answer.choices[0].message.content.count("e") / 10


def trained(model, engine, **options):
    """Metrics of the steps, and by step the versions that its calls were recorded with."""
    trainer = agl.Trainer(algorithm=agl.GRPO(model, engine=engine, **STEPS, **options), quiet=True, store="store.sqlite", timeout=300)
    run = trainer.fit(agent, TASKS, test_dataset=TASKS[:1])
    metrics = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    versions = {}
    with opened("store.sqlite") as store:
        for result in asyncio.run(store.results(asyncio.run(store.find(run.run_id)))):
            calls = [call_of(span) for span in result.spans if span.kind == SpanKind.LLM]
            assert [call.http_status for call in calls] == [200]
            versions.setdefault((str(result.rollout.mode), result.rollout.step), set()).update(call.version for call in calls)
    return metrics, versions


def check(metrics, versions):
    assert versions == {("test", 0): {"0"}, ("train", 0): {"0"}, ("train", 1): {"1"}, ("test", 2): {"2"}}
    assert [line["calls_trained"] for line in metrics] == [8, 8]
    assert all(line["steps"] == 1 and line["grad_norm"] > 0 for line in metrics)
    print([(line["mismatch_kl"], line["ratio_max"], line["reward"]) for line in metrics])
    # Of the first minibatch, before the weights change: server and learner are the same policy in each step, in the second one after a push.
    assert all(line["mismatch_kl"] < 1e-5 for line in metrics)
    assert all(abs(line["ratio_max"] - 1) < 0.01 for line in metrics)


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_adapters_are_pushed_into_a_server_that_runs(served, smollm):
    lora = ("--enable-lora", "--max-lora-rank=8", "--max-model-len=512", "--logprobs-mode=processed_logprobs")
    url = served(smollm, "--served-model-name=base", *lora)
    check(*trained(smollm, f"vllm={url}", lora={"rank": 8}, lr=0.01, temperature=0.9))


def test_whole_weights_are_pushed_into_a_server_that_grpo_starts(tmp_path):
    from tiny_vllm import save

    engine = VLLMEngine(sys.executable, arguments=["--enforce-eager", "--max-model-len=200"], max_batch=16, max_tokens=12)
    check(*trained(save(tmp_path / "tiny"), engine, lr=0.01, temperature=0.9))
    assert engine.endpoint == ""
