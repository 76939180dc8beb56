"""Clients as they are, through the gateway to a real vLLM: every token that is recorded is the one that vLLM sampled.

Each client is a program that AGL runs. What the gateway recorded of each of its calls is asked of vLLM again, directly, with the same
seed: prompt ids, sampled ids and log-probabilities have to be the same, and what the client said that it got is the record's text.
"""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request
from pathlib import Path

import pytest

import agl
from agl.spans import SpanKind
from agl.transitions import call_of

CLIENTS = Path(__file__).parent / "clients"
PYTHON = {
    "openai-2": "openai_client.py",
    "openai-3": "openai_client.py",
    "anthropic": "anthropic_client.py",
    "langchain": "langchain_client.py",
}
COMMANDS = {name: [sys.executable, str(CLIENTS / file)] for name, file in PYTHON.items()} | {
    "node": ["node", str(CLIENTS / "openai_client.mjs")],
    "curl": ["bash", str(CLIENTS / "curl_client.sh")],
}
CALLS = {"openai-2": 12, "openai-3": 12, "anthropic": 6, "langchain": 4, "node": 6, "curl": 8}


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


def texts_of(call):
    """What a client sees of a recorded call: the text of each choice, or the arguments of its tools; of Messages each block."""
    parts = []
    for message in (choice["message"] for choice in call.response["choices"]):
        arguments = [one["function"]["arguments"] for one in message.get("tool_calls", [])]
        blocks = [text for text in (message["content"], *arguments) if text]
        parts += blocks if call.dialect == "messages" else [message["content"] or "".join(arguments)]
    return parts


def same(seen, call):
    """Whether a client saw what is recorded. Arguments of a tool are compared as objects; of those that were cut off, each SDK makes its own."""
    recorded = texts_of(call)
    if any("tool_calls" in choice["message"] for choice in call.response["choices"]):
        try:
            return list(map(as_json, seen)) == list(map(as_json, recorded))
        except ValueError:
            return call.choices[0].finish_reason == "length"
    return seen == recorded


def as_json(text):
    """An object or a list as one; other texts as they are.

    Raises:
        ValueError: one that was cut off.
    """
    return json.loads(text) if text.startswith(("{", "[")) else text


@pytest.mark.parametrize("client", COMMANDS)
def test_what_is_recorded_of_a_client_is_what_vllm_sampled(url, client, tmp_path, monkeypatch):
    if shutil.which(COMMANDS[client][0]) is None:
        pytest.skip(f"there is no {COMMANDS[client][0]}")
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
    if client == "curl":
        whole = [(line, call) for line, call in zip(said.split("\n"), calls, strict=False) if not call.streamed]
        assert all(json.dumps(text, ensure_ascii=False)[1:-1] in line for line, call in whole for text in texts_of(call))
        version = "itself"
    else:
        told = json.loads(said)
        assert [(seen, texts_of(call)) for seen, call in zip(told["said"], calls, strict=True) if not same(seen, call)] == []
        version = told["version"]
        assert client.partition("-")[2] in ("", version.partition(".")[0])
    print(f"{client} {version}: {len(calls)} calls, {tokens} sampled tokens, all equal")
