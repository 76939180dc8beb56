"""Messages between AGL's process, which has agents, gateway and store, and VERL's, which has the trainer and its workers."""

from __future__ import annotations

from typing import Any

import msgspec

from agl_verl.batch import Sample


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """VERL's workers and servers are up, at the state of the checkpoint if there is one."""

    addresses: tuple[str, ...]
    """`host:port` of its servers."""
    version: int
    """Of the weights that they serve: optimiser rounds (VERL's global steps) done."""
    total_steps: int


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """VERL wants rollouts; the answer is an `Answer`."""

    tasks: tuple[int, ...]
    """Indices into the dataset."""
    n: int
    """Rollouts of each."""
    validate: bool
    groups: tuple[str, ...] = ()
    """VERL's name (`uid`) of the group of each task."""
    streamed: bool = False
    """One of many requests that are open at the same time, of which a step takes some."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The rollouts that VERL asked for, or those that it has chosen."""

    samples: tuple[Sample, ...] = ()


class Choose(msgspec.Struct, frozen=True, kw_only=True):
    """VERL has chosen what its step learns from; the answer is an `Answer` with advantages and weights, its groups in the order given here."""

    groups: tuple[str, ...]
    """By their names, those with rows in the batch."""
    kept: frozenset[str] = frozenset()
    """Other groups that a later step may take."""


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """VERL is about to learn while rollouts run: answered when no call is on its way, and new ones wait until `StepEnded`."""


class StepEnded(msgspec.Struct, frozen=True, kw_only=True):
    """A step of learning is done, and its weights are served."""

    version: int
    metrics: dict[str, float]
    checkpoint: str | None = None
    """Folder that VERL wrote in this step."""


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """Learning is over; the servers stay up until they are told to stop."""


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """VERL's trainer raised."""

    error: str
    """Its traceback."""


Message = Ready | Ask | Choose | Pause | StepEnded | Finished | Failed
GO, STOP = "go", "stop"
"""Words that VERL's process waits for."""


def numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """The plain numbers among VERL's metrics."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        try:
            found[name] = float(value)
        except (TypeError, ValueError):
            continue
    return found
