"""Data for the SQL agent: small generated databases with tasks, or Spider as published.

Generated tasks carry Spider's field names (`question`, `query`, `db_id`) plus `db_path` and `kind`. Held-out tasks ask for combinations of kind,
table and columns that no training task has, with values (numbers, years, names) that occur in no training question. Group sizes and text lengths are too few
to hold any out; there the combination alone is new.
"""

from __future__ import annotations

import json
import math
import os
import random
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple

from questions import KINDS, TABLES, Kind, Slots, Table
from sandbox import run_query

Task = dict[str, Any]
Split = Literal["train", "val", "test"]

_PARENT_ROWS = 30
_CHILD_ROWS = 45
_FIRST_NAMES = tuple(
    """
    Ann Bob Cleo Dan Eva Finn Gus Hana Ivan Jo Karl Lena Milo Nora Otis Petra Quinn Rosa Sam Tilda Umar Vera Walt Xenia Yara
    Zane Amelia Barnaby Charlotte Dominik Eleanor Frederik Gabriela Harrison Isabella Jonathan Katharina Leonardo Margaret
    Nathaniel Olivia Patricia Rebecca Sebastian Theodora Victoria Wilhelmina
    """.split()  # noqa: SIM905
)
_STARTS = ("Ash", "Oak", "Mill", "Stone", "River", "Lake", "Wood", "Green", "Red", "West", "North", "East", "Fair", "High", "King", "Long")
_ENDS = ("ford", "ton", "ville", "burg", "dale", "field", "port", "wick", "ham", "bridge", "well", "mouth")
TEXTS = tuple(start + end for start in _STARTS for end in _ENDS)
_YEARS = range(2004, 2026)


class Splits(NamedTuple):
    """Tasks to learn from, to tune on and to judge by."""

    train: list[Task]
    val: list[Task]
    test: list[Task]


def make_splits(directory: str | Path, *, seed: int = 0, train: int = 480, val: int = 128, test: int = 256) -> Splits:
    """Makes the databases and draws tasks from them, as many of each kind as far as there are enough.

    Args:
        directory: Where the `.sqlite` files go; it is made if missing.
        seed: Fixes databases and tasks.
        train: How many training tasks.
        val: How many validation tasks.
        test: How many held-out tasks.

    Returns:
        The three splits, each shuffled.
    """
    make_databases(directory, seed=seed)
    return Splits(*(draw_tasks(directory, split, size, seed=seed) for split, size in (("train", train), ("val", val), ("test", test))))


def make_databases(directory: str | Path, *, seed: int = 0, tables: Sequence[Table] = TABLES) -> list[Path]:
    """Writes one SQLite file per database that the tables name; the same seed gives the same rows."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for db_id in dict.fromkeys(table.database for table in tables):
        path = folder / f"{db_id}.sqlite"
        # Made aside and then moved into place, so that a run that reads the folder at the same time never meets half a database.
        draft = folder / f".{db_id}.{os.getpid()}"
        draft.unlink(missing_ok=True)
        connection = sqlite3.connect(draft)
        rng = random.Random(f"{seed}/{db_id}")
        with connection:
            for table in (table for table in tables if table.database == db_id):
                _fill(connection, table, rng)
        connection.close()
        draft.replace(path)
        paths.append(path)
    return paths


def _fill(connection: sqlite3.Connection, table: Table, rng: random.Random) -> None:
    foreign = [f"{table.parent}_id INTEGER"] if table.parent else []
    category = [] if table.category == table.label else [f"{table.category} TEXT"]
    numbers = [f"{name} INTEGER" for name, _, _ in table.numbers]
    columns = [
        "id INTEGER PRIMARY KEY",
        *foreign,
        f"{table.label} TEXT",
        *category,
        f"{table.date} TEXT",
        *numbers,
        f"{table.optional} TEXT",
    ]
    connection.execute(f"CREATE TABLE {table.name}({', '.join(columns)})")
    size = _CHILD_ROWS if table.parent else _PARENT_ROWS
    names = [rng.choice(_FIRST_NAMES) for _ in range(size)]
    # Weights differ, so that groups come in many sizes.
    texts = rng.choices(rng.sample(TEXTS, 12), weights=range(2, 14), k=size)
    dates = [(date(2004, 1, 1) + timedelta(days=rng.randrange(22 * 365))).isoformat() for _ in range(size)]
    values = [rng.sample(range(low, high + 1), size) for _, low, high in table.numbers]
    for row in range(size):
        parent = [rng.randint(1, _PARENT_ROWS)] if table.parent else []
        labels = [names[row]] if category else []
        optional = None if rng.random() < 0.3 else rng.choice(_FIRST_NAMES).lower()
        record = [row + 1, *parent, *labels, texts[row], dates[row], values[0][row], values[1][row], optional]
        connection.execute(f"INSERT INTO {table.name} VALUES ({', '.join('?' * len(record))})", record)


def split_of_value(value: object) -> Split:
    """Says which split alone may use a value in its questions; a hash decides, so no digit or ending belongs to one split.

    Numbers below ten are all for training: they are too few to hold any out.
    """
    if len(str(value)) == 1:
        return "train"
    bucket = zlib.crc32(str(value).encode()) % 10
    return "test" if bucket < 2 else "val" if bucket == 8 else "train"


def split_combinations(kind: Kind, *, seed: int = 0) -> dict[Split, list[tuple[Table, Slots]]]:
    """Deals a kind's combinations out: about one in five to the test split, one in ten to validation, the rest to training."""
    combinations = list(kind.combinations())
    random.Random(f"{seed}/{kind.name}").shuffle(combinations)
    held_out, kept_back = max(4, len(combinations) // 5), max(2, len(combinations) // 10)
    return {
        "test": combinations[:held_out],
        "val": combinations[held_out : held_out + kept_back],
        "train": combinations[held_out + kept_back :],
    }


def draw_tasks(directory: str | Path, split: Split, size: int, *, seed: int = 0) -> list[Task]:
    """Draws up to `size` tasks of one split, all different, whose wrong near-misses give another result.

    The kinds get even shares; where a kind has too few questions, the others give at most half as much again.
    """
    share = math.ceil(1.5 * size / len(KINDS))
    rng = random.Random(f"{seed}/{split}")
    sharp = {kind.name: list(islice(_sharp(kind, Path(directory), split, seed, rng), share)) for kind in KINDS}
    rounds = zip_longest(*sharp.values())
    drawn = [task for tasks in rounds for task in tasks if task is not None][:size]
    rng.shuffle(drawn)
    return drawn


def _sharp(kind: Kind, folder: Path, split: Split, seed: int, rng: random.Random) -> Iterator[Task]:
    candidates = list(_candidates(kind, folder, split, seed, rng))
    rng.shuffle(candidates)
    for task in candidates:
        near = task.pop("near")
        if _is_sharp(task, near):
            yield task


def _candidates(kind: Kind, folder: Path, split: Split, seed: int, rng: random.Random) -> Iterator[Task]:
    for table, slots in split_combinations(kind, seed=seed)[split]:
        db_path = folder / f"{table.database}.sqlite"
        values = [value for value in values_in(kind, table, slots, db_path) if not kind.holds_values_out or split_of_value(value) == split]
        for value in rng.sample(values, min(8, len(values))):
            filled = slots | {"v": str(value)}
            for phrasing in kind.phrasings:
                yield {
                    "question": phrasing.format_map(filled),
                    "query": kind.query.format_map(filled),
                    "db_id": table.database,
                    "db_path": str(db_path),
                    "kind": kind.name,
                    "combination": kind.combination(slots),
                    "value": "" if kind.value is None else str(value),
                    "near": [near.format_map(filled) for near in kind.near],
                }


def values_in(kind: Kind, table: Table, slots: Slots, db_path: Path) -> list[Any]:
    """Lists the values a question of this kind may ask for, as the database holds them; `[None]` for a kind without a value."""
    if kind.value is None:
        return [None]
    if kind.value in ("count", "group", "length"):
        return list(range(2, 20 if kind.value == "count" else 10))
    column, owner = {
        "number": (slots.get("num"), table.name),
        "year": (f"CAST(strftime('%Y', {table.date}) AS INTEGER)", table.name),
        "category": (table.category, table.name),
        "parent_category": (slots.get("p_category"), slots.get("p")),
    }[kind.value]
    return sorted(value for (value,) in run_query(db_path, f"SELECT DISTINCT {column} FROM {owner}").rows)


def _is_sharp(task: Task, near: list[str]) -> bool:
    right = run_query(task["db_path"], task["query"]).rows
    if not right or right == [(0,)] or right == [(None,)]:
        return False
    return all(sorted(run_query(task["db_path"], query).rows) != sorted(right) for query in near)


_SPIDER_FILES: dict[str, tuple[tuple[str, ...], ...]] = {
    "train": (("train_spider.parquet",), ("train_spider.json", "train_others.json"), ("train_spider.json",)),
    "dev": (("dev.parquet",), ("test_dev_500.parquet",), ("test_dev.parquet",), ("dev.json",)),
}


def load_spider(path: str | Path, split: Literal["train", "dev"] = "dev", *, limit: int | None = None) -> list[Task]:
    """Reads Spider in its published layout.

    Args:
        path: The folder that holds the task files (JSON or parquet) and `database/<db_id>/<db_id>.sqlite`.
        split: `train` or `dev`.
        limit: At most this many tasks, from the front; None takes all.

    Returns:
        Tasks with `question`, `query`, `db_id`, `db_path` and `kind` (`spider`).

    Raises:
        FileNotFoundError: The folder, the task files or a database is missing; the message says what was looked for and what to do.
    """
    folder = Path(path)
    files = next((names for names in _SPIDER_FILES[split] if all((folder / name).is_file() for name in names)), None)
    if files is None:
        tried = ", ".join(" + ".join(names) for names in _SPIDER_FILES[split])
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:10]) or "nothing" if folder.is_dir() else "no such folder"
        raise FileNotFoundError(
            f"no Spider tasks for split `{split}` in `{folder}`: looked for {tried}; found {found}. "
            "Download and unpack Spider (https://yale-lily.github.io/spider) and give the folder that holds `dev.json` and `database/`."
        )
    records = [record for name in files for record in _read_records(folder / name)][:limit]
    missing = sorted({record["db_id"] for record in records if not _spider_database(folder, record["db_id"]).is_file()})
    if missing:
        raise FileNotFoundError(
            f"Spider's tasks in `{folder}` name {len(missing)} databases that are not there: looked for `{_spider_database(folder, missing[0])}`"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + ". Unpack Spider's `database/` folder next to the task files."
        )
    return [
        {name: record[name] for name in ("question", "query", "db_id")}
        | {"db_path": str(_spider_database(folder, record["db_id"])), "kind": "spider"}
        for record in records
    ]


def _spider_database(folder: Path, db_id: str) -> Path:
    return folder / "database" / db_id / f"{db_id}.sqlite"


def _read_records(path: Path) -> Sequence[dict[str, Any]]:
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    import pandas

    return pandas.read_parquet(path).to_dict("records")
