"""Ledger: every answer of the world to a search, in order, in a file that survives the death of the process.

One JSON object per line, on disk before the search is told. A search is a function of its seed and of the answers in their order, so
that telling it the ledger again brings it to where it was. A draw has a line of its own: what a half-finished move has brought is kept.

| event | is |
|---|---|
| `begin` | first line: what the search was made with |
| `draw` | one rollout of a move, at its place |
| `answered` | a move's answer is whole, and the search was told |
| `hurry` | the search was told to end |
| `end` | the outcome |
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from agl.errors import ConfigError, DataError
from agl_apo.moves import Answer, Draw, Evaluate, Move, Proposal, Propose

FORMAT = 1
"""Of the lines; one that a newer version wrote is refused."""
NAME = "ledger.jsonl"


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line."""

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
    """Appends events, each on disk when the call returns.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.events: list[Event] = []
        """All events, those of earlier processes first."""
        self._file: int | None = None

    def open(self, about: Mapping[str, Any]) -> bool:
        """Begin the ledger, or go on with the one that is there.

        Args:
            about: what the search is made with, as JSON; an old ledger must have been begun with the same.

        Returns:
            Whether there was one.

        Raises:
            ConfigError: it was begun with something else.
            DataError: it cannot be read.
        """
        about = msgspec.json.decode(msgspec.json.encode({"format": FORMAT, **about}))
        self.events = self._read()
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if not self.events:
            self.append(Event(event="begin", about=about))
            _sync_folder(self.path.parent)
            return False
        begun = self.events[0].about
        if differs := sorted(name for name in {*begun, *about} if begun.get(name) != about.get(name)):
            self.close()
            values = "; ".join(f"`{name}` was {_short(begun.get(name))} and is {_short(about.get(name))}" for name in differs)
            raise ConfigError(f"the search in `{self.path}` can only go on as it was begun: {values}. Start a new run for a new search")
        return True

    def begun(self) -> dict[str, Any] | None:
        """What the ledger that is there was begun with; None when there is none."""
        events = self._read()
        return events[0].about if events else None

    def append(self, event: Event) -> None:
        """Keep one event. It is on disk when this returns.

        Raises:
            OSError: the disk is full or gone.
        """
        assert self._file is not None, "the ledger is not open"
        line = msgspec.json.encode(event) + b"\n"
        written = os.write(self._file, line)
        while written < len(line):
            written += os.write(self._file, line[written:])
        os.fsync(self._file)
        self.events.append(event)

    def close(self) -> None:
        """Let go of the file; twice is allowed."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def seconds(self) -> float:
        """How long the search had run when the last event was kept."""
        return max((event.at for event in self.events), default=0.0)

    def _read(self) -> list[Event]:
        """The events that are there; a last line that a killed process did not finish is cut off."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(self.path, len(whole))
        events: list[Event] = []
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                events.append(msgspec.json.decode(line, type=Event))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise DataError(f"line {number} of `{self.path}` cannot be read: {error}; the run cannot go on from it") from None
        if events and (events[0].event != "begin" or events[0].about.get("format") != FORMAT):
            raise DataError(f"`{self.path}` is no ledger of format {FORMAT}; another version of agl-apo wrote it")
        return events


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


def _sync_folder(folder: Path) -> None:
    """The name of a new file is on disk only when its folder is."""
    if os.name == "nt":  # folders cannot be opened there
        return
    place = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)
