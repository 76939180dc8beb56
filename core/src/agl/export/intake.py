"""The import itself: from a file into a store, as a run from which algorithms and reports may read."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import msgspec

from agl.console import Console
from agl.errors import ConfigError, DataError, NotFoundError, RewardError
from agl.export.columns import About, TransitionFiles
from agl.export.examples import read_example
from agl.export.made import made_rollout
from agl.export.openenv import is_trace, read_trace
from agl.export.outward import run_apart
from agl.results import RolloutResult
from agl.roles import Roles
from agl.rollouts import new_id
from agl.store.base import RunRecord, Store
from agl.store.opening import StoreSpec, opened
from agl.tasks import Mode
from agl.transitions import transitions_of

AT_ONCE = 64
"""Rollouts that are written together."""
TABLES = (".parquet", ".arrow")


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What was imported."""

    run_id: str
    rollouts: int
    answers: int
    step: int
    """The last step that one of the rollouts is of."""
    untrained: dict[str, int]
    """Answers that no policy loss may take, by reason."""

    def summary(self) -> str:
        """In one line."""
        reasons = "".join(f"; not trained: {count}, {why}" for why, count in self.untrained.items())
        return f"run {self.run_id}: {self.rollouts} rollouts with {self.answers} answers{reasons}"


class Records:
    """Examples and traces in a file of JSON lines or JSON.

    Args:
        mode: of the rollouts, which the file does not tell.
        version: of the weights that sampled, for traces.
    """

    about = About()

    def __init__(self, path: Path, mode: Mode, version: str | None) -> None:
        self._path, self._mode, self._version = path, mode, version

    def rollouts(self) -> Iterator[RolloutResult]:
        """The rollouts, in the order of the file; neighbours of one task of OpenEnv are siblings.

        Raises:
            DataError: a record is of no known form, or cannot be read.
        """
        group, sample, last_task = -1, 0, None
        for number, record in enumerate(_records(self._path), start=1):
            if self._version is not None and not is_trace(record):
                raise ConfigError(
                    f"record {number} of `{self._path}` is an example, of which no tokens are known, so that the version of the weights "
                    f"(`{self._version}`) has no effect; leave it out"
                )
            try:
                siblings = [read_trace(record, self._version)] if is_trace(record) else read_example(record)
                task = siblings[0].task_id
                group, sample = (group, sample + 1) if task is not None and task == last_task else (group + 1, 0)
                last_task = task
                for index, given in enumerate(siblings):
                    yield made_rollout(given, self._mode, group, sample + index)
            except (DataError, RewardError, msgspec.DecodeError, AttributeError, TypeError, KeyError) as error:
                raise DataError(f"record {number} of `{self._path}` cannot be read: {error}") from error


def import_file(
    store: StoreSpec,
    file: str | Path,
    *,
    run_id: str | None = None,
    split: str | None = None,
    weights_version: str | None = None,
    console: Console | None = None,
) -> Imported:
    """Make a run of a file: standard transitions, examples of TRL or OpenAI (.jsonl, .json), or training traces of OpenEnv.

    The file is read once before anything is written, so that one which cannot be read leaves the store as it was.

    Args:
        store: the SQLite file, which is made if it is not there, or whatever else `store=` of the Trainer takes.
        run_id: of the new run; by default the one in the file, else a fresh one.
        split: mode of the rollouts, where the file does not tell: `train`, `val` or `test`.
        weights_version: of the weights that sampled, where the file does not tell.
        console: where progress is shown; nowhere unless given.

    Raises:
        ConfigError: no such file, options that do not go with it, or the run is in the store already.
        DataError: the file cannot be read; the message says where.
    """
    source = _source(Path(file), split, weights_version)

    async def work(opened: Store) -> Imported:
        found = _look(source, run_id or source.about.run_id or new_id("run")[:12])
        await _refuse_known(opened, found.run_id, next(source.rollouts()).rollout.rollout_id)
        await _write(opened, source, found, Path(file), console or Console(quiet=True))
        return found

    def begin() -> Imported:
        with opened(store) as given:
            return asyncio.run(work(given))

    return run_apart(begin)


def _source(path: Path, split: str | None, version: str | None) -> TransitionFiles | Records:
    if not path.exists():
        raise ConfigError(f"there is no file `{path}`")
    if path.is_dir() or path.suffix in TABLES:
        if split is not None or version is not None:
            raise ConfigError(
                f"`{path}` holds standard transitions, which tell their mode and version: leave out split and weights version"
            )
        return TransitionFiles(path)
    if path.suffix not in (".jsonl", ".json"):
        raise ConfigError(f"`{path}` must be .parquet, .arrow, .jsonl or .json, or a folder with Parquet files")
    if split is not None and split not in set(Mode):
        raise ConfigError(f"`split` must be train, val or test, given was {split!r}")
    return Records(path, Mode(split or Mode.TRAIN), version)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        if path.suffix == ".json":
            whole: Any = msgspec.json.decode(path.read_bytes())
            yield from (cast(list[Any], whole) if isinstance(whole, list) else [whole])
            return
        with path.open("rb") as lines:
            yield from (msgspec.json.decode(line, type=dict[str, Any]) for line in lines if line.strip())
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"`{path}` cannot be read: {error}") from error


def _look(source: TransitionFiles | Records, run_id: str) -> Imported:
    """The whole file once: what is in it."""
    roles = Roles(source.about.config.get("agent_match"), source.about.config.get("roles"))
    rollouts = answers = step = 0
    untrained: Counter[str] = Counter()
    for result in source.rollouts():
        transitions = transitions_of(result.spans, roles.why_not)
        rollouts, answers, step = rollouts + 1, answers + len(transitions), max(step, result.rollout.step)
        untrained.update(item.untrained for item in transitions if item.untrained is not None)
    if not rollouts:
        raise DataError("the file is empty: there is no rollout in it")
    return Imported(run_id=run_id, rollouts=rollouts, answers=answers, step=step, untrained=dict(untrained))


async def _refuse_known(store: Store, run_id: str, rollout_id: str) -> None:
    if run_id in [record.run_id for record in await store.runs()]:
        raise ConfigError(f"run `{run_id}` is in store `{store.where}` already; give the new one another id (`--run`), or another store")
    try:
        await store.results([rollout_id])
    except NotFoundError:
        return
    raise ConfigError(f"rollouts of this file are in store `{store.where}` already; import it into another store (`--store`)")


async def _write(store: Store, source: TransitionFiles | Records, found: Imported, path: Path, console: Console) -> None:
    about = source.about
    await store.create_run(
        RunRecord(
            run_id=found.run_id,
            created_at=about.created_at or time.time(),
            status="running",
            step=found.step,
            seed=about.seed,
            config={"algorithm": "import", "file": path.name, **about.config},
            command=[],
            folder=os.getcwd(),
            directory=str(store.folder.absolute() / "runs" / found.run_id),
        )
    )
    status, left = "failed", source.rollouts()
    try:
        with console.rollouts("import", found.rollouts) as show:
            written = 0
            while portion := list(islice(left, AT_ONCE)):
                await store.restore([_of_run(result, found.run_id) for result in portion])
                written += len(portion)
                show(written)
        status = "done"
    finally:  # a run that stands only in part says so
        await store.update_run(found.run_id, status=status)


def _of_run(result: RolloutResult, run_id: str) -> RolloutResult:
    return msgspec.structs.replace(result, rollout=msgspec.structs.replace(result.rollout, run_id=run_id))
