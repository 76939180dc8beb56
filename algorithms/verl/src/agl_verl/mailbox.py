"""Mailbox: a Ray actor through which VERL's process asks and AGL's answers. Nobody polls: every call waits until there is something."""

from __future__ import annotations

import asyncio
from typing import Any


class Mailbox:
    """An asynchronous actor; both sides reach it from any node of the cluster."""

    def __init__(self) -> None:
        self._asked: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._words: dict[str, asyncio.Event] = {}
        self._count = 0

    async def ask(self, message: Any) -> Any:
        """VERL's side: the answer to a message."""
        self._count += 1
        number = self._count
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._asked.put_nowait((number, message))
        return await answer

    async def take(self) -> tuple[int, Any]:
        """AGL's side: the next message, with its number."""
        return await self._asked.get()

    async def answer(self, number: int, value: Any) -> None:
        """AGL's side: the answer to the message of that number."""
        future = self._answers.pop(number)
        if not future.done():
            future.set_result(value)

    async def say(self, word: str) -> None:
        """AGL's side: lets go who waits for a word."""
        self._words.setdefault(word, asyncio.Event()).set()

    async def wait(self, word: str) -> None:
        """VERL's side: until the word is said."""
        await self._words.setdefault(word, asyncio.Event()).wait()
