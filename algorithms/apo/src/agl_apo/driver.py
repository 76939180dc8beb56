"""Driver: moves of a search to rollouts and LLM calls, at the same time, within budgets; every answer goes into the ledger first."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from agl.errors import AglError, DataError
from agl.runs import Run
from agl_apo.ledger import Event, Ledger, about_move, answer_of, answers
from agl_apo.model import ModelError
from agl_apo.moves import SEED, Answer, Draw, Evaluate, Move, Proposal, Repair, Search
from agl_apo.proposer import Proposer
from agl_apo.world import Totals, World, templates

STEPS = 20
"""Into how many steps a budget of rollouts is divided, for progress and checkpoints."""
AGAIN = ("infrastructure", "cancelled")
"""Failures of rollouts that a resumed run tries again where their move was not answered."""
FINAL = "final"
"""Stage in which the seed is compared: its rewards say nothing of how the search goes."""
OUT = "not run: "
"""How the failure of a draw begins that a budget did not allow."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Budgets."""

    max_rollouts: int
    """The search's own; here for the progress."""
    max_cost: float | None = None
    """Of rollouts and proposals together, in the currency of the prices."""
    max_seconds: float | None = None
    """Of the search; a resumed run goes on counting."""
    reserve: float = 0.3
    """Share of each budget that is kept for the final."""


class Driver:
    """Drives one search to its end.

    Args:
        search: fresh; what the ledger holds is told to it first.
        proposer: answers the moves that ask for a text.
        record_characters: of one rollout, as a critic reads it.
    """

    def __init__(
        self, run: Run, search: Search, world: World, proposer: Proposer, ledger: Ledger, limits: Limits, record_characters: int = 6000
    ) -> None:
        self.run, self.search, self.world, self.ledger, self.limits = run, search, world, ledger, limits
        self.totals = Totals()
        self._proposer, self._characters = proposer, record_characters
        self._open: dict[int, Move] = {}
        self._flying: dict[asyncio.Task[Answer], Move] = {}
        self._hypotheses: dict[int, str] = {}
        self._hurried = False
        self._exhausted: str | None = None
        self._steps = _Steps(run, limits.max_rollouts, search.candidates[SEED].texts)
        self._known = answers(ledger.events)
        self._began = time.monotonic() - ledger.seconds

    @property
    def seconds(self) -> float:
        """How long the search has run, its earlier processes included."""
        return time.monotonic() - self._began

    async def drive(self) -> None:
        """Until the search is done.

        Raises:
            AglError: rollouts bring no reward, or critic or editor cannot be reached; all that was spent is in the ledger.
            DataError: the ledger does not fit this search.
        """
        await self._replay()
        try:
            with self.run.console.rollouts("search", self.limits.max_rollouts) as show:
                while not self.search.done:
                    await self._mind_the_budget()
                    await self._start()
                    await self._take(await self._some_ended())
                    show(self.totals.rollouts)
        except ModelError as error:
            await self._settle()
            raise ModelError(f"{error}. What was spent is kept: go on with `resume` when it works") from error
        finally:
            await self._abandon()

    # The ledger.

    async def _replay(self) -> None:
        """Tell the search what earlier processes were answered."""
        self._ask()
        for event in list(self.ledger.events):
            if event.event == "draw" and event.draw is not None:
                self.world.known(str(event.about.get("split", "train")), event.draw)
            elif event.event == "hurry":
                self._hurry(**event.about)
            elif event.event == "answered":
                if event.move not in self._open:
                    raise DataError(
                        f"{self.ledger.where} answers move {event.move}, and the search asks for {sorted(self._open)}: it was begun by "
                        "another version of agl-apo; start a new run"
                    )
                await self._told(self._open[event.move], answer_of(event, self._known))

    async def _tell(self, move: Move, answer: Answer) -> None:
        proposal = answer if isinstance(answer, Proposal) else None
        about = about_move(move)
        await self.ledger.append(Event(event="answered", at=self.seconds, move=move.number, proposal=proposal, about=about))
        await self._told(move, answer)

    async def _told(self, move: Move, answer: Answer) -> None:
        del self._open[move.number]
        if isinstance(answer, Proposal):
            self._hypotheses[move.number] = answer.hypothesis
            self.totals.proposals += 1
            self.totals.proposer_cost += answer.cost
        else:
            self._count(answer)
        self.search.tell(move, answer)
        self._ask()  # after every answer: only so are the moves the same when the ledger is told
        if isinstance(move, Evaluate) and not isinstance(answer, Proposal):
            await self._steps.told(answer, self._metrics(), counts=move.stage != FINAL)

    def _count(self, draws: Sequence[Draw]) -> None:
        run = [draw for draw in draws if not (draw.failure or "").startswith(OUT)]
        self.totals.rollouts += len(run)
        self.totals.missing += sum(draw.reward is None for draw in run)
        self.totals.agent_cost += sum(draw.cost for draw in run)

    # Moves.

    def _ask(self) -> None:
        while (move := self.search.ask()) is not None:
            self._open[move.number] = move

    async def _start(self) -> None:
        flying = {move.number for move in self._flying.values()}
        for number, move in sorted(self._open.items()):
            if number not in flying:
                if isinstance(move, Evaluate):  # in order, so that the rollouts are queued in the order of the moves
                    await self.world.version(move.candidate.texts)
                self._flying[asyncio.ensure_future(self._answer(move))] = move
        if not self._flying and not self.search.done:
            raise AglError("the search asks for nothing and is not done; this is a fault of agl-apo, please report it with the ledger")

    async def _some_ended(self) -> list[asyncio.Task[Answer]]:
        """The moves that have ended, in the order in which they were asked; none when the time is up first."""
        left = None
        if self.limits.max_seconds is not None and self._exhausted is None:
            left = max(0.0, self.limits.max_seconds - self.seconds)
        if not self._flying:
            return []
        done, _ = await asyncio.wait(self._flying, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        return sorted(done, key=lambda task: self._flying[task].number)

    async def _take(self, ended: Sequence[asyncio.Task[Answer]]) -> None:
        """Tell the search the answers; an error is raised when those that came beside it are kept."""
        failed = [task for task in ended if task.exception() is not None]
        for task in ended:
            if task not in failed:
                await self._tell(self._flying.pop(task), task.result())
        for task in failed:
            task.result()

    async def _answer(self, move: Move) -> Answer:
        if isinstance(move, Evaluate):
            return await self._evaluate(move)
        if self._exhausted:
            return Proposal(text=None, error=OUT + self._exhausted)
        if isinstance(move, Repair):
            return await self._proposer.repair(move, self._hypothesis(move))
        name, text = move.component, move.parent.texts[move.component]
        failures, successes = [await self.world.records(ids, name, text, self._characters) for ids in (move.failures, move.successes)]
        return await self._proposer.propose(move, failures, successes)

    def _hypothesis(self, move: Repair) -> str:
        return self._hypotheses.get(move.asked.number, "")

    async def _evaluate(self, move: Evaluate) -> list[Draw]:
        known = self._known.setdefault(move.number, {})
        for place in [place for place, draw in known.items() if draw.failure in AGAIN]:
            del known[place]  # by an earlier process, which stopped when its rollouts brought nothing

        async def one(place: int, task_id: str) -> None:
            if self._exhausted:
                draw = Draw(task_id=task_id, reward=None, failure=OUT + self._exhausted)
            else:
                draw = await self.world.draw(move.candidate.texts, move.split, task_id, f"{move.number}.{place}")
            about = {"candidate": move.candidate.candidate_id, "split": move.split}
            known[place] = draw  # before it is kept: a move that is cancelled meanwhile and asked again does not pay twice
            await self.ledger.append(Event(event="draw", at=self.seconds, move=move.number, place=place, draw=draw, about=about))

        await _all(one(place, task_id) for place, task_id in enumerate(move.tasks) if place not in known)
        return [known[place] for place in range(len(move.tasks))]

    # Budgets.

    async def _mind_the_budget(self) -> None:
        """Go to the final when the share of the search is spent; run nothing more when all of it is."""
        for name, spent, limit in (
            ("max_cost", self._cost(), self.limits.max_cost),
            ("max_seconds", self.seconds, self.limits.max_seconds),
        ):
            if limit is None or self.search.done:
                continue
            if spent >= limit and self._exhausted is None:
                self._exhausted = f"`{name}` of {limit:g} is spent"
                await self._abandon()
            if spent >= (1 - self.limits.reserve) * limit and not self._hurried:
                each = spent / max(1, self.totals.rollouts)
                most = 0 if spent >= limit else int((limit - spent) / each) if each else self.limits.max_rollouts
                about = {"reason": f"`{name}` of {limit:g} is nearly spent", "most": most}
                await self.ledger.append(Event(event="hurry", at=self.seconds, about=about))
                self._hurry(**about)

    def _cost(self) -> float:
        """With the draws of moves that have not ended."""
        flying = [self._known.get(move.number, {}) for move in self._flying.values() if isinstance(move, Evaluate)]
        return self.totals.cost + sum(draw.cost for places in flying for draw in places.values())

    def _hurry(self, reason: str, most: int | None = None) -> None:
        self._hurried = True
        hurry: Callable[..., None] | None = getattr(self.search, "hurry", None)
        if hurry is not None:
            hurry(reason, most)
            self._ask()

    async def _settle(self) -> None:
        """Wait for what is under way: it is paid for, and on a resume it counts."""
        await asyncio.gather(*self._flying, return_exceptions=True)
        for task in sorted(self._flying, key=lambda task: self._flying[task].number):
            if task.exception() is None:
                await self._tell(self._flying.pop(task), task.result())

    async def _abandon(self) -> None:
        """End the moves that are under way; what they have brought is kept."""
        for task in self._flying:
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)
        self._flying.clear()

    def _metrics(self) -> dict[str, Any]:
        totals = self.totals
        found = {"spent_rollouts": totals.rollouts, "candidates": len(self.search.candidates), "proposals": totals.proposals}
        return found | ({"cost": totals.cost} if totals.cost else {})

    async def end(self, texts: dict[str, str], metrics: dict[str, Any]) -> None:
        """Publish the result, as the last step."""
        await self._steps.end(texts, {**self._metrics(), **metrics})


class _Steps:
    """Ends a step of the run whenever another twentieth of the budget is told, and keeps a checkpoint: the ledger holds the rest."""

    def __init__(self, run: Run, max_rollouts: int, seed: dict[str, str]) -> None:
        self._run, self._each, self._seed = run, max(1, math.ceil(max_rollouts / STEPS)), seed
        self._numbers: Iterator[int] = run.steps(STEPS + 1)
        self._ended, self._told, self._rewards = 0, 0, list[float]()
        next(self._numbers, None)

    async def told(self, draws: Sequence[Draw], metrics: dict[str, Any], counts: bool) -> None:
        self._told += len(draws)
        self._rewards += [draw.reward for draw in draws if draw.reward is not None and counts]
        if self._told >= self._each:
            await self._end({}, metrics)

    async def end(self, texts: dict[str, str], metrics: dict[str, Any]) -> None:
        await self._end(texts, metrics)

    async def _end(self, texts: dict[str, str], metrics: dict[str, Any]) -> None:
        told, rewards, self._told, self._rewards = self._told, self._rewards, 0, list[float]()
        self._ended += 1
        if self._ended <= self._run.finished:  # by an earlier process
            if texts:
                await self._run.publish(**templates(texts))
            return
        reward = {"reward": sum(rewards) / len(rewards)} if rewards else {}
        await self._run.publish(metrics={**reward, "rollouts": told, **metrics}, **templates(texts or self._seed))
        ended = self._ended
        await self._run.checkpoint(lambda folder: folder.joinpath("steps").write_text(f"{ended}\n"))
        next(self._numbers, None)


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; the first failure ends the others, and is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
