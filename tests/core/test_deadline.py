"""An attempt's time stands still while its calls are held up, and runs on where they are not."""

import asyncio

import pytest

from agl.deadline import Deadline

TIME, HOLD = 0.2, 0.3


async def works(deadline, *seconds):
    """Whether all of the work was done in its time."""
    try:
        async with deadline:
            for some in seconds:
                await (some if asyncio.iscoroutine(some) else asyncio.sleep(some))
    except TimeoutError:
        return False
    return True


async def hold(deadline, seconds=HOLD):
    with deadline.held():
        await asyncio.sleep(seconds)


async def two_at_once(deadline):
    await asyncio.gather(hold(deadline), hold(deadline))


@pytest.mark.parametrize(("seconds", "ends"), [(None, True), (TIME, False)])
async def test_without_a_hold_it_is_a_timeout(seconds, ends):
    deadline = Deadline(seconds)
    assert await works(deadline, 2 * TIME) is ends
    assert (deadline.expired, deadline.held_seconds) == (not ends, 0.0)


@pytest.mark.parametrize("held", [hold, two_at_once])
async def test_what_was_held_does_not_count_and_what_follows_does(held):
    deadline = Deadline(TIME)
    assert await works(deadline, held(deadline))
    assert HOLD <= deadline.held_seconds < 2 * HOLD
    deadline = Deadline(TIME)
    assert not await works(deadline, held(deadline), 0.9 * (HOLD + TIME))  # within its time, had both been counted
    assert deadline.expired


async def test_two_holds_one_after_the_other_are_added():
    deadline = Deadline(TIME)
    assert await works(deadline, hold(deadline), hold(deadline))
    assert deadline.held_seconds >= 2 * HOLD


async def test_time_before_a_hold_counts():
    deadline = Deadline(TIME)
    assert not await works(deadline, 0.7 * TIME, hold(deadline), 0.7 * TIME)


async def test_a_hold_that_began_before_the_work_or_ends_after_it_does_no_harm():
    deadline = Deadline(TIME)
    holding = asyncio.ensure_future(hold(deadline))
    await asyncio.sleep(0)
    assert await works(deadline, 0.9 * HOLD)
    await holding
    assert 0 < deadline.held_seconds < HOLD + TIME
    assert not deadline.expired


async def test_a_hold_that_ends_when_the_time_was_over_does_no_harm():
    deadline = Deadline(TIME)
    assert not await works(deadline, 2 * TIME)
    await hold(deadline, 0)
    assert deadline.held_seconds == 0.0


async def test_a_cancellation_from_outside_stays_one():
    deadline = Deadline(TIME)
    work = asyncio.ensure_future(works(deadline, 60))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert not deadline.expired
