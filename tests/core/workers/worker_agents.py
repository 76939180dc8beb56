"""Agents that workers import."""

import ctypes
import json
import os
import subprocess
import threading
import time
import urllib.request

import agl


def _ask(llm, text):
    body = {"model": llm.model, "messages": [{"role": "user", "content": text}]}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {llm.api_key}"}
    request = urllib.request.Request(f"{llm.endpoint}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


@agl.rollout
def by_plain_http(task, llm):
    """Two calls that only the gateway sees, with a reward after each."""
    agl.emit_reward(0.25, name="before")
    for n in range(2):
        with agl.operation(f"piece {n}", odd=object):
            agl.emit_object({"said": _ask(llm, f"{task['n']}-{n}")})
        agl.emit_reward(float(n), name="piece")
    return float(task["n"])


@agl.rollout
def by_the_sdk(task, llm):
    """Two calls through the SDK in a role."""
    import openai

    client = openai.OpenAI(api_key="x", max_retries=1)
    with agl.role("writer"):
        for n in range(2):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": f"{task['n']}-{n}"}])
            agl.emit_reward(float(n), name="piece")
    client.close()
    return float(task["n"])


@agl.rollout
def dies(task):
    """What a library in C can do."""
    if task["how"] == "exit":
        os._exit(7)
    if task["how"] == "crash":
        ctypes.string_at(0)
    return float(os.getpid())


@agl.rollout
def spins(task):
    """Needs the processor for ever, beside a child that sleeps."""
    if task["spin"]:
        child = subprocess.Popen(["sleep", "120"])
        agl.emit_object(child.pid)
        while True:
            pass
    return 1.0


@agl.rollout
async def spins_on_the_loop(task):
    """Holds up the loop of its process."""
    while task["spin"]:
        time.sleep(0.01)
    return 1.0


@agl.rollout
def own_endpoint_fails(task):
    """Says what a plugin says when an endpoint past the gateway is down."""
    agl.current().infrastructure_error = "the agent's own endpoint failed: it answered 500"
    if task["again"]:
        agl.current().infrastructure_error = None
    return 1.0


class Held(agl.LitAgent):
    """An agent that cannot be pickled; its reward is the process that it was made in."""

    def __init__(self):
        super().__init__()
        self.made_in, self.lock = os.getpid(), threading.Lock()

    def rollout(self, task, resources, rollout):
        return float(self.made_in)


held = Held()


class Marks:
    """A plugin that acts inside the attempt."""

    name = "marks"

    def __init__(self, text):
        self.text = text

    @agl.hookimpl
    def agl_trace_rollout(self, attempt):
        attempt.add_span(attempt.make_span(span_id="00000000000000ff", name=self.text, kind="operation", started_at=1.0))


class Broken:
    """A plugin that fails there."""

    name = "broken"

    @agl.hookimpl
    def agl_trace_rollout(self, attempt):
        raise KeyError("in the worker")
