"""Runs SQL that nobody has reviewed: read-only, bounded in time, rows and memory.

A language model may write `DROP TABLE`, `ATTACH` or an endless recursive query. Four fences keep that harmless: the file is opened
read-only, an authorizer allows nothing but reading, a progress handler stops the query at its deadline, and SQLite's own limits keep one
value from filling the memory.
"""

from __future__ import annotations

import re
import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_INSTRUCTIONS_BETWEEN_CHECKS = 2_000
_MAX_VALUE_BYTES = 1_000_000

Value = int | float | str | bytes | None


class QueryError(Exception):
    """A query that did not give a result: refused, wrong, or stopped at a limit. The message is SQLite's own where it has one."""


class Rows(NamedTuple):
    """The result of one query."""

    columns: int
    """How many columns each row has."""
    rows: list[tuple[Value, ...]]
    """At most `max_rows` rows, in the order in which SQLite gave them."""
    truncated: bool
    """True if there were more rows than `max_rows`."""


def run_query(db_path: str | Path, sql: str, *, seconds: float = 2.0, max_rows: int = 10_000) -> Rows:
    """Runs one SELECT on a database file without being able to change it.

    Args:
        db_path: The SQLite file; it must exist.
        sql: One statement.
        seconds: Wall time after which the query is stopped.
        max_rows: Rows after which reading stops.

    Returns:
        The rows read.

    Raises:
        QueryError: The statement is refused, does not compile, fails, gives no columns or runs past its deadline.
        FileNotFoundError: There is no such database: a mistake of the caller, never of the model.
    """
    connection = _open(Path(db_path), seconds)
    try:
        cursor = connection.execute(sql)
        rows = cursor.fetchmany(max_rows + 1)
        if cursor.description is None:
            raise QueryError("the reply holds no SELECT statement")
        return Rows(len(cursor.description), rows[:max_rows], len(rows) > max_rows)
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        message = f"stopped after {seconds:g} s" if str(error) == "interrupted" else str(error)
        raise QueryError(message) from error
    finally:
        connection.close()


def read_schema(db_path: str | Path) -> str:
    """Describes the tables of a database, one `table(column, column)` a line, in the order in which they were made."""
    connection = _open(Path(db_path), seconds=2.0, guarded=False)
    try:
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        ]
        columns = {table: connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall() for table in tables}
    finally:
        connection.close()
    return "\n".join(f"{_quoted(table)}({', '.join(_quoted(name) for (name,) in columns[table])})" for table in tables)


def _open(db_path: Path, seconds: float, *, guarded: bool = True) -> sqlite3.Connection:
    if not db_path.is_file():
        raise FileNotFoundError(f"no database at `{db_path}`")
    connection = sqlite3.connect(f"{db_path.resolve().as_uri()}?mode=ro", uri=True)
    # Published databases hold a few values that are not valid UTF-8; they must not turn a right query into a wrong one.
    connection.text_factory = lambda raw: raw.decode(errors="replace")
    if guarded:
        if hasattr(connection, "setlimit"):  # Python 3.11
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
        connection.set_authorizer(_authorize)
        deadline = time.monotonic() + seconds
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _INSTRUCTIONS_BETWEEN_CHECKS)
    return connection


def _authorize(action: int, *_: object) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"\w+", name) else f'"{name}"'
