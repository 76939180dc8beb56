"""Resuming: which run of a store goes on. A store may be shared by machines, the files of a run are on one of them."""

from __future__ import annotations

from pathlib import Path

from agl.errors import ConfigError
from agl.store.base import RunRecord, Store


async def run_to_resume(store: Store, asked: str) -> RunRecord:
    """The run of an id, or with `latest` the latest unfinished one whose checkpoints are on this machine.

    Raises:
        NotFoundError: there is no run of that id.
        ConfigError: it is done, its files are not here, or no run is unfinished.
    """
    if asked != "latest":
        record = await store.run(asked)
        if record.status == "done":
            raise ConfigError(f"run `{record.run_id}` is done; start a new one without `resume`")
        if not _is_here(record):
            raise ConfigError(
                f"run `{record.run_id}` of store `{store.where}` cannot go on here: its checkpoints are in `{record.directory}`, "
                "which this machine does not have; go on where it began, or bring that folder here"
            )
        return record
    unfinished = [record for record in await store.runs() if record.status != "done"]
    if here := [record for record in unfinished if _is_here(record)]:
        return here[-1]
    elsewhere = f" on this machine; {len(unfinished)} began on others" if unfinished else " to go on with"
    raise ConfigError(f"store `{store.where}` has no unfinished run{elsewhere}; start one without `resume`, `agl runs` lists all")


def _is_here(record: RunRecord) -> bool:
    return Path(record.directory).is_dir()
