"""Scheduler: searches written as generators that yield moves and are given their answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from random import Random

from agl_apo.moves import Answer, Evaluate, Move, Proposal, Propose, Repair

Process = Generator[list[Move], list[Answer], None]
"""Yields moves that may run at the same time; is resumed with their answers, in the order of the moves, when all are there."""


class _Waiting:
    """A process and the moves that it waits for."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.moves: list[Move] = []
        self.answers: dict[int, Answer] = {}


class Scheduler:
    """Runs processes: the half of a search that knows nothing of prompts.

    The driver calls `ask` until it gives None, and again after every `tell`. Then the moves are a function of the seed and
    of the answers in their order, which is what a resume relies on.

    Args:
        seed: of all chance.
        deterministic: lets an answer count only when those to all earlier moves are there: then the order in which they come is of no effect.
    """

    def __init__(self, seed: int, deterministic: bool = False) -> None:
        self._seed, self._deterministic = seed, deterministic
        self._ready: deque[Move] = deque()
        self._flying: dict[int, tuple[Move, _Waiting]] = {}
        self._early: dict[int, tuple[_Waiting, Answer]] = {}
        """Answers that do not count yet."""
        self._told = 0
        self._numbered = 0
        self._alive = 0

    def number(self) -> int:
        """The number of the next move."""
        self._numbered += 1
        return self._numbered - 1

    def random(self, what: str) -> Random:
        """A source of chance that depends on the seed, on the number of answers that count and on what it is for."""
        return Random(f"{self._seed}:{self._told}:{what}")

    def start(self, process: Process) -> None:
        """Run a process until it first waits."""
        self._alive += 1
        self._go_on(_Waiting(process), None)

    @property
    def alive(self) -> int:
        """Processes that have not ended."""
        return self._alive

    def next(self) -> Move | None:
        """A move that was yielded and not yet handed out."""
        return self._ready.popleft() if self._ready else None

    def answered(self, move: Move, answer: Answer) -> None:
        """Take an answer; when it counts, and was the last one missing, the process that waits for it is resumed.

        Raises:
            ValueError: the move was not asked, or is answered already, or the answer is not of its kind.
        """
        if move.number not in self._flying:
            raise ValueError(f"move {move.number} is not open; open are {sorted(self._flying)}. Tell each move that `ask` gave, once.")
        asked, waiting = self._flying[move.number]
        check_answer(asked, answer)
        del self._flying[move.number]
        self._early[move.number] = (waiting, answer)
        if not self._deterministic or min(self._early) == move.number:
            self.settle()

    def settle(self) -> bool:
        """Let the next early answer count; False when there is none whose turn it is."""
        number = min(self._early, default=None)
        if number is None or (self._deterministic and number > min(self._flying, default=number)):
            return False
        waiting, answer = self._early.pop(number)
        self._told += 1
        waiting.answers[number] = answer
        if len(waiting.answers) == len(waiting.moves):
            self._go_on(waiting, [waiting.answers[one.number] for one in waiting.moves])
        return True

    def _go_on(self, waiting: _Waiting, answers: list[Answer] | None) -> None:
        try:
            moves = next(waiting.process) if answers is None else waiting.process.send(answers)
            while not moves:
                moves = waiting.process.send([])
        except StopIteration:
            self._alive -= 1
            return
        waiting.moves, waiting.answers = moves, {}
        for move in moves:
            self._flying[move.number] = (move, waiting)
            self._ready.append(move)


def check_answer(move: Move, answer: Answer) -> None:
    """Raises ValueError for an answer that does not fit its move."""
    if isinstance(move, Propose | Repair):
        if not isinstance(answer, Proposal):
            raise ValueError(f"move {move.number} asks for a text, its answer must be a `Proposal`, given was {answer!r}")
        return
    assert isinstance(move, Evaluate)
    if isinstance(answer, Proposal) or not _same_tasks(move.tasks, answer):
        raise ValueError(
            f"move {move.number} must be answered by one `Draw` for each of {list(move.tasks)}, in their order, given was {answer!r}"
        )


def _same_tasks(tasks: Sequence[str], answer: Sequence[object]) -> bool:
    return list(tasks) == [getattr(draw, "task_id", None) for draw in answer]
