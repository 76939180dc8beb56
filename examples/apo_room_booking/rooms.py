"""Meeting rooms: a booking is right when it is the smallest free room that is large enough and has what was asked for."""

from __future__ import annotations

import json
import random
from typing import Any

import openai

import agl

ROOMS = [
    {"name": "Birch", "seats": 12, "has": ["projector", "phone"]},
    {"name": "Alder", "seats": 4, "has": []},
    {"name": "Cedar", "seats": 8, "has": ["projector"]},
    {"name": "Rowan", "seats": 6, "has": ["phone"]},
    {"name": "Maple", "seats": 20, "has": ["projector", "phone", "stage"]},
]
SEED_PROMPT = "You book meeting rooms. The rooms are: {rooms}\nA colleague writes: {request}\nWhich room do you book?"


def make_tasks(split: str, n: int) -> list[dict[str, Any]]:
    """Requests with the room that the policy gives, the same for the same split and number."""
    chance, tasks = random.Random(split), list[dict[str, Any]]()
    for number in range(n):
        busy = chance.choice([room["name"] for room in ROOMS[:4]])
        wants = chance.choice([[], ["projector"], ["phone"]])
        people = chance.randint(2, 12)
        asked = f" with a {wants[0]}" if wants else ""
        request = f"A room for {people} people{asked}, please. {busy} is taken."
        able = [room for room in ROOMS if room["name"] != busy and room["seats"] >= people and set(wants) <= set(room["has"])]
        room = min(able, key=lambda each: each["seats"])["name"]
        tasks.append({"id": f"{split}{number}", "request": request, "busy": busy, "people": people, "wants": wants, "room": room})
    return tasks


def judge(task: dict[str, Any], said: str) -> tuple[float, list[str]]:
    """The reward, and in words what is wrong."""
    words = said.strip().rstrip(".")
    room = next((each for each in ROOMS if each["name"] in said), None)
    wrong = [] if any(words == each["name"] for each in ROOMS) else ["the answer is not the name of the room alone"]
    if room is None:
        return 0.0, ["no room was named"]
    if room["name"] == task["busy"]:
        wrong.append("that room is taken")
    elif room["seats"] < task["people"]:
        wrong.append("the room has too few seats")
    elif set(task["wants"]) - set(room["has"]):
        wrong.append("the room lacks what was asked for")
    elif room["name"] != task["room"]:
        wrong.append("a smaller room would have done")
    return (0.75 * (room["name"] == task["room"]) + 0.25 * (words == room["name"])), wrong


@agl.rollout
def book(task: dict[str, Any], llm: agl.LLM, prompt_template: agl.PromptTemplate) -> float:
    """Book one room."""
    prompt = prompt_template.format(rooms=json.dumps(ROOMS), request=task["request"])
    with openai.OpenAI(base_url=llm.base_url, api_key=llm.api_key) as client:
        answer = client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": prompt}])
    reward, wrong = judge(task, answer.choices[0].message.content or "")
    for what in wrong:
        agl.emit_message(what)
    return reward
