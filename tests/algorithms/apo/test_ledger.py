"""The ledger: in the store before anything goes on, refused when it is another search's."""

import asyncio
from types import SimpleNamespace

import pytest

from agl.errors import ConfigError, DataError, StoreError
from agl.testing.memory import MemoryStore
from agl.testing.running import RUN, make_record
from agl_apo.ledger import Event, Ledger, answer_of, answers
from agl_apo.moves import Draw, Proposal

ABOUT = {"seed": 1, "texts": {"p": "x"}}


@pytest.fixture
async def run():
    """As much of a run as a ledger sees."""
    store = MemoryStore()
    await store.create_run(make_record())
    return SimpleNamespace(id=RUN, store=store)


def draw(task, reward=1.0):
    return Draw(task_id=task, reward=reward, rollout_id=f"ro-{task}")


async def test_what_was_appended_is_there_in_another_process(run):
    ledger = await Ledger.of(run)
    assert ledger.begun is None
    assert await ledger.begin(ABOUT) is False
    await ledger.append(Event(event="draw", at=1.0, move=0, place=1, draw=draw("b", None)))
    await ledger.append(Event(event="draw", at=1.5, move=0, place=0, draw=draw("a")))
    await ledger.append(Event(event="answered", at=2.0, move=0))
    await ledger.append(Event(event="answered", at=3.0, move=1, proposal=Proposal(text="y", hypothesis="h", cost=0.5)))
    again = await Ledger.of(run)
    assert again.begun == {"format": 1, **ABOUT}
    assert await again.begin(ABOUT) is True
    assert again.seconds == 3.0
    told = [answer_of(event, answers(again.events)) for event in again.events if event.event == "answered"]
    assert told == [[draw("a"), draw("b", None)], Proposal(text="y", hypothesis="h", cost=0.5)]


async def test_an_event_counts_when_the_store_has_it_and_not_before(run):
    ledger, held, go = await Ledger.of(run), asyncio.Event(), asyncio.Event()
    await ledger.begin(ABOUT)
    append = run.store.add_events

    async def slow(run_id, events):
        held.set()
        await go.wait()
        await append(run_id, events)

    run.store.add_events = slow
    appending = asyncio.ensure_future(ledger.append(Event(event="answered", move=0)))
    await held.wait()
    assert [event.event for event in ledger.events] == ["begin"]
    appending.cancel()  # what was paid for is kept all the same
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await appending
    assert [event.event for event in ledger.events] == [event["event"] for event in await run.store.journal(RUN)] == ["begin", "answered"]


async def test_an_event_that_the_store_does_not_take_is_an_error(run):
    ledger = await Ledger.of(run)
    await ledger.begin(ABOUT)
    run.store.close()
    with pytest.raises(StoreError, match="is closed"):
        await ledger.append(Event(event="answered", move=0))
    assert len(ledger.events) == 1


async def test_another_searchs_ledger_is_refused_with_what_differs(run):
    await (await Ledger.of(run)).begin(ABOUT)
    with pytest.raises(
        ConfigError, match=r"run `run-kit` of store `memory \d+` can only go on as it was begun: `texts` was \{'p': 'x'\} and is"
    ):
        await (await Ledger.of(run)).begin({**ABOUT, "texts": {"p": "z"}})


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (
            [{"event": "begin", "about": {"format": 1}}, {"event": "draw", "move": "x"}],
            "event 2 in .* cannot be read: Expected `int . null`, got `str`",
        ),
        ([{"event": "begin", "about": {"format": 9}}], "has no ledger of format 1; another version of agl-apo wrote it"),
        ([{"event": "answered", "move": 1}], "has no ledger of format 1"),
    ],
)
async def test_a_ledger_that_cannot_be_read_is_an_error_and_not_an_empty_one(run, events, said):
    await run.store.add_events(RUN, events)
    with pytest.raises(DataError, match=said):
        await Ledger.of(run)
