"""The reward: does the predicted query give the same result as the reference query?

Results are compared as multisets of rows; the order counts only if the reference asks for one. Numbers are compared by value, so that 3 equals
3.0, and floats to four decimals.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

from sandbox import QueryError, Rows, Value, run_query

_SECONDS = 2.0
_REFERENCE_SECONDS = 30.0
_DECIMALS = 4
_MAX_ROWS = 20_000
_MAX_REFERENCE_ROWS = 1_000_000


def evaluate_query(query: str | None, reference: str, db_path: str | Path) -> float:
    """Scores a predicted query by execution match.

    Args:
        query: What the agent wrote; anything at all, including nothing.
        reference: The query known to be right.
        db_path: The SQLite file on which both run; it is opened read-only.

    Returns:
        1.0 if both give the same rows, else 0.0.

    Raises:
        ValueError: The reference itself does not run: the data is broken, and no score would mean anything.
        FileNotFoundError: There is no such database.
    """
    expected = _reference_result(str(db_path), Path(db_path).stat().st_mtime_ns, reference)
    try:
        found = run_query(db_path, query or "", seconds=_SECONDS, max_rows=max(_MAX_ROWS, len(expected.rows)))
    except QueryError:
        return 0.0
    return float(_same(expected, found, ordered=_asks_for_order(reference)))


@lru_cache(maxsize=4096)
def _reference_result(db_path: str, _modified: int, reference: str) -> Rows:
    try:
        return run_query(db_path, reference, seconds=_REFERENCE_SECONDS, max_rows=_MAX_REFERENCE_ROWS)
    except QueryError as error:
        raise ValueError(f"the reference query does not run on `{db_path}`: {error}; the query was `{reference}`") from error


def _same(expected: Rows, found: Rows, *, ordered: bool) -> bool:
    if found.truncated or found.columns != expected.columns or len(found.rows) != len(expected.rows):
        return False
    left = [tuple(map(_comparable, row)) for row in expected.rows]
    right = [tuple(map(_comparable, row)) for row in found.rows]
    return left == right if ordered else Counter(left) == Counter(right)


def _comparable(value: Value) -> Value:
    return round(value, _DECIMALS) if isinstance(value, float) else value


def _asks_for_order(sql: str) -> bool:
    """Whether an ORDER BY stands at the top level; one inside a sub-query or a window says nothing about the order of the result."""
    bare = re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", "''", sql)
    while (shorter := re.sub(r"\([^()]*\)", " ", bare)) != bare:
        bare = shorter
    return re.search(r"\border\s+by\b", bare, re.IGNORECASE) is not None
