"""Clients as they are, through the gateway to the native engine: every token that is recorded is the one that the engine sampled.

Those that are not in the environment are left out: `make test-node` has the ones of npm, `make test-vllm` has both of openai-python.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from programs import CALLS, COMMANDS, missing, misunderstood, version_of

import agl
from agl.spans import SpanKind
from agl.transitions import call_of
from agl_grpo.server import serve

FORCED = {"openai-2": 2, "openai-3": 2, "anthropic": 2}
"""Calls with a tool that the model is forced to call, which this engine cannot do."""
OLDER = Path(sys.prefix) / "openai-2"


@pytest.mark.parametrize("client", COMMANDS)
async def test_what_is_recorded_of_a_client_is_what_the_engine_sampled(engine, sampled, client, tmp_path, monkeypatch):
    if why := missing(client) or (client == "openai-2" and not OLDER.is_dir() and "openai-python 2 is not here"):
        pytest.skip(why)
    monkeypatch.chdir(tmp_path)
    async with serve(engine) as url:
        llm = agl.LLM(endpoint=url, model="policy", version="0", seeded=True)
        environment = {"SAID": str(tmp_path / "said"), "NO_FORCED_TOOLS": "1"} | (
            {"PYTHONPATH": str(OLDER)} if client == "openai-2" else {}
        )
        trainer = agl.Trainer(initial_resources={"main_llm": llm}, timeout=120, quiet=True)
        agent = agl.command(COMMANDS[client], env=environment)
        [result] = await asyncio.to_thread(trainer.dev, agent, [{"question": "?"}])
    errors = "".join(file.read_text() for file in tmp_path.glob("runs/*/attempts/*/stderr.txt"))
    assert result.reward == 1.0, (result.rollout.attempt.error, errors)
    calls = [call_of(span) for span in result.spans if span.kind == SpanKind.LLM]
    assert [call.http_status for call in calls] == [200] * (CALLS[client] - FORCED.get(client, 0))
    assert {call.streamed for call in calls} == {False, True}
    recorded = [(call.prompt_ids, choice.response_ids, choice.logprobs) for call in calls for choice in call.choices]
    assert [row[:2] for row in recorded] == [row[:2] for row in sampled]
    assert [row[2] for row in recorded] == [pytest.approx(row[2], abs=1e-6) for row in sampled]
    assert all(item.trainable for item in result.transitions)
    assert len(result.transitions) == len(sampled)
    said = (tmp_path / "said").read_text()
    assert misunderstood(client, said, calls) == []
    print(f"{client} {version_of(client, said)}: {len(calls)} calls, {sum(len(ids) for _, ids, _ in sampled)} sampled tokens, all equal")
