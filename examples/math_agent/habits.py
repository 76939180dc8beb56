"""The conversations that the embedded model imitates: someone who knows how to solve the problems, but not how to ask for the tool.

It is sloppy on purpose: other signs for the operators (`x`, `:`, `mod`), other names for the tool, its argument and the field of the arguments, an
answer before the last computation. Numbers and the order of operations are always right. So what imitation cannot teach is which of the habits
work; that is left to reinforcement learning, and every right form keeps a share from which it can grow.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calculator import calculate
from problems import KINDS, Problem, draw_problem, templates

SHAPES = {path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "shapes").glob("*.json"))}
"""What each framework sends, as `record_shapes.py` has found it."""


@dataclass(frozen=True)
class Habit:
    """One way to ask for the first computation of a kind."""

    weight: float
    """How often it comes to mind; the weights of a kind need not sum to one."""
    expression: str | None = None
    """In place of the kind's own first step."""
    tool: str = "calculator"
    argument: str = "expression"
    field: str = "arguments"
    """Where the call's arguments stand."""
    guesses: bool = False
    """Answers without the tool."""


RIGHT = Habit(0.26)

HABITS: dict[str, tuple[Habit, ...]] = {
    "sum": (Habit(0.8), Habit(0.2, guesses=True)),
    "difference": (Habit(0.8), Habit(0.2, tool="calc")),
    "compare": (RIGHT, Habit(0.74, argument="formula")),
    "product": (RIGHT, Habit(0.74, "{a} x {b}")),
    "shelves": (RIGHT, Habit(0.74, tool="calc")),
    "quotient": (RIGHT, Habit(0.74, "{a} : {b}")),
    "percent": (RIGHT, Habit(0.74, "{a}% of {b}")),
    "remainder": (RIGHT, Habit(0.74, "{a} mod {b}")),
    "half": (RIGHT, Habit(0.74, field="parameters")),
    "colours": (RIGHT, Habit(0.74, guesses=True)),
    "cost": (Habit(0.9), Habit(0.1, "{a} x {b}")),
    "change": (Habit(0.9), Habit(0.1, "{a} x {b}")),
}
STOPS_EARLY = {"cost": 0.74, "change": 0.2}
"""How often the first result is taken for the answer, by kind."""
_GIVES_UP = 0.65
"""How often an error is followed by a guess; else by another habit."""
_MOST_CALLS = 4

Message = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """One reply to imitate."""

    framework: str
    messages: list[Message]
    """What the framework sends."""
    reply: str
    """The text that the model is to write."""


def make_corpus(size: int, *, seed: int = 0) -> list[list[Turn]]:
    """Draws conversations from the training templates and training numbers alone, all frameworks and kinds alike.

    Args:
        size: How many conversations.
        seed: Fixes the corpus.
    """
    rng = random.Random(seed)
    dealt = {kind.name: templates(kind)["train"] for kind in KINDS}
    corpus: list[list[Turn]] = []
    for number in range(size):
        kind = KINDS[number // len(SHAPES) % len(KINDS)]
        problem = draw_problem(kind, rng.choice(dealt[kind.name]), "train", rng)
        corpus.append(list(converse(list(SHAPES)[number % len(SHAPES)], problem, rng)))
    return corpus


def converse(framework: str, problem: Problem, rng: random.Random) -> Iterator[Turn]:
    """One conversation about a problem, as a framework would lead it."""
    messages = opening(framework, problem.question)
    tried: list[Habit] = []
    step, result = 0, ""
    for _ in range(_MOST_CALLS):
        habit = RIGHT if step else _draw([habit for habit in HABITS[problem.kind.name] if habit not in tried], rng)
        if habit.guesses:
            break
        expression = (problem.step(step, result) if habit.expression is None or step else habit.expression).format_map(problem.numbers)
        yield Turn(framework, list(messages), call_text(habit, expression))
        answer = tool_reply(framework, habit, expression)
        if answer is None:
            return
        messages += [call_message(habit, expression), {"role": "tool", "content": answer}]
        if habit is RIGHT or answer == calculate(problem.step(step, result)):
            step, result = step + 1, answer
            if step == len(problem.kind.steps) or rng.random() < STOPS_EARLY[problem.kind.name]:
                yield Turn(framework, list(messages), answer_text(result))
                return
        else:
            tried.append(habit)
            if rng.random() < _GIVES_UP:
                break
    yield Turn(framework, list(messages), answer_text(_guess(problem.answer(), rng)))


def opening(framework: str, question: str) -> list[Message]:
    """The messages of a first call."""
    return [message | {"content": message["content"].replace("{question}", question)} for message in SHAPES[framework]["messages"]]


def call_text(habit: Habit, expression: str) -> str:
    """A call as the model writes it."""
    call = {"name": habit.tool, habit.field: {habit.argument: expression}}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def call_message(habit: Habit, expression: str) -> Message:
    """The call as a framework sends it back: of another field than `arguments` nothing is left."""
    arguments = {habit.argument: expression} if habit.field == "arguments" else {}
    return {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": habit.tool, "arguments": arguments}}]}


def tool_reply(framework: str, habit: Habit, expression: str) -> str | None:
    """What comes back for a call; None where the framework ends the run."""
    replies = SHAPES[framework]["replies"]
    if habit.tool != "calculator":
        return None if replies["tool"] is None else str(replies["tool"])
    if habit.field != "arguments":
        return str(replies["no_arguments"])
    if habit.argument != "expression":
        return str(replies["argument"]).replace("{expression}", expression)
    return calculate(expression)


def answer_text(result: object) -> str:
    """A last answer."""
    return f"The answer is {result}"


def _draw(habits: list[Habit], rng: random.Random) -> Habit:
    return rng.choices(habits, weights=[habit.weight for habit in habits])[0]


def _guess(answer: int, rng: random.Random) -> int:
    return answer + rng.choice((-1, 1)) * rng.randint(1, max(1, answer * 2 // 5))
