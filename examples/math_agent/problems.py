"""Word problems for the math agent: kinds of problem, and the splits in which they are drawn.

A problem is a kind plus a *template* (a wording with a thing to count) plus numbers. No template and no number of 10 or more of
the held-out splits occurs in a training problem.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, NamedTuple

from calculator import evaluate

Split = Literal["train", "val", "test"]
Task = dict[str, Any]

NAMES = ("Ann", "Bob", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivan", "Lena", "Milo", "Nora", "Otis", "Petra", "Rosa", "Umar")
THINGS = ("apples", "books", "cards", "coins", "cups", "eggs", "keys", "lamps", "nails", "pens", "plates", "shells", "stamps", "tiles")


@dataclass(frozen=True)
class Kind:
    """One kind of problem."""

    name: str
    steps: tuple[str, ...]
    """What to compute, in this order; `{r}` is the result before."""
    numbers: Mapping[str, range]
    """The numbers of a problem and where they are drawn from; the steps must bring whole numbers that are not negative."""
    wordings: tuple[str, ...]


KINDS: tuple[Kind, ...] = (
    Kind(
        "sum",
        ("{a} + {b}",),
        {"a": range(11, 700), "b": range(11, 300)},
        (
            "{who} has {a} {things} and gets {b} more. How many {things} has {who} now?",
            "One box holds {a} {things}, another holds {b} {things}. How many {things} do both hold?",
            "{who} finds {a} {things} on Monday and {b} on Friday. How many {things} are found?",
        ),
    ),
    Kind(
        "difference",
        ("{a} - {b}",),
        {"a": range(101, 900), "b": range(11, 99)},
        (
            "{who} has {a} {things} and gives {b} away. How many {things} are left?",
            "Of {a} {things}, {b} break. How many {things} are whole?",
            "{who} wants {a} {things} and has {b}. How many {things} are missing?",
        ),
    ),
    Kind(
        "compare",
        ("{a} - {b}",),
        {"a": range(101, 900), "b": range(11, 99)},
        (
            "{who} has {a} {things}, a friend has {b}. How many more {things} has {who}?",
            "There were {a} {things} last year and {b} this year. By how many {things} did it fall?",
            "{who} counts {a} old and {b} new {things}. How many more are old?",
        ),
    ),
    Kind(
        "product",
        ("{a} * {b}",),
        {"a": range(11, 99), "b": range(3, 60)},
        (
            "There are {a} boxes with {b} {things} each. How many {things} is that?",
            "{who} packs {a} bags and puts {b} {things} into each bag. How many {things} are packed?",
            "A shop sells {b} {things} a day. How many {things} does it sell in {a} days?",
        ),
    ),
    Kind(
        "shelves",
        ("{a} * {b}",),
        {"a": range(11, 99), "b": range(3, 60)},
        (
            "Each of {a} shelves holds {b} {things}. How many {things} do the shelves hold?",
            "{who} lays {a} rows of {b} {things}. How many {things} are in the rows?",
            "A tower has {a} floors with {b} {things} on every floor. How many {things} has the tower?",
        ),
    ),
    Kind(
        "quotient",
        ("{a} / {b}",),
        {"a": range(60, 900), "b": range(3, 30)},
        (
            "{who} shares {a} {things} among {b} friends. How many {things} does each get?",
            "{a} {things} are split into {b} equal heaps. How many {things} has a heap?",
            "{who} needs {b} hours to make {a} {things}. How many {things} an hour is that?",
        ),
    ),
    Kind(
        "percent",
        ("{b} * {a} / 100",),
        {"a": range(5, 100, 5), "b": range(100, 2000, 20)},
        (
            "{a} percent of {b} {things} are red. How many {things} are red?",
            "{who} sells {a} percent of {b} {things}. How many {things} are sold?",
            "Of {b} {things}, {a} percent are lost. How many {things} are lost?",
        ),
    ),
    Kind(
        "remainder",
        ("{a} % {b}",),
        {"a": range(101, 900), "b": range(5, 40)},
        (
            "{who} fills bags of {b} from {a} {things}. How many {things} do not fill a bag?",
            "{a} {things} go into crates of {b}. How many {things} remain?",
            "{who} deals {a} {things} to {b} players until it no longer comes out even. How many {things} stay?",
        ),
    ),
    Kind(
        "half",
        ("{a} / 2",),
        {"a": range(30, 980, 2)},
        (
            "{who} sells half of {a} {things}. How many {things} are sold?",
            "Half of {a} {things} are blue. How many {things} are blue?",
            "{who} keeps one half of {a} {things}. How many {things} does {who} keep?",
        ),
    ),
    Kind(
        "colours",
        ("{a} + {b} + {c}",),
        {"a": range(11, 300), "b": range(11, 300), "c": range(11, 99)},
        (
            "{who} counts {a} red, {b} blue and {c} green {things}. How many {things} are counted?",
            "A bag holds {a} small, {b} big and {c} huge {things}. How many {things} does it hold?",
            "{a}, {b} and {c} {things} come in three cars. How many {things} come?",
        ),
    ),
    Kind(
        "cost",
        ("{a} * {b}", "{r} + {c}"),
        {"a": range(3, 40), "b": range(3, 40), "c": range(11, 99)},
        (
            "{who} buys {a} {things} at {b} euros each and a bag for {c} euros. How many euros is that?",
            "{a} {things} cost {b} euros each, sending them costs {c} euros more. How many euros in all?",
            "{who} earns {b} euros for each of {a} {things} and a bonus of {c} euros. How many euros is the pay?",
        ),
    ),
    Kind(
        "change",
        ("{a} * {b}", "{c} - {r}"),
        {"a": range(3, 12), "b": range(3, 30), "c": range(360, 900)},
        (
            "{who} pays {c} euros for {a} {things} at {b} euros each. How many euros come back?",
            "{who} owns {c} euros and buys {a} {things} for {b} euros each. How many euros remain?",
            "From {c} euros, {a} {things} at {b} euros each are paid. How many euros are left over?",
        ),
    ),
)
BY_NAME = {kind.name: kind for kind in KINDS}


class Problem(NamedTuple):
    """A drawn problem."""

    kind: Kind
    question: str
    numbers: dict[str, str]

    def step(self, number: int, result: str = "") -> str:
        """The expression of a step, with the result of the one before."""
        return self.kind.steps[number].format_map(self.numbers | {"r": result})

    def answer(self) -> int:
        """What the last step brings."""
        result = ""
        for number in range(len(self.kind.steps)):
            result = str(_whole(evaluate(self.step(number, result))))
        return int(result)


class Splits(NamedTuple):
    """Tasks to learn from, to tune on and to judge by."""

    train: list[Task]
    val: list[Task]
    test: list[Task]


def make_splits(*, seed: int = 0, train: int = 480, val: int = 96, test: int = 192) -> Splits:
    """Draws tasks with the fields `question`, `answer`, `kind`, `template`; all kinds have even shares.

    Args:
        seed: Fixes the tasks.
        train: How many training tasks.
        val: How many validation tasks.
        test: How many held-out tasks.
    """
    return Splits(*(_draw_tasks(split, size, seed) for split, size in (("train", train), ("val", val), ("test", test))))


def _draw_tasks(split: Split, size: int, seed: int) -> list[Task]:
    rng = random.Random(f"{seed}/{split}")
    tasks: dict[str, Task] = {}
    for number in count():
        if len(tasks) == size:
            break
        kind = KINDS[number % len(KINDS)]
        template = rng.choice(templates(kind)[split])
        problem = draw_problem(kind, template, split, rng)
        tasks[problem.question] = {
            "question": problem.question,
            "answer": problem.answer(),
            "kind": kind.name,
            "template": "/".join(template),
        }
    drawn = list(tasks.values())
    rng.shuffle(drawn)
    return drawn


def templates(kind: Kind) -> dict[Split, list[tuple[str, str]]]:
    """A kind's templates (wording, thing), dealt out: one in five to the test split, one in ten to validation."""
    pairs = [(wording, thing) for wording in kind.wordings for thing in THINGS]
    random.Random(kind.name).shuffle(pairs)
    held_out, kept_back = len(pairs) // 5, len(pairs) // 10
    return {"test": pairs[:held_out], "val": pairs[held_out : held_out + kept_back], "train": pairs[held_out + kept_back :]}


def draw_problem(kind: Kind, template: tuple[str, str], split: Split, rng: random.Random) -> Problem:
    """One problem of a template, with numbers of the split; its steps bring whole numbers."""
    wording, things = template
    while True:
        numbers = {name: str(_draw_number(values, split, rng)) for name, values in kind.numbers.items()}
        problem = Problem(kind, wording.format_map(numbers | {"who": rng.choice(NAMES), "things": things}), numbers)
        try:
            problem.answer()
        except ValueError:
            continue
        return problem


def _draw_number(values: range, split: Split, rng: random.Random) -> int:
    return next(value for value in iter(lambda: rng.choice(values), None) if split_of_number(value) in (split, None))


def split_of_number(value: int) -> Split | None:
    """Says which split alone may use a number in its problems; None for numbers below ten and whole percents: they are too few to hold any out."""
    if value < 10 or (value < 100 and value % 5 == 0):
        return None
    bucket = zlib.crc32(str(value).encode()) % 10
    return "test" if bucket < 2 else "val" if bucket == 8 else "train"


def _whole(value: float) -> int:
    if value != int(value) or value < 0:
        raise ValueError(f"{value} is not a whole number")
    return int(value)


_ANSWER = re.compile(r"answer is\s*(-?\d+(?:\.\d+)?)", re.IGNORECASE)


def judge(task: Mapping[str, Any], text: str | None) -> float:
    """The reward: 1.0 when the text ends with the task's number as `The answer is N`, else 0.0."""
    found = _ANSWER.findall(text or "")
    return float(bool(found) and abs(float(found[-1]) - task["answer"]) < 1e-4)
