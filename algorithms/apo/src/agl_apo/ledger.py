"""Ledger: every answer of the world to a search, in order, in the run's journal, which survives the death of the process.

An event is in the store before the search is told. A search is a function of its seed and of the answers in their order, so
that telling it the ledger again brings it to where it was. A draw has an event of its own: what a half-finished move has brought is kept.

| event | is |
|---|---|
| `begin` | first event: what the search was made with |
| `draw` | one rollout of a move, at its place |
| `answered` | a move's answer is whole, and the search was told |
| `hurry` | the search was told to end |
| `end` | the outcome |
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from agl.errors import ConfigError, DataError
from agl.runs import Run
from agl_apo.moves import Answer, Draw, Evaluate, Move, Proposal, Propose

FORMAT = 1
"""Of the events; those that a newer version wrote are refused."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event."""

    event: str
    at: float = 0.0
    """Seconds that the search had run, its earlier processes included."""
    move: int | None = None
    """Number of the move."""
    place: int | None = None
    """Of a draw: which of the move's tasks it was on."""
    draw: Draw | None = None
    proposal: Proposal | None = None
    about: dict[str, Any] = {}
    """Of a `begin`: format, seed, texts, tasks, options. Of an answer: what was asked, for readers. Of a `hurry`: `reason` and `most`."""


class Ledger:
    """The events of one run, and how more are kept.

    Args:
        run: whose journal they are in.
    """

    def __init__(self, run: Run) -> None:
        self.where = f"run `{run.id}` of store `{run.store.where}`"
        """For messages."""
        self.events: list[Event] = []
        """All events, those of earlier processes first."""
        self._run = run

    @classmethod
    async def of(cls, run: Run) -> Ledger:
        """The ledger of a run, with what its earlier processes kept.

        Raises:
            DataError: it cannot be read.
        """
        ledger = cls(run)
        for number, event in enumerate(await run.store.journal(run.id), 1):
            try:
                ledger.events.append(msgspec.convert(event, Event))
            except msgspec.ValidationError as error:
                raise DataError(
                    f"event {number} in the journal of {ledger.where} cannot be read: {error}; the run cannot go on from it"
                ) from None
        if ledger.events and (ledger.events[0].event != "begin" or ledger.events[0].about.get("format") != FORMAT):
            raise DataError(f"{ledger.where} has no ledger of format {FORMAT}; another version of agl-apo wrote it")
        return ledger

    @property
    def begun(self) -> dict[str, Any] | None:
        """What it was begun with; None when it is new."""
        return self.events[0].about if self.events else None

    async def begin(self, about: Mapping[str, Any]) -> bool:
        """Begin it, or go on with what is there.

        Args:
            about: what the search is made with, as JSON; an old ledger must have been begun with the same.

        Returns:
            Whether there was something.

        Raises:
            ConfigError: it was begun with something else.
        """
        about = msgspec.json.decode(msgspec.json.encode({"format": FORMAT, **about}))
        if (begun := self.begun) is None:
            await self.append(Event(event="begin", about=about))
            return False
        if differs := sorted(name for name in {*begun, *about} if begun.get(name) != about.get(name)):
            values = "; ".join(f"`{name}` was {_short(begun.get(name))} and is {_short(about.get(name))}" for name in differs)
            raise ConfigError(f"the search of {self.where} can only go on as it was begun: {values}. Start a new run for a new search")
        return True

    async def append(self, event: Event) -> None:
        """Keep one event: it is in the store when this returns, also when the caller is cancelled meanwhile, since it is paid for.

        Raises:
            StoreError: the store cannot keep it.
        """
        keeping = asyncio.ensure_future(self._append(event))
        try:
            await asyncio.shield(keeping)
        except asyncio.CancelledError:
            await keeping
            raise

    async def _append(self, event: Event) -> None:
        await self._run.store.add_events(self._run.id, [msgspec.to_builtins(event)])
        self.events.append(event)

    @property
    def seconds(self) -> float:
        """How long the search had run when the last event was kept."""
        return max((event.at for event in self.events), default=0.0)


def answers(events: list[Event]) -> dict[int, dict[int, Draw]]:
    """Draws by move and place."""
    found: dict[int, dict[int, Draw]] = {}
    for event in events:
        if event.event == "draw" and event.draw is not None and event.move is not None and event.place is not None:
            found.setdefault(event.move, {})[event.place] = event.draw
    return found


def answer_of(event: Event, draws: Mapping[int, Mapping[int, Draw]]) -> Answer:
    """The answer that an `answered` event stands for."""
    if event.proposal is not None:
        return event.proposal
    assert event.move is not None
    places = draws.get(event.move, {})
    return [places[place] for place in sorted(places)]


def about_move(move: Move) -> dict[str, Any]:
    """What a reader wants to know of a move."""
    if isinstance(move, Evaluate):
        return {"asked": "evaluate", "candidate": move.candidate.candidate_id, "stage": move.stage, "split": move.split}
    asked = move if isinstance(move, Propose) else move.asked
    kind = "propose" if isinstance(move, Propose) else "repair"
    return {"asked": kind, "parent": asked.parent.candidate_id, "component": asked.component}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:199]}…"
