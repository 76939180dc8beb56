"""The example without a hosted model: a scripted model that does what its prompt says, with a slip now and then."""

from __future__ import annotations

import random
import re
from typing import Any

from rooms import ROOMS

NAME_ALONE = "Answer with the name of the room alone."
SMALLEST = "Book the smallest room that has enough seats."
NEVER_TAKEN = "Never book a room that is taken."
EQUIPMENT = "The room must have the equipment that is asked for."
REMEDIES = {
    "name of the room alone": NAME_ALONE,
    "smaller room would have done": SMALLEST,
    "too few seats": SMALLEST,
    "room is taken": NEVER_TAKEN,
    "lacks what was asked for": EQUIPMENT,
}
"""What the scripted critic has a prompt say when it reads this in a record."""
SLIPS = 0.05
"""How often the model does not follow a rule."""


class Booker:
    """The agent's model."""

    def __init__(self, seed: int = 0) -> None:
        self._chance = random.Random(seed)

    def __call__(self, body: dict[str, Any]) -> str:
        prompt = body["messages"][0]["content"]
        people, *_ = re.findall(r"for (\d+) people", prompt)
        wants, taken = re.findall(r"people with a (\w+)", prompt), re.findall(r"(\w+) is taken\.", prompt)
        rooms = ROOMS
        if self._keeps(NEVER_TAKEN, prompt):
            rooms = [room for room in rooms if room["name"] not in taken]
        if self._keeps(EQUIPMENT, prompt):
            rooms = [room for room in rooms if set(wants) <= set(room["has"])]
        if self._keeps(SMALLEST, prompt):
            rooms = sorted((room for room in rooms if room["seats"] >= int(people)), key=lambda room: room["seats"])
        room = rooms[0]["name"] if rooms else "none"
        return room if self._keeps(NAME_ALONE, prompt) else f"I would book {room} for them."

    def _keeps(self, rule: str, prompt: str) -> bool:
        return rule in prompt and self._chance.random() >= SLIPS
