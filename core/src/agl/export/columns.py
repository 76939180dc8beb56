"""Reading columnar files: Parquet, Arrow, and folders of them, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from agl.errors import DataError
from agl.export.rollout_rows import rollout_from
from agl.export.schema import RUN_KEY, SCHEMA_VERSION, VERSION_KEY, arrow, arrow_schema
from agl.results import RolloutResult

ROWS_AT_ONCE = 256


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What a file of standard transitions says of its run."""

    run_id: str | None = None
    created_at: float = 0.0
    seed: int = 0
    config: dict[str, Any] = {}


class TransitionFiles:
    """Standard transitions in one file, or in the Parquet and Arrow files of a folder.

    Raises:
        DataError: there are none, or they are not of this schema.
    """

    def __init__(self, path: Path) -> None:
        found = sorted(item for item in path.rglob("*") if item.suffix in (".parquet", ".arrow")) if path.is_dir() else [path]
        if not found:
            raise DataError(f"`{path}` has no .parquet or .arrow files in it")
        self._files = found
        self.about = [_check(file) for file in found][0]  # noqa: RUF015 - each is checked

    def rollouts(self) -> Iterator[RolloutResult]:
        """The rollouts, in the order of the file.

        Raises:
            DataError: rows contradict each other, or hold what cannot be.
        """
        for file in self._files:
            for _, rows in groupby(_rows(file), key=lambda row: row["rollout_id"]):
                yield rollout_from(list(rows))


def _check(path: Path) -> About:
    """What a file says of its run, when this schema can read it."""
    with _opened(path) as file:
        schema = file.schema if path.suffix == ".arrow" else file.schema_arrow
    metadata: dict[bytes, bytes] = schema.metadata or {}
    version = metadata.get(VERSION_KEY.encode(), b"").decode()
    missing = [name for name in arrow_schema().names if name not in schema.names]
    if version and (not version.isdigit() or int(version) > SCHEMA_VERSION):
        raise DataError(f"`{path}` has version {version} of the schema, this agl-core knows {SCHEMA_VERSION}: upgrade agl-core")
    if missing:
        raise DataError(f"`{path}` is no table of standard transitions: it lacks the columns {missing[:5]}; it has {schema.names[:10]}")
    try:
        return msgspec.json.decode(metadata.get(RUN_KEY.encode(), b"{}"), type=About)
    except msgspec.DecodeError as error:
        raise DataError(f"`{path}` says of its run what cannot be read: {error}") from error


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    schema = arrow_schema()
    with _opened(path) as file:
        for batch in _batches(file, path):
            try:
                typed = arrow().Table.from_batches([batch]).select(schema.names).cast(schema)
            except (arrow().ArrowException, ValueError) as error:
                raise DataError(f"`{path}` does not fit the schema: {error}") from error
            yield from typed.to_pylist()


def _opened(path: Path) -> Any:
    try:
        if path.suffix != ".arrow":
            return arrow("pyarrow.parquet").ParquetFile(str(path))
        with path.open("rb") as file:
            is_file = file.read(6) == b"ARROW1"
        # `Dataset.save_to_disk` writes streams under the same suffix.
        return arrow("pyarrow.ipc").open_file(str(path)) if is_file else arrow("pyarrow.ipc").open_stream(arrow().OSFile(str(path)))
    except (arrow().ArrowException, OSError) as error:
        raise DataError(f"`{path}` cannot be read: {error}") from error


def _batches(file: Any, path: Path) -> Iterator[Any]:
    if path.suffix != ".arrow":
        yield from file.iter_batches(ROWS_AT_ONCE)
        return
    is_file = hasattr(file, "num_record_batches")
    for batch in (file.get_batch(number) for number in range(file.num_record_batches)) if is_file else file:
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            yield batch.slice(start, ROWS_AT_ONCE)
