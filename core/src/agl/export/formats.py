"""The formats by name: what of a group goes into the file, and how the file is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from agl.errors import ConfigError
from agl.export.calls import text
from agl.export.fine_tuning import FineTuning
from agl.export.rows import table_rows
from agl.export.schema import arrow, arrow_schema
from agl.export.tables import ColumnFile, DatasetFolder, Rows
from agl.export.trl import TRL
from agl.results import RolloutResult
from agl.roles import Roles

Make = Callable[[Sequence[RolloutResult]], Iterator[dict[str, Any]]]
_MESSAGES = frozenset({"messages", "prompt", "completion", "chosen", "rejected"})


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """One format of files."""

    about: str
    suffixes: tuple[str, ...]
    """Of the file's name, the default first; `` is a folder."""
    judges: bool = False
    """Whether it needs good and bad rollouts, so that choosing the good ones makes no sense."""
    columns: tuple[str, ...] = ()
    """Of TRL's examples."""
    entries: tuple[str, ...] = ()
    """What a folder of this format holds."""


FORMATS = {
    "parquet": Format(about="standard transitions", suffixes=(".parquet",)),
    "arrow": Format(about="standard transitions, as an Arrow IPC file", suffixes=(".arrow",)),
    "hf": Format(about="standard transitions, as a folder for `datasets.load_dataset`", suffixes=("",), entries=("README.md", "data")),
    "trl-sft": Format(about="whole conversations", suffixes=(".jsonl", ".parquet"), columns=("messages", "tools")),
    "trl-prompt-completion": Format(
        about="each answer with its prompt", suffixes=(".jsonl", ".parquet"), columns=("prompt", "completion", "tools")
    ),
    "trl-grpo": Format(
        about="the first prompt of each task", suffixes=(".jsonl", ".parquet"), judges=True, columns=("prompt", "tools", "task_id", "task")
    ),
    "trl-dpo": Format(
        about="a better and a worse answer to one prompt",
        suffixes=(".jsonl", ".parquet"),
        judges=True,
        columns=("prompt", "chosen", "rejected", "tools"),
    ),
    "trl-kto": Format(
        about="each answer, labelled good or bad",
        suffixes=(".jsonl", ".parquet"),
        judges=True,
        columns=("prompt", "completion", "label", "tools"),
    ),
    "openai-jsonl": Format(about="OpenAI's supervised fine-tuning", suffixes=(".jsonl",)),
}


class Writer(Protocol):
    """Where rows go."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None: ...

    def write(self, rows: Rows) -> None:
        """Add rows, at least one."""
        ...


class Lines:
    """A file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._file.close()

    def write(self, rows: Rows) -> None:
        """Add rows."""
        self._file.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def maker(name: str, roles: Roles, label_at: float | None) -> tuple[Make, Counter[str]]:
    """What makes the rows of a group, and its count of what it leaves out."""
    if name == "openai-jsonl":
        lines = FineTuning(roles)
        return lines.lines, lines.left_out
    if name.startswith("trl-"):
        examples = TRL(roles, label_at)
        return getattr(examples, name.removeprefix("trl-").replace("-", "_")), examples.left_out
    return (lambda group: (row for result in group for row in table_rows(result))), Counter()


def writer(name: str, path: Path, final: Path, metadata: dict[str, str]) -> Writer:
    """What writes a format.

    Args:
        path: to write to.
        final: the name that it will have; its suffix says which kind of file.
        metadata: of the run, for the standard transition.
    """
    if name == "hf":
        return DatasetFolder(path, arrow_schema(metadata), f"Transitions of {final.name}")
    if name in ("parquet", "arrow"):
        return ColumnFile(path, name, arrow_schema(metadata))
    return Lines(path) if final.suffix == ".jsonl" else _Examples(path, FORMATS[name].columns)


def check_suffix(name: str, path: Path) -> None:
    """Refuse a file name that says another format.

    Raises:
        ConfigError: its suffix is none of the format's.
    """
    suffixes = FORMATS[name].suffixes
    if path.suffix not in suffixes and "" not in suffixes:
        raise ConfigError(f"`{path}` must end with {' or '.join(suffixes)} for `{name}`")


class _Examples:
    """TRL's examples as Parquet. Each message is Arrow's JSON, which `datasets` reads as an object, whatever keys it has."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        pyarrow = arrow()
        others = {"label": pyarrow.bool_()}
        schemas = [
            pyarrow.schema([(name, pyarrow.list_(json) if name in _MESSAGES else others.get(name, pyarrow.string())) for name in columns])
            for json in (pyarrow.string(), pyarrow.json_())
        ]
        self._file = ColumnFile(path, "parquet", *schemas)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._file.__exit__(kind, error, where)

    def write(self, rows: Rows) -> None:
        """Add examples."""
        self._file.write([{name: list(map(text, value)) if name in _MESSAGES else value for name, value in row.items()} for row in rows])
