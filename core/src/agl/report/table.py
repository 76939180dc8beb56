"""The table of before and after for a terminal."""

from __future__ import annotations

from rich.table import Table

from agl.report.intervals import Estimate
from agl.report.pairs import KindRow, by_kind, total
from agl.results import Evaluation


def before_after_table(before: Evaluation, after: Evaluation, by: str = "kind") -> Table:
    """Mean reward before and after per value of a task's field, and over all tasks with 95 % intervals.

    Args:
        by: the field; when no task has it, the table has the total alone.
    """
    table = Table()
    table.add_column(by, overflow="fold")
    for name in ("n", "before", "after", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in by_kind(before, after, by):
        table.add_row(*_cells(row, intervals=False))
    table.add_section()
    table.add_row(*_cells(total(before, after), intervals=True), style="bold")
    return table


def _cells(row: KindRow, *, intervals: bool) -> list[str]:
    shown = [_text(row.before, intervals), _text(row.after, intervals), _text(row.change, intervals, sign="+")]
    return [row.kind.replace("[", "\\["), row.n, *shown]  # rich would read `[…]` as markup


def _text(found: Estimate | None, intervals: bool, sign: str = "") -> str:
    if found is None:
        return "–"
    mean = f"{found.mean:{sign}.3f}"
    if not intervals or found.low is None or found.high is None:
        return mean
    return f"{mean}\n{found.low:{sign}.2f} to {found.high:{sign}.2f}"
