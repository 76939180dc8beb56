"""The mailbox: asking waits for its own answer, a word lets go who waits for it."""

from __future__ import annotations

import asyncio

from agl_verl.mailbox import Mailbox


async def test_every_question_gets_its_own_answer_whatever_the_order() -> None:
    mailbox = Mailbox()
    asking = [asyncio.ensure_future(mailbox.ask(word)) for word in ("first", "second")]
    taken = [await mailbox.take(), await mailbox.take()]
    for number, word in reversed(taken):
        await mailbox.answer(number, word.upper())
    assert await asyncio.gather(*asking) == ["FIRST", "SECOND"]


async def test_a_word_may_be_said_before_or_after_somebody_waits_for_it() -> None:
    mailbox = Mailbox()
    waiting = asyncio.ensure_future(mailbox.wait("go"))
    await asyncio.sleep(0)
    assert not waiting.done()
    await mailbox.say("go")
    await asyncio.wait_for(waiting, 1)
    await asyncio.wait_for(mailbox.wait("go"), 1)
