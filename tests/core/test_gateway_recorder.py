"""The recorder writes every span it took, also those that are made later."""

import asyncio

import pytest

from agl.gateway.recorder import Recorder
from agl.testing.running import make_span


class Kept:
    """A store that keeps what it is given, slowly."""

    def __init__(self):
        self.writes = []

    async def add_spans(self, spans):
        await asyncio.sleep(0)
        self.writes.append(list(spans))


@pytest.fixture
def kept():
    return Kept()


@pytest.fixture
def recorder(kept):
    return Recorder(kept)


async def test_a_span_is_made_after_the_task_that_gave_it_let_go(recorder, kept):
    made = []
    recorder.add(lambda: made.append(1) or make_span("ro", "at"))
    assert not made
    await recorder.written()
    assert [len(spans) for spans in kept.writes] == [1]


async def test_written_returns_when_what_came_up_meanwhile_is_written_too(recorder, kept):
    first, second = make_span("ro", "at"), make_span("ro", "at")
    recorder.add(first)
    waiting = asyncio.ensure_future(recorder.written())
    await asyncio.sleep(0)
    recorder.add(lambda: second)
    await waiting
    assert kept.writes == [[first], [second]]


async def test_a_span_that_cannot_be_made_takes_no_other_with_it_and_is_told(recorder, kept):
    good = [make_span("ro", "at") for _ in range(2)]
    recorder.add(lambda: good[0])
    recorder.add(lambda: 1 / 0)
    recorder.add(good[1])
    with pytest.raises(ZeroDivisionError):
        await recorder.written()
    assert kept.writes == [good]
