"""A search for prompts that is killed, and goes on: the ledger is the one of a search that was not."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress

import pytest

from agl.testing import ScriptedServer
from agl_apo.testing import scripted

SCRIPT = """
import os, sys
import aiohttp
import agl

@agl.rollout
async def repeat(task, llm, prompt_template):
    body = {"model": llm.model, "messages": [{"role": "user", "content": prompt_template.format(word=task["word"])}]}
    headers = {"Authorization": f"Bearer {llm.api_key}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.post(f"{llm.base_url}/chat/completions", json=body) as answer:
        said = (await answer.json())["choices"][0]["message"]["content"]
    if not said.endswith("!"):
        agl.emit_message("no mark in the answer")
    return float(said.endswith("!"))

apo = agl.ALGORITHM(endpoint=os.environ["CRITIC"], model="critic", OPTIONS)
resources = {"main_llm": agl.LLM(endpoint=os.environ["MODEL"], model="m"), "prompt_template": agl.PromptTemplate(template="Repeat: {word}")}
trainer = agl.Trainer(algorithm=apo, initial_resources=resources, n_runners=4, store=sys.argv[1] + "/store.sqlite", quiet=True)
train, val = ([{"id": f"{split}{n}", "word": f"{split}{n}"} for n in range(8)] for split in "tv")
print(trainer.fit(repeat, train, val, resume=len(sys.argv) > 2 or None).summary())
"""
CASES = {
    "APO": ("APO", "max_rollouts=60, probe_tasks=4, screen_tasks=3"),
    "APO, three parents at a time": ("APO", "max_rollouts=100, concurrency=3, deterministic=True, probe_tasks=4, screen_tasks=3"),
    "GEPA": ("GEPA", "max_rollouts=60, reserve=0.4"),
}


@pytest.fixture
def servers():
    def obey(body):
        text = body["messages"][0]["content"]
        time.sleep(0.01)  # so that a kill comes in the middle
        return re.findall(r"[tv]\d", text)[-1] + ("!" if "mark" in text else "")

    with ScriptedServer(obey) as model, ScriptedServer(scripted({"no mark": "End with an exclamation mark."})) as critic:
        yield {"MODEL": model.base_url(), "CRITIC": critic.base_url()}


def start(folder, servers, case, *resume):
    folder.mkdir(exist_ok=True)
    algorithm, options = CASES[case]
    script = SCRIPT.replace("ALGORITHM", algorithm).replace("OPTIONS", options)
    environment = {**os.environ, **servers}
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder), *resume],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    out, error = process.communicate(timeout=150)
    assert process.returncode == 0, out + error
    return out


def asked(folder, query):
    with closing(sqlite3.connect(folder / "store.sqlite")) as connection:
        return connection.execute(query).fetchall()


def events(folder):
    """The events, those of each move together, without what differs by nature: times and the ids of rollouts."""
    found = [json.loads(body) for (body,) in asked(folder, "SELECT body FROM journal ORDER BY number")]
    for event in found:
        event.pop("at", None)
        (event.get("draw") or {}).pop("rollout_id", None)
    return sorted(found, key=lambda event: (event.get("move", -1), event["event"] != "draw", event.get("place")))


def killed_at(process, folder, number):
    """Kill the process when the ledger has so many events."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(sqlite3.OperationalError):  # there is no table yet
            if asked(folder, "SELECT count(*) FROM journal") >= [(number,)]:
                break
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("case", CASES)
def test_a_search_killed_twice_and_resumed_has_the_ledger_of_one_that_was_not(tmp_path, servers, case):
    if case == "GEPA":
        pytest.importorskip("gepa")
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    said = ended(start(straight, servers, case))
    killed_at(start(killed, servers, case), killed, 14)
    killed_at(start(killed, servers, case, "resume"), killed, 40)
    again = ended(start(killed, servers, case, "resume"))
    assert events(killed) == events(straight)
    assert again.splitlines()[0] == said.splitlines()[0]
    assert "better prompts for ['prompt_template']" in said
