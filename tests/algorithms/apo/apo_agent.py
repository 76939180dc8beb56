"""An agent whose model obeys its prompt, and what a critic has to find out: for the tests of this folder."""

import json
import re
import sqlite3
from contextlib import closing

import aiohttp

import agl

SEED_PROMPT = "Repeat the word: {word}"
CAPITALS, MARK = "Use capital letters.", "End with an exclamation mark."
REMEDIES = {"no capitals": CAPITALS, "no mark": MARK}
TRAIN = [{"id": f"t{n}", "word": f"apple{n}"} for n in range(16)]
VAL = [{"id": f"v{n}", "word": f"pear{n}"} for n in range(12)]
TEST = [{"id": f"x{n}", "word": f"plum{n}"} for n in range(10)]


def ledger(store):
    """The events in a store with one run, as another process reads them."""
    with closing(sqlite3.connect(store)) as connection:
        return [json.loads(body) for (body,) in connection.execute("SELECT body FROM journal ORDER BY number")]


def set_ledger(store, events):
    """Put others in their place, and let the run be one that failed."""
    with closing(sqlite3.connect(store)) as connection, connection:
        run_id = connection.execute("SELECT run_id FROM runs").fetchone()[0]
        connection.execute("DELETE FROM journal")
        connection.executemany(
            "INSERT INTO journal (run_id, body) VALUES (?, ?)", [(run_id, json.dumps(event).encode()) for event in events]
        )
        connection.execute("UPDATE runs SET status = 'failed'")


def obey(body):
    """The agent's model: it does what its prompt says, and nothing else."""
    text = " ".join(str(message["content"]) for message in body["messages"])
    word = re.findall(r"(?:apple|pear|plum)\d+", text)[-1]
    return (word.upper() if CAPITALS in text else word) + ("!" if MARK in text else "")


def judged(word, said):
    """Half a point for each rule; what is missing is told as feedback."""
    kept = {"no capitals": said.rstrip("!") == word.upper(), "no mark": said.endswith("!")}
    for what, fine in kept.items():
        if not fine:
            agl.emit_message(f"{what} in the answer")
    return sum(kept.values()) / 2


async def ask(llm, text):
    """One call without an SDK, whose clients take longer to make than all the rest of a rollout."""
    body = {"model": llm.model, "messages": [{"role": "user", "content": text}]}
    headers = {"Authorization": f"Bearer {llm.api_key}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.post(f"{llm.base_url}/chat/completions", json=body) as answer:
        answer.raise_for_status()
        return (await answer.json())["choices"][0]["message"]["content"]


@agl.rollout
async def repeat(task, llm, prompt_template):
    return judged(task["word"], await ask(llm, prompt_template.format(word=task["word"])))
