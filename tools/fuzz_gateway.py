"""Malformed requests to the gateway, in every dialect: each gets an answer or a clear refusal, none a 500, none loses its span.

    python tools/fuzz_gateway.py 10000 [SEED]

The upstream answers everything, so that whatever goes wrong is the gateway's. The last line is a JSON object.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from agl.context import ActiveAttempt
from agl.gateway.server import Gateway
from agl.resources import LLM, Resources
from agl.rollouts import AttemptStatus, Rollout, new_id
from agl.spans import SpanKind
from agl.store.base import RunRecord
from agl.store.sqlite import SQLiteStore
from agl.tasks import Task

PATHS = ("chat/completions", "completions", "responses", "messages")
OTHERS = (
    "messages/count_tokens",
    "responses/input_tokens",
    "conversations",
    "models",
    "rewards",
    "responses/resp_x",
    "conversations/x/items",
)
TOOL = {"type": "function", "name": "f", "parameters": {}, "input_schema": {}, "function": {"name": "f"}}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}
PARTS = [
    {"type": "text", "text": "x"},
    {"type": "input_text", "text": "x"},
    {"type": "output_text", "text": "x"},
    {"type": "refusal", "refusal": "x"},
    {"type": "input_image", "image_url": "http://x"},
    IMAGE,
    {"type": "thinking", "thinking": "x", "signature": ""},
    {"type": "tool_use", "id": "a", "name": "f", "input": {}},
    {"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]},
]
ITEMS = [
    {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "x"}]},
    {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "a", "output": "x"},
    {"type": "item_reference", "id": "r"},
]
FIELDS: dict[str, Any] = {
    "model": "m",
    "stream": True,
    "max_tokens": 9,
    "n": 1,
    "prompt": "x",
    "input": "x",
    "instructions": "x",
    "system": "x",
    "tools": [TOOL],
    "tool_choice": {"type": "function", "name": "f"},
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}},
    "reasoning": {"effort": "low"},
    "include": ["message.output_text.logprobs"],
    "metadata": {"user_id": "u"},
    "previous_response_id": "resp_x",
    "conversation": {"id": "conv_x"},
    "output_config": {"format": {"type": "json_schema", "schema": {}}},
    "stream_options": {"include_usage": True},
    "agl_overridden": {"a": 1},
    "value": 1.0,
    "items": ITEMS,
}

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=6))
junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=6
)


def spoiled(value: Any) -> st.SearchStrategy[Any]:
    """A value as it should be, with something else in one of its places, or junk."""
    if isinstance(value, dict):
        whole = st.fixed_dictionaries({}, optional={name: spoiled(inner) for name, inner in value.items()})
    elif isinstance(value, list):
        whole = st.lists(st.one_of([spoiled(inner) for inner in value]), max_size=3)
    else:
        whole = st.just(value)
    return st.one_of(st.just(value), whole, junk)


contents = st.one_of(st.text(max_size=6), st.lists(st.one_of([spoiled(part) for part in PARTS]), max_size=3), junk)
roles = st.sampled_from(["user", "assistant", "system", "developer", "tool", "king"])
said = st.fixed_dictionaries({"role": roles, "content": contents})
messages = st.lists(st.one_of(said, *(spoiled(item) for item in ITEMS)), max_size=4) | junk
bodies = st.builds(
    lambda fields, talk: fields | talk,
    st.fixed_dictionaries({}, optional={name: spoiled(value) for name, value in FIELDS.items()}),
    st.one_of(st.fixed_dictionaries({"messages": messages, "max_tokens": st.just(9)}), st.fixed_dictionaries({"input": messages})),
)
raws = st.one_of(
    bodies.map(lambda body: json.dumps(body).encode()),
    st.builds(lambda body, end: json.dumps(body).encode()[:end], bodies, st.integers(1, 60)),
    st.binary(max_size=40),
    st.integers(0, 5000).map(lambda depth: b'{"input":' + b"[" * depth + b"]" * depth + b"}"),
    st.just(rb'{"model": "\ud800", "input": "\udfff", "messages": [{"role": "user", "content": "\ud83d"}], "max_tokens": 9}'),
)
values = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f\x85"), max_size=24)
headers = st.fixed_dictionaries(
    {},
    optional={
        "x-agl-call": values,
        "x-agl-role": values,
        "x-agl-llm": st.one_of(values, st.just("native")),
        "traceparent": values,
        "Idempotency-Key": values,
        "x-stainless-retry-count": values,
        "Authorization": values,
        "x-api-key": st.one_of(values, values.map(lambda value: "agl-" + value)),
        "anthropic-version": values,
        "Content-Type": st.sampled_from(["application/json", "text/plain", "application/x-www-form-urlencoded", "nonsense"]),
    },
)
requests = st.tuples(st.sampled_from((*PATHS, *PATHS, *PATHS, *OTHERS)), raws, headers)


class Bench:
    """A gateway with one attempt, and what came of the requests to it."""

    def __init__(self, folder: Path) -> None:
        self.store = SQLiteStore(folder / "store.sqlite")
        self.gateway = Gateway(self.store)
        self.statuses: Counter[int] = Counter()
        self.calls = 0
        self.logged: list[str] = []

    async def open(self) -> None:
        """Start all of it."""
        record = RunRecord(run_id="run", created_at=0.0, status="running", step=0, seed=0, config={}, command=[], folder="", directory="")
        await self.store.create_run(record)
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{path:.*}", answer)
        self.upstream = web.AppRunner(app, access_log=None)
        await self.upstream.setup()
        await web.TCPSite(self.upstream, "127.0.0.1", 0).start()
        await self.gateway.start()
        await self.store.enqueue([Rollout(rollout_id=new_id("ro"), run_id="run", task=Task(task_id="t", data={}), group_id="g")])
        (rollout,) = await self.store.claim("run", "w")
        host, port = self.upstream.addresses[0][:2]
        llm = LLM(endpoint=f"http://{host}:{port}/v1", model="policy", version="1", seeded=True)
        native = LLM(endpoint=llm.endpoint, model="native", dialects=("responses", "messages"))
        self.attempt = ActiveAttempt(rollout, Resources(version=0, values={"main_llm": llm, "native": native}))
        self.url = self.gateway.open(self.attempt, {"main_llm": llm, "native": native})["main_llm"].endpoint
        self.session = aiohttp.ClientSession()

    async def send(self, path: str, raw: bytes, given: dict[str, str]) -> None:
        """One request, and what must be true of its answer.

        Raises:
            AssertionError: it is not.
        """
        headers = {name: value.encode("latin-1").decode("utf-8", "surrogateescape") for name, value in given.items()}
        async with self.session.post(f"{self.url}/{path}", data=raw, headers=headers) as response:
            body = await response.read()
        self.statuses[response.status] += 1
        assert response.status in (200, 400, 401, 404), (response.status, body)
        if response.status != 200:
            error = json.loads(body)["error"]
            assert error["message"], body
            assert path not in PATHS or ("code" in error) != path.startswith("messages"), body
        if path in PATHS and (response.status == 200 or is_object(raw, body)):
            self.calls += 1

    async def close(self) -> int:
        """Stop all of it; returns how many spans of calls there are."""
        await self.session.close()
        await self.gateway.close(self.attempt.attempt_id)
        await self.gateway.stop()
        await self.upstream.cleanup()
        await self.store.finish(self.attempt.attempt_id, AttemptStatus.SUCCEEDED)
        (result,) = await self.store.results([self.attempt.rollout.rollout_id])
        self.store.close()
        return sum(span.kind == SpanKind.LLM for span in result.spans)


def is_object(raw: bytes, body: bytes) -> bool:
    """Whether a refused request was read: its body is an object, and its key was the right one."""
    return (
        b"is not a JSON object" not in body
        and b"another attempt" not in body
        and b"nested too deeply" not in body
        and raw.strip()[:1] == b"{"
    )


async def answer(request: web.Request) -> web.StreamResponse:
    """Any request, as a model that always says the same."""
    try:
        streamed = json.loads(await request.read()).get("stream") is True
    except (ValueError, AttributeError, RecursionError):
        streamed = False
    if request.path.endswith(("/messages", "/responses")):
        return native_answer(request.path, streamed)
    function = {"name": "f", "arguments": "{not json"}
    message = {"role": "assistant", "content": "hi", "tool_calls": [{"index": 0, "id": "a", "type": "function", "function": function}]}
    about = {"id": "c", "model": "policy", "usage": {"prompt_tokens": 1, "completion_tokens": 2}, "count": 3}
    tokens = {"token_ids": [1, 2], "finish_reason": "stop", "text": "hi", "index": 0}
    if not streamed:
        return web.json_response(about | {"prompt_token_ids": [1], "choices": [tokens | {"message": message}]})
    chunk = json.dumps(about | {"prompt_token_ids": [1], "choices": [tokens | {"delta": message}]})
    return web.Response(text=f"data: {chunk}\n\ndata: [DONE]\n\n", content_type="text/event-stream")


def native_answer(path: str, streamed: bool) -> web.Response:
    """The same in the words of Messages and Responses."""
    usage = {"input_tokens": 1, "output_tokens": 2}
    if path.endswith("/responses"):
        call = {"type": "function_call", "id": "fc", "call_id": "a", "name": "f", "arguments": "{not json"}
        whole: dict[str, Any] = {"id": "resp_x", "status": "completed", "output": [call], "usage": usage}
        events: list[dict[str, Any]] = [{"type": "response.completed", "response": whole}]
    else:
        whole = {"id": "msg", "role": "assistant", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "usage": usage}
        events = [{"type": "message_start", "message": whole}, {"type": "message_stop"}]
    if not streamed:
        return web.json_response(whole)
    return web.Response(text="".join(f"data: {json.dumps(event)}\n\n" for event in events), content_type="text/event-stream")


def fuzz(count: int, chance: int) -> dict[str, Any]:
    """Send requests; returns what came of them.

    Args:
        count: how many.
        chance: the seed; one seed sends the same requests again.

    Raises:
        AssertionError: an answer, or the record, is not as it must be.
    """
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        bench = Bench(Path(folder))
        handler = logging.Handler(logging.ERROR)
        handler.emit = lambda record: bench.logged.append(record.getMessage() + str(record.exc_info))
        logging.getLogger("aiohttp.server").addHandler(handler)
        runner.run(bench.open())
        try:

            @seed(chance)
            @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
            @given(requests)
            def one(request: tuple[str, bytes, dict[str, str]]) -> None:
                runner.run(bench.send(*request))

            one()
        finally:
            logging.getLogger("aiohttp.server").removeHandler(handler)
            spans = runner.run(bench.close())
    assert not bench.logged, bench.logged[:3]
    assert spans == bench.calls, f"{bench.calls} calls, {spans} spans"
    return {
        "seed": chance,
        "requests": sum(bench.statuses.values()),
        "statuses": dict(sorted(bench.statuses.items())),
        "calls": bench.calls,
        "spans": spans,
    }


if __name__ == "__main__":
    given_count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    given_seed = int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbits(32)
    print(json.dumps(fuzz(given_count, given_seed)))
