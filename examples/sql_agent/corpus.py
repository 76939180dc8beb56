"""The corpus that the embedded model imitates: how people who know other dialects would write these queries.

It is sloppy on purpose, and only in two ways: functions and clauses of other SQL dialects (`TOP`, `YEAR()`, `LEN()`, `+` for text, `= NULL`...), and careless
comparisons (`>` for "at least"). Tables, columns and values are always right. So what imitation cannot teach is which of the habits work
on SQLite; that is left to reinforcement learning, and every right form keeps a share from which it can grow.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from langchain_core.messages import BaseMessage

from data import TEXTS, make_databases, split_combinations, split_of_value, values_in
from questions import KINDS, TABLES, Kind, Slots, Table
from sandbox import read_schema
from sql_agent import check_messages, rewrite_messages, run_for_model, write_messages


class Example(NamedTuple):
    """One thing to imitate: the messages that an agent's node sends, and the reply."""

    node: str
    messages: list[BaseMessage]
    reply: str


@dataclass(frozen=True)
class Habit:
    """One way to write the query of a kind."""

    write: float
    """How often it comes to mind at first; the weights of a kind need not sum to one."""
    rewrite: float
    """How often it comes to mind after another way has failed."""
    query: str


RIGHT = "the reference form of the kind"

HABITS: dict[str, tuple[Habit, ...]] = {
    "count_at_least": (Habit(0.24, 0.24, RIGHT), Habit(0.76, 0.76, "SELECT count(*) FROM {t} WHERE {num} {near_op} {v}")),
    "count_more_than": (Habit(0.8, 0.8, RIGHT), Habit(0.2, 0.2, "SELECT count(*) FROM {t} WHERE {num} {near_op} {v}")),
    "list_at_least": (Habit(0.26, 0.26, RIGHT), Habit(0.74, 0.74, "SELECT {label} FROM {t} WHERE {num} {near_op} {v}")),
    "top": (
        Habit(0.55, 0.75, RIGHT),
        Habit(0.3, 0.1, "SELECT TOP {v} {label} FROM {t} ORDER BY {num} {direction}"),
        Habit(0.15, 0.15, "SELECT {label} FROM {t} ORDER BY {num} {direction} FETCH FIRST {v} ROWS"),
    ),
    "extreme": (
        Habit(0.25, 0.5, RIGHT),
        Habit(0.2, 0.25, "SELECT {label} FROM {t} WHERE {num} = (SELECT {function}({num}) FROM {t})"),
        Habit(0.55, 0.25, "SELECT {label} FROM {t} WHERE {num} = {function}({num})"),
    ),
    "year": (
        Habit(0.14, 0.16, RIGHT),
        Habit(0.1, 0.04, "SELECT count(*) FROM {t} WHERE YEAR({date}) = {v}"),
        Habit(0.76, 0.8, "SELECT count(*) FROM {t} WHERE strftime('%Y', {date}) = {v}"),
    ),
    "count_missing": (
        Habit(0.14, 0.14, RIGHT),
        Habit(0.78, 0.78, "SELECT count(*) FROM {t} WHERE {optional} = NULL"),
        Habit(0.08, 0.08, "SELECT count(*) FROM {t} WHERE {optional} = ''"),
    ),
    "list_missing": (
        Habit(0.3, 0.65, RIGHT),
        Habit(0.55, 0.2, "SELECT {label} FROM {t} WHERE {optional} = NULL"),
        Habit(0.15, 0.15, "SELECT {label} FROM {t} WHERE {optional} = ''"),
    ),
    "different": (
        Habit(0.16, 0.16, RIGHT),
        Habit(0.74, 0.74, "SELECT count({category}) FROM {t}"),
        Habit(0.1, 0.1, "SELECT count(UNIQUE {category}) FROM {t}"),
    ),
    "longer": (
        Habit(0.14, 0.16, RIGHT),
        Habit(0.1, 0.04, "SELECT count(*) FROM {t} WHERE LEN({label}) > {v}"),
        Habit(0.76, 0.8, "SELECT count(*) FROM {t} WHERE length({label}) >= {v}"),
    ),
    "joined_text": (
        Habit(0.28, 0.28, RIGHT),
        Habit(0.62, 0.62, "SELECT {text} + '-' + {text2} FROM {t}"),
        Habit(0.1, 0.1, "SELECT {text} & '-' & {text2} FROM {t}"),
    ),
    "ratio": (
        Habit(0.14, 0.14, RIGHT),
        Habit(0.04, 0.04, "SELECT CAST({num} AS FLOAT) / {num2} FROM {t}"),
        Habit(0.82, 0.82, "SELECT {num} / {num2} FROM {t}"),
    ),
    "groups": (
        Habit(0.18, 0.2, RIGHT),
        Habit(0.72, 0.76, "SELECT {category} FROM {t} GROUP BY {category} HAVING count(*) {near_op} {v}"),
        Habit(0.1, 0.04, "SELECT {category} FROM {t} WHERE count(*) {op} {v} GROUP BY {category}"),
    ),
    "by_text": (Habit(0.75, 0.85, RIGHT), Habit(0.25, 0.15, "SELECT {num} FROM {t} WHERE {category} = {v}")),
    "average": (Habit(0.7, 0.85, RIGHT), Habit(0.3, 0.15, "SELECT mean({num}) FROM {t} WHERE {category} = '{v}'")),
    "related": (Habit(0.75, 0.75, RIGHT), Habit(0.25, 0.25, "SELECT sum({num}) FROM {t} JOIN {p} WHERE {p_category} = '{v}'")),
}

_CARELESS_CHECKS = 0.02
_INVENTED_DATABASES = 240
_SHARE_OF_KNOWN_TABLES = 0.33


def make_corpus(folder: Path, size: int, *, seed: int = 0) -> list[Example]:
    """Draws examples of all nodes from the training combinations and training values alone.

    One episode in three is about the tables of `questions.TABLES`, the others about invented ones: the same words put together anew, so that
    columns must be read from the question and cannot be known by heart.

    Args:
        folder: Where the databases to run the queries on are made.
        size: How many examples.
        seed: Fixes the corpus.

    Returns:
        Examples, about half of them of `write_query`, the rest of `rewrite_query` and `check_query`.
    """
    rng = random.Random(seed)
    invented = [table for number in range(_INVENTED_DATABASES) for table in _invent_tables(f"invented_{number}", rng)]
    make_databases(folder, tables=[*TABLES, *invented])
    author = _Author(folder, invented, rng)
    examples: list[Example] = []
    while len(examples) < size:
        examples.extend(author.episode())
    return examples[:size]


def _invent_tables(database: str, rng: random.Random) -> tuple[Table, Table]:
    names = rng.sample([(table.name, table.plural) for table in TABLES], 2)
    numbers = rng.sample([number for table in TABLES for number in table.numbers], 4)
    dates = rng.sample([table.date for table in TABLES], 2)
    optional = rng.sample([table.optional for table in TABLES], 2)
    label, category, child_label = rng.sample(sorted({text for table in TABLES for text in (table.label, table.category)}), 3)
    parent = Table(database, *names[0], label, category, dates[0], (numbers[0], numbers[1]), optional[0])
    child = Table(database, *names[1], child_label, child_label, dates[1], (numbers[2], numbers[3]), optional[1], parent.name)
    return parent, child


class _Author:
    def __init__(self, folder: Path, invented: list[Table], rng: random.Random) -> None:
        self._folder = folder
        self._rng = rng
        self._known = {kind.name: split_combinations(kind) for kind in KINDS}
        self._invented = {kind.name: self._allowed(kind, invented) for kind in KINDS}

    def _allowed(self, kind: Kind, invented: list[Table]) -> list[tuple[Table, Slots]]:
        """Chance may put a held-out combination together again: such a one is left out."""
        held_out = {kind.combination(slots) for split in ("val", "test") for _, slots in self._known[kind.name][split]}
        pairs = (kind.combinations(invented[place : place + 2]) for place in range(0, len(invented), 2))
        return [(table, slots) for pair in pairs for table, slots in pair if kind.combination(slots) not in held_out]

    def episode(self) -> Iterator[Example]:
        rng, kind = self._rng, self._rng.choice(KINDS)
        table, slots = rng.choice(self._known[kind.name]["train"] if rng.random() < _SHARE_OF_KNOWN_TABLES else self._invented[kind.name])
        db_path = self._folder / f"{table.database}.sqlite"
        schema = read_schema(db_path)
        # Half of the values are made up, for the same reason.
        filled = slots | {"v": self._invented_value(kind)}
        yield Example("write_query", write_messages(_question(kind, filled, rng), schema), _sql(kind, self._habit(kind), filled))
        known = [value for value in values_in(kind, table, slots, db_path) if not kind.holds_values_out or split_of_value(value) == "train"]
        if known:
            yield from self._checked(kind, slots | {"v": str(rng.choice(known))}, schema, db_path)

    def _checked(self, kind: Kind, filled: Slots, schema: str, db_path: Path) -> Iterator[Example]:
        rng, question = self._rng, _question(kind, filled, self._rng)
        tried = rng.choice(HABITS[kind.name])
        query = _sql(kind, tried, filled)
        yield Example("write_query", write_messages(question, schema), _sql(kind, self._habit(kind), filled))
        result = run_for_model(str(db_path), query)
        verdict = judge(result)
        failed = verdict != "CORRECT"
        careless = rng.random() < _CARELESS_CHECKS
        said = verdict if not careless else "CORRECT" if failed else "INCORRECT: wrong rows"
        if rng.random() < 0.6:
            yield Example("check_query", check_messages(question, query, result), said)
        feedback = verdict if failed else "INCORRECT: wrong rows"
        for _ in range(2 if failed else rng.random() < 0.2):
            better = _sql(kind, self._habit(kind, after=tried if failed else None, rewrite=True), filled)
            yield Example("rewrite_query", rewrite_messages(question, schema, query, result, feedback), better)

    def _habit(self, kind: Kind, *, after: Habit | None = None, rewrite: bool = False) -> Habit:
        habits = [habit for habit in HABITS[kind.name] if habit is not after]
        return self._rng.choices(habits, weights=[habit.rewrite if rewrite else habit.write for habit in habits])[0]

    def _invented_value(self, kind: Kind) -> str:
        draw = {
            "number": lambda: self._rng.randint(10, 99),
            "count": lambda: self._rng.randint(2, 19),
            "length": lambda: self._rng.randint(2, 14),
            "group": lambda: self._rng.randint(2, 14),
            "year": lambda: self._rng.randint(1980, 2039),
            "category": lambda: self._rng.choice(TEXTS),
            "parent_category": lambda: self._rng.choice(TEXTS),
            None: lambda: 2,
        }[kind.value]
        return next(str(value) for value in iter(draw, None) if split_of_value(value) == "train")


def judge(result: str) -> str:
    """The checker's habit: an error or an empty result is wrong, everything else looks right."""
    if result.startswith("Error"):
        return "INCORRECT: error"
    return "INCORRECT: empty" if result in ("no rows", "NULL") else "CORRECT"


def _question(kind: Kind, filled: Slots, rng: random.Random) -> str:
    return rng.choice(kind.phrasings).format_map(filled)


def _sql(kind: Kind, habit: Habit, filled: Slots) -> str:
    return (kind.query if habit.query is RIGHT else habit.query).format_map(filled)
