"""Task: one JSON input of an agent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, cast

import msgspec

from agl.errors import ConfigError


class Mode(StrEnum):
    """What a rollout is for."""

    TRAIN = "train"
    """Its calls may be learned from."""
    VAL = "val"
    """It measures a version during learning."""
    TEST = "test"
    """It measures the result; nothing is chosen by it."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One input for the agent, as the user's dataset has it."""

    task_id: str
    """The dataset's own `id` or `task_id`, else a hash of the content: stable between runs."""
    data: dict[str, Any]
    """The user's dict, JSON-encodable."""
    mode: Mode = Mode.TRAIN


def make_tasks(dataset: Any, mode: Mode, name: str) -> list[Task]:
    """Tasks of a dataset: a sequence of dicts with JSON values.

    numpy scalars are converted; NaN, which pandas writes for a missing value, becomes None.

    Raises:
        ConfigError: not a sequence of dicts, empty, two tasks with one id, or a value that JSON cannot hold.
    """
    if not isinstance(dataset, Iterable) and hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):  # as torch's datasets
        dataset = [dataset[index] for index in range(len(dataset))]
    if isinstance(dataset, (str, bytes, dict)) or not isinstance(dataset, Iterable):
        raise ConfigError(
            f"`{name}` must be a sequence of dicts, given was {type(cast(object, dataset)).__name__}; "
            "a pandas DataFrame becomes one with `.to_dict('records')`"
        )
    rows: Sequence[Any] = list(cast(Iterable[Any], dataset))
    if rows and isinstance(rows[0], str):  # also what iterating a DataFrame gives
        raise ConfigError(
            f"`{name}` gives strings, not dicts; a pandas DataFrame becomes a dataset with `.to_dict('records')`, "
            'a list of texts with `[{"input": text} for text in texts]`'
        )
    if not rows:
        raise ConfigError(f"`{name}` is empty; it needs at least one task")
    tasks: list[Task] = []
    seen: dict[str, int] = {}
    for index, row in enumerate(rows):
        task = _make_task(row, mode, f"{name}[{index}]")
        if task.task_id in seen and _given_id(row) is not None:
            raise ConfigError(f"`{name}[{index}]` has the id `{task.task_id}` of `{name}[{seen[task.task_id]}]`; ids must differ")
        seen[task.task_id] = index
        tasks.append(task)
    return tasks


def _make_task(row: Any, mode: Mode, where: str) -> Task:
    if not isinstance(row, dict):
        raise ConfigError(f"`{where}` must be a dict, given was {type(row).__name__}")
    try:
        encoded = msgspec.json.encode(row, enc_hook=_plain, order="sorted")
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"`{where}` cannot be stored as JSON: {error}") from None
    given = _given_id(cast(dict[str, Any], row))
    task_id = str(given) if given is not None else hashlib.sha256(encoded).hexdigest()[:16]
    return Task(task_id=task_id, data=msgspec.json.decode(encoded), mode=mode)


def _given_id(row: dict[str, Any]) -> Any:
    return row["id"] if row.get("id") is not None else row.get("task_id")


def _plain(value: Any) -> Any:
    """A numpy scalar or array as plain Python (what `to_dict('records')` leaves in)."""
    convert = getattr(value, "tolist", None)
    if convert is None:
        raise TypeError(f"a {type(value).__name__} is not JSON")
    return convert()
