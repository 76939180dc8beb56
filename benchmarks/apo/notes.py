"""Notes: a task that a small real model does well or badly by its prompt; the agent, its reward, and what a scripted critic knows.

A note says who wants how many of what, and when. The answer is to be a JSON object with three values under names that the prompt has to tell.
"""

from __future__ import annotations

import json
import random
import re
from typing import Any

import aiohttp

import agl

SEED_PROMPT = "Note: {note}\nWhat is ordered? Answer in JSON."
REMEDIES = {
    "no right name|no right count": 'Use the keys "name" and "count".',
    "no right day": 'Use the key "day" for the day.',
    "does not begin with a brace": "Begin with a brace.",
}
"""What a prompt has to say, by what the feedback of a bad answer says."""
GUESSES = ("Take care.", "Be polite.", "Think step by step.", "Explain your answer.", "Use simple words.", "Answer in full sentences.")
"""Advice that has nothing to do with the task."""
NAMES = ("Anna", "Tom", "Maria", "Peter", "Lucy", "Omar", "Nina", "Karl", "Eva", "Hugo")
THINGS = ("chairs", "lamps", "tables", "books", "cups", "pens", "boxes", "plates", "shirts", "apples")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FORMS = (
    "{name} wants {count} {thing} on {day}.",
    "Please send {count} {thing} to {name} on {day}.",
    "On {day}, {name} needs {count} {thing}.",
)
WANTED = ("name", "count", "day")
_OBJECT = re.compile(r"\{[^{}]*\}")


def make_tasks(seed: int, **sizes: int) -> dict[str, list[dict[str, Any]]]:
    """Tasks by split, no note twice."""
    chance, seen, tasks = random.Random(f"notes {seed}"), set[str](), dict[str, list[dict[str, Any]]]()
    for split, size in sizes.items():
        tasks[split] = []
        while len(tasks[split]) < size:
            values = {"name": chance.choice(NAMES), "count": chance.randint(2, 9), "day": chance.choice(DAYS)}
            note = chance.choice(FORMS).format(thing=chance.choice(THINGS), **values)
            if note not in seen:
                seen.add(note)
                tasks[split].append({"id": f"{split}{len(tasks[split])}", "note": note, **values})
    return tasks


def judge(task: dict[str, Any], said: str) -> tuple[float, list[str]]:
    """A quarter for an answer that begins as JSON does and for each right value in its first object; and what is wrong."""
    found = _OBJECT.search(said)
    try:
        values = json.loads(found.group()) if found else {}
    except ValueError:
        values = {}
    kept = {"the answer does not begin with a brace": said.lstrip().startswith("{")}
    kept |= {f"no right {name} in the answer": str(values.get(name)).lower() == str(task[name]).lower() for name in WANTED}
    return sum(kept.values()) / len(kept), [what for what, fine in kept.items() if not fine]


class Shuffle:
    """Gives each rollout the reward of an earlier one, drawn by chance: the rewards' distribution stays, what they say of a prompt goes."""

    def __init__(self, seed: int) -> None:
        self._chance, self._seen = random.Random(f"shuffle {seed}"), list[float]()

    def __call__(self, reward: float) -> float:
        given = self._chance.choice(self._seen) if self._seen else reward
        self._seen.append(reward)
        return given


def make_agent(shuffle: Shuffle | None = None) -> Any:
    """The agent: one call, judged. With `shuffle` the search sees other rewards than the test set does."""

    @agl.rollout
    async def read_note(task: dict[str, Any], llm: agl.LLM, prompt_template: agl.PromptTemplate) -> float:
        body = {"model": llm.model, "messages": [{"role": "user", "content": prompt_template.format(note=task["note"])}]}
        headers = {"Authorization": f"Bearer {llm.api_key}"}
        async with aiohttp.ClientSession(headers=headers) as session, session.post(f"{llm.base_url}/chat/completions", json=body) as answer:
            answer.raise_for_status()
            said = (await answer.json())["choices"][0]["message"]["content"] or ""
        reward, wrong = judge(task, said)
        for what in wrong:
            agl.emit_message(what)
        return reward if shuffle is None or task["id"].startswith("test") else shuffle(reward)

    return read_note
