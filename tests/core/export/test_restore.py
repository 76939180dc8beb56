"""Rollouts that ended elsewhere, put into a store."""

import asyncio

import pytest

from agl.errors import StoreError
from agl.store.sqlite import SQLiteStore
from agl.testing.memory import MemoryStore


async def test_what_is_there_already_is_refused_and_nothing_of_the_rest_is_kept(maker, tmp_path):
    old = maker.rollout(reward=1.0)
    store = SQLiteStore(await asyncio.to_thread(maker.write, tmp_path / "store.sqlite"))
    new = maker.rollout(reward=0.0)
    with pytest.raises(StoreError, match=f"rollout `{old.rollout.rollout_id}` is there already"):
        await store.restore([new, old])
    assert await store.find("run-1") == [old.rollout.rollout_id]
    await store.restore([new])
    assert [result.reward for result in await store.results(await store.find("run-1"))] == [1.0, 0.0]
    assert await store.claim("run-1", "w") == []
    store.close()


async def test_a_store_that_cannot_says_where_to_import(maker):
    with pytest.raises(StoreError, match="the store MemoryStore takes no rollouts of others; import into an SQLite file"):
        await MemoryStore().restore([maker.rollout(reward=1.0)])
