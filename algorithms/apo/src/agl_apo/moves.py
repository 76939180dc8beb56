"""Moves: what a search asks of the world, and what it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

SEED = "seed"
"""Id of the candidate that the user gave."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One set of prompts."""

    candidate_id: str
    texts: dict[str, str]
    """Text of every optimised prompt, by the name of its resource."""
    parent_id: str | None = None
    component: str | None = None
    """Name of the prompt in which it differs from its parent."""
    hypothesis: str = ""
    """Why the change should help, in the proposer's words."""


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """What one rollout of a candidate on a task brought."""

    task_id: str
    reward: float | None
    """None when the rollout says nothing about the prompt: the infrastructure failed. A failure of the agent has a reward."""
    rollout_id: str = ""
    cost: float = 0.0
    """In the currency of `max_cost`."""
    failure: str | None = None


class Evaluate(msgspec.Struct, frozen=True, kw_only=True, tag="evaluate"):
    """Run a candidate once on each of these tasks. Answered by one `Draw` for each, in their order."""

    number: int
    """Counts the moves of a search from 0."""
    candidate: Candidate
    tasks: tuple[str, ...]
    """Ids of tasks; one that stands twice is run twice."""
    split: str = "train"
    """`train` or `val`: where the tasks are from."""
    stage: str = ""
    """`probe`, `gradient`, `screen`, `final`…, for the ledger and the report."""


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """An idea that was tried, or refused by a guard."""

    component: str
    hypothesis: str
    reason: str


class Propose(msgspec.Struct, frozen=True, kw_only=True, tag="propose"):
    """Write a new text for one prompt of a candidate. Answered by a `Proposal`."""

    number: int
    parent: Candidate
    component: str
    failures: tuple[str, ...]
    """Ids of the parent's rollouts that went badly: what the criticism is about."""
    successes: tuple[str, ...]
    """Ids of rollouts of the same prompts that went well, for contrast."""
    rejected: tuple[Rejected, ...] = ()
    """Ideas for this component that did not help, newest last."""


class Repair(msgspec.Struct, frozen=True, kw_only=True, tag="repair"):
    """Mend a proposal that a guard refused. Answered by a `Proposal`."""

    number: int
    asked: Propose
    text: str
    reason: str
    """The guard's, such as `the placeholder {question} is missing`."""


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A new text for the asked component; None when the proposer brought nothing usable."""

    text: str | None
    hypothesis: str = ""
    cost: float = 0.0
    error: str | None = None
    """Why there is no text."""


Move = Evaluate | Propose | Repair
Answer = Sequence[Draw] | Proposal


class Search(Protocol):
    """What the driver needs of a search."""

    def ask(self) -> Move | None:
        """The next move that may start now; None while only answers bring more, or when the search is over."""
        ...

    def tell(self, move: Move, answer: Answer) -> None:
        """Take the answer to a move. Answers may come in any order."""
        ...

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask."""
        ...

    @property
    def candidates(self) -> Mapping[str, Candidate]:
        """All candidates so far, by id."""
        ...
