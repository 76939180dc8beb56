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


async def test_who_waits_is_not_kept_waiting_by_spans_that_come_after(kept):
    class Endless(Kept):
        async def add_spans(self, spans):
            await super().add_spans(spans)
            recorder.add(make_span("ro", "at"))  # calls that go on and on

    endless = Endless()
    recorder = Recorder(endless)
    first = make_span("ro", "at")
    recorder.add(first)
    async with asyncio.timeout(5):
        await recorder.written()
    assert endless.writes == [[first]]
    Endless.add_spans = Kept.add_spans
    await recorder.stop()


async def test_spans_that_come_soon_after_each_other_are_written_together(recorder, kept):
    spans = [make_span("ro", "at") for _ in range(3)]
    for span in spans:
        recorder.add(span)
        await asyncio.sleep(0.001)
    await recorder.written()
    assert kept.writes == [spans]


async def test_a_span_that_cannot_be_made_takes_no_other_with_it_and_is_told(recorder, kept):
    good = [make_span("ro", "at") for _ in range(2)]
    recorder.add(lambda: good[0])
    recorder.add(lambda: 1 / 0)
    recorder.add(good[1])
    with pytest.raises(ZeroDivisionError):
        await recorder.written()
    assert kept.writes == [good]
