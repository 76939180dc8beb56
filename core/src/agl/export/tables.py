"""Columnar files: Parquet, Arrow, and the folder of Parquet files that Hugging Face's `load_dataset` reads."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agl.errors import DataError
from agl.export.schema import arrow

ROWS, BYTES = 10_000, 64 * 2**20
"""Most rows and bytes (as Arrow holds them) of one row group: what is in memory while a file is written."""

Rows = Sequence[Mapping[str, Any]]


class ColumnFile:
    """A file that is written batch by batch.

    Args:
        kind: `parquet` or `arrow`.
        schema: Arrow's; columns that are not in a row are null.
        stored_as: Arrow schema of the file, where it differs: types that Arrow cannot make from Python's objects.
    """

    def __init__(self, path: Path, kind: str, schema: Any, stored_as: Any = None) -> None:
        self._schema, self._stored_as = schema, stored_as
        written = schema if stored_as is None else stored_as
        if kind == "parquet":
            self._writer = arrow("pyarrow.parquet").ParquetWriter(str(path), written, compression="zstd")
        else:
            self._writer = arrow("pyarrow.ipc").new_file(str(path), written)
        self._batches: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._writer.close()

    def write(self, rows: Rows) -> None:
        """Add rows.

        Raises:
            DataError: a value does not fit its column.
        """
        pyarrow = arrow()
        try:
            batch = pyarrow.RecordBatch.from_pylist(list(rows), schema=self._schema)
        except (pyarrow.ArrowException, TypeError, OverflowError, UnicodeError) as error:
            raise DataError(f"rows of rollout `{rows[0].get('rollout_id')}` do not fit the table: {error}") from error
        self._batches.append(batch if self._stored_as is None else batch.cast(self._stored_as))
        if sum(held.num_rows for held in self._batches) >= ROWS or sum(held.nbytes for held in self._batches) >= BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._batches:
            self._writer.write_table(arrow().Table.from_batches(self._batches).combine_chunks())
            self._batches = []


SPLITS = {"train": "train", "val": "validation", "test": "test"}
"""Hugging Face's names of the modes."""


class DatasetFolder:
    """A folder that `datasets.load_dataset` reads, and that can be pushed to the Hub as it is: a Parquet file per mode."""

    def __init__(self, path: Path, schema: Any, title: str) -> None:
        self._data = path / "data"
        self._data.mkdir(parents=True)
        self._path, self._schema, self._title = path, schema, title
        self._files: dict[str, ColumnFile] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, where)
        if kind is None:
            (self._path / "README.md").write_text(_card(self._title, sorted(self._files)), encoding="utf-8")

    def write(self, rows: Rows) -> None:
        """Add rows of one mode.

        Raises:
            DataError: a value does not fit its column.
        """
        split = SPLITS[rows[0]["mode"]]
        if split not in self._files:
            file = ColumnFile(self._data / f"{split}.parquet", "parquet", self._schema)
            self._files[split] = self._stack.enter_context(file)
        self._files[split].write(rows)


def _card(title: str, splits: Sequence[str]) -> str:
    files = "".join(f"  - split: {split}\n    path: data/{split}.parquet\n" for split in splits)
    return f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n# {title}\n\nOne row per answer of an LLM call.\n"
