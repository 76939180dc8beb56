"""Clients as they are, through the gateway to a real vLLM: every token that is recorded is the one that vLLM sampled.

Each client is a program that AGL runs. What the gateway recorded of each of its calls is asked of vLLM again, directly, with the same
seed: prompt ids, sampled ids and log-probabilities have to be the same, and what the client said that it got is the record's text.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

import pytest
from programs import CALLS, COMMANDS, missing, misunderstood, version_of

import agl
from agl.spans import SpanKind
from agl.transitions import call_of


@pytest.fixture(scope="module")
def url(served, smollm):
    tools = ("--enable-auto-tool-choice", "--tool-call-parser=hermes")
    return served(smollm, "--served-model-name=policy", "--max-model-len=2048", "--logprobs-mode=processed_logprobs", *tools)


def answer_of(url, path, body):
    request = urllib.request.Request(f"{url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def again(url, call):
    """vLLM's own answer to a recorded call: (prompt ids, [(ids, log-probabilities) of each choice])."""
    text = call.dialect == "completions"
    body = {name: value for name, value in call.request.items() if name not in ("stream", "stream_options")}
    answer = answer_of(url, "completions" if text else "chat/completions", {**body, "return_token_ids": True})
    choices = answer["choices"]
    told = [one["logprobs"]["token_logprobs"] if text else [entry["logprob"] for entry in one["logprobs"]["content"]] for one in choices]
    prompt = choices[0]["prompt_token_ids"] if text else answer["prompt_token_ids"]
    return prompt, [(one["token_ids"], logprobs) for one, logprobs in zip(choices, told, strict=True)]


@pytest.mark.parametrize("client", COMMANDS)
def test_what_is_recorded_of_a_client_is_what_vllm_sampled(url, client, tmp_path, monkeypatch):
    if why := missing(client):
        pytest.skip(why)
    monkeypatch.chdir(tmp_path)
    llm = agl.LLM(endpoint=url, model="policy", version="0", seeded=True)
    beside = Path(sys.prefix) / client
    agent = agl.command(COMMANDS[client], env={"SAID": str(tmp_path / "said"), "PYTHONPATH": str(beside) if beside.is_dir() else ""})
    trainer = agl.Trainer(initial_resources={"main_llm": llm}, timeout=600, quiet=True)
    [result] = trainer.dev(agent, [{"question": "?"}])
    assert result.reward == 1.0, result.rollout.attempt.error
    calls = [call_of(span) for span in result.spans if span.kind == SpanKind.LLM]
    assert [call.http_status for call in calls] == [200] * CALLS[client]
    assert {call.streamed for call in calls} == {False, True}
    tokens = 0
    for call in calls:
        prompt, choices = again(url, call)
        assert call.prompt_ids == prompt
        assert [choice.response_ids for choice in call.choices] == [ids for ids, _ in choices]
        for choice, (ids, logprobs) in zip(call.choices, choices, strict=True):
            assert choice.logprobs == pytest.approx(logprobs, abs=1e-3)
            tokens += len(ids)
    assert all(item.trainable for item in result.transitions)
    assert len(result.transitions) == sum(len(call.choices) for call in calls)
    said = (tmp_path / "said").read_text()
    assert misunderstood(client, said, calls) == []
    print(f"{client} {version_of(client, said)}: {len(calls)} calls, {tokens} sampled tokens, all equal")
