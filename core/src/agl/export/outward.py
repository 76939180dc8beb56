"""The export itself: from a store into one file or folder."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from agl.console import Console
from agl.errors import ConfigError, DataError, NotFoundError
from agl.export.calls import text
from agl.export.fine_tuning import LEAST_EXAMPLES
from agl.export.formats import FORMATS, check_suffix, maker, writer
from agl.export.schema import RUN_KEY
from agl.export.source import Choice, Source
from agl.export.whole import whole
from agl.plugins import Plugins
from agl.store.base import RunRecord, Store
from agl.store.opening import StoreSpec, opened, path_of
from agl.tasks import Mode

T = TypeVar("T")


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What was exported."""

    path: Path
    rows: int
    rollouts: int
    """That rows were made of, or could have been."""
    left_out: dict[str, int]
    """What was not, by reason."""

    def summary(self) -> str:
        """In one line."""
        left_out = "; left out: " + ", ".join(f"{count} {why}" for why, count in self.left_out.items()) if self.left_out else ""
        return f"{self.path}: {self.rows} rows of {self.rollouts} rollouts{left_out}"


def export_run(
    store: StoreSpec,
    run_id: str,
    to: str,
    out: str | Path,
    *,
    split: str | None = None,
    best: bool = False,
    min_reward: float | None = None,
    late: bool = False,
    label_at: float | None = None,
    force: bool = False,
    plugins: Plugins | None = None,
    console: Console | None = None,
) -> Exported:
    """Write a run's rollouts as a file that others read. The file appears whole or not at all.

    Works from any thread, with or without a running event loop, and on a run that is not finished. A few groups of rollouts
    are in memory at a time.

    Args:
        store: the SQLite file, or whatever else `store=` of the Trainer takes.
        to: a name of `FORMATS`.
        out: the file or folder.
        split: only rollouts of this mode: `train`, `val` or `test`.
        best: only the best rollout of each group.
        min_reward: only rollouts with at least this final reward.
        late: only rollouts with a reward that came when their step was over.
        label_at: for `trl-kto`: answers whose own reward is at least this are good.
        force: replace what is there.
        plugins: one of them assigns credit; by default the installed ones.
        console: where progress is shown; nowhere unless given.

    Raises:
        ConfigError: options that do not go together, a file that is there already, or no pyarrow.
        NotFoundError: no such store or run.
        DataError: nothing is left to write.
    """
    _check(to, split, best, min_reward, label_at)
    target = Path(out)
    check_suffix(to, target)
    path = path_of(store)
    if path is not None and not path.exists():  # opening it would make one
        raise NotFoundError(f"no store at `{path}`; give the path of the `store.sqlite` that the run was made with")
    choice = Choice(mode=split, best=best, min_reward=min_reward, late=late)

    async def work(store: Store) -> Exported:
        source = Source(store, await store.run(run_id), choice, plugins or Plugins())
        with whole(target, replace=force, entries=FORMATS[to].entries) as partial:
            return await _write(source, to, partial, target, label_at, console or Console(quiet=True))

    def begin() -> Exported:
        with opened(store) as given:
            return asyncio.run(work(given))

    return run_apart(begin)


def run_apart(work: Callable[[], T]) -> T:
    """Call what starts an event loop of its own: in a thread where this one runs a loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()  # here, so that Ctrl-C reaches it
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def _check(to: str, split: str | None, best: bool, min_reward: float | None, label_at: float | None) -> None:
    if to not in FORMATS:
        raise ConfigError(f"there is no format `{to}`; there are {', '.join(FORMATS)}")
    if split is not None and split not in set(Mode):
        raise ConfigError(f"`split` must be train, val or test, given was {split!r}")
    if FORMATS[to].judges and (best or min_reward is not None):
        raise ConfigError(f"`{to}` takes good and bad rollouts: leave out `best` and `min_reward`")
    if (label_at is not None) != (to == "trl-kto"):
        raise ConfigError("`trl-kto` needs `label_at`, the reward from which on an answer is good; the other formats do not take it")


async def _write(source: Source, to: str, partial: Path, target: Path, label_at: float | None, console: Console) -> Exported:
    make, lost = maker(to, source.roles, label_at)
    ids = await source.ids()
    rows = rollouts = 0
    without: Counter[str] = Counter()
    with writer(to, partial, target, {RUN_KEY: text(_of_run(source.record))}) as file, console.rollouts("export", len(ids)) as show:
        async for group in source.groups(ids):
            rollouts += len(group)
            if none := sum(not result.transitions for result in group):
                without["rollouts without an LLM call"] += none
            if made := list(make(group)):
                file.write(made)
                rows += len(made)
            show(source.read)
        left_out = {f"rollouts {why}": count for why, count in source.left_out.items()} | dict(without) | dict(lost)
        if not rows:
            reasons = ", ".join(f"{count} {why}" for why, count in left_out.items()) or "it has no rollouts of this kind"
            raise DataError(f"nothing of run `{source.record.run_id}` can be written as `{to}`: {reasons}")
    if to == "openai-jsonl" and rows < LEAST_EXAMPLES:
        console.say(f"OpenAI's API takes no less than {LEAST_EXAMPLES} examples; these are {rows}")
    return Exported(path=target, rows=rows, rollouts=rollouts, left_out=left_out)


def _of_run(record: RunRecord) -> dict[str, object]:
    """What a reader needs to know of the run. Not its whole configuration, which may hold keys."""
    config = {name: record.config.get(name) for name in ("agent_match", "roles")}
    return {"run_id": record.run_id, "created_at": record.created_at, "seed": record.seed, "config": config}
