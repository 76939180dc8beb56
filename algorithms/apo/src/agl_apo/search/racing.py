"""Racing: children are screened on few tasks, a posterior over all evidence chooses parents, a final picks the best, a gate keeps the seed.

    search = Racing(seed_texts, train_tasks, val_tasks, RacingOptions(max_rollouts=240), seed=0)
    while not search.done:
        while (move := search.ask()) is not None:
            ...  # run it, now or later
        if not search.done:  # what was asked last may have been the end
            search.tell(move, answer)  # one answer, then ask again until None
    search.outcome

Stages (the `stage` of its moves): `probe`, `screen`, `final`. Every random choice depends on the seed and on the answers told so far.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from random import Random

from agl_apo.moves import SEED, Answer, Candidate, Evaluate, Move, Proposal, Propose, Rejected
from agl_apo.search import final
from agl_apo.search.evidence import Evidence
from agl_apo.search.options import RacingOptions
from agl_apo.search.outcome import Outcome
from agl_apo.search.pool import Contrast, Pool, RecordsText
from agl_apo.search.scheduler import Process, Scheduler
from agl_apo.search.statistics import Fit, PairedTest, fit

__all__ = ["Racing", "RecordsText"]

ROLLOUTS_PER_EXPANSION = 300
"""Of budget, for each expansion at the same time: with fewer, those that run together know too little of each other."""


class Racing:
    """The search.

    Args:
        seed_texts: Text of every prompt to optimise, by the name of its resource.
        train_tasks: Ids of the tasks to learn from.
        val_tasks: Ids of the tasks for the final.
        options: See `RacingOptions`.
        seed: Of its random choices.
        records_text: See `RecordsText`; None for no guard against copies.

    Raises:
        ValueError: no prompt, no task, or options that cannot work.
    """

    def __init__(
        self,
        seed_texts: Mapping[str, str],
        train_tasks: Sequence[str],
        val_tasks: Sequence[str],
        options: RacingOptions | None = None,
        *,
        seed: int = 0,
        records_text: RecordsText | None = None,
    ) -> None:
        self.options = options or RacingOptions()
        check(seed_texts, train_tasks, val_tasks, self.options)
        self.evidence = Evidence()
        self.outcome: Outcome | None = None
        self._train, self._val = tuple(train_tasks), tuple(val_tasks)
        self._pool = Pool(seed_texts, self.options.guards, records_text)
        self._contrast = Contrast(self.evidence, self.options.perfect_reward)
        self._scheduler = Scheduler(seed, self.options.deterministic)
        self._stage = "probe"
        self._most = self.options.max_rollouts
        self._concurrency = self.options.concurrency or max(1, self._most // ROLLOUTS_PER_EXPANSION)
        self._held = 0  # rollouts under way, and those that running expansions may still ask for
        self._turn = 0
        self._silent = 0  # evaluations in a row without a reward
        self._epoch: list[str] = []
        self._closed = ""  # why nothing new is started
        self._fitted: Fit | None = None
        self._known = (0, 0)  # rollouts and candidates that it was fitted to
        self._scheduler.start(self._probe())

    @property
    def candidates(self) -> Mapping[str, Candidate]:
        """All candidates so far, by id."""
        return self._pool.candidates

    @property
    def rejected(self) -> Sequence[Rejected]:
        """Ideas that did not help, oldest first."""
        return self._pool.rejected

    @property
    def done(self) -> bool:
        """Whether the outcome is there."""
        return self.outcome is not None

    def ask(self) -> Move | None:
        """The next move that may start now; None while only answers bring more."""
        while (move := self._scheduler.next()) is None and (self._more() or self._scheduler.settle()):
            pass
        return move

    def tell(self, move: Move, answer: Answer) -> None:
        """Take the answer to a move.

        Raises:
            ValueError: the move is not open, or the answer does not fit it.
        """
        self._scheduler.answered(move, answer)

    def hurry(self, reason: str = "asked to end", most: int | None = None) -> None:
        """Start nothing new but the final; for a driver whose seconds or money run out.

        Args:
            most: Rollouts that may still be asked for, those that are under way not counted; None for the whole budget.
        """
        self._closed = self._closed or reason
        if most is not None:
            self._most = min(self._most, self.evidence.spent + self._held + most)

    def _more(self) -> bool:
        # Starts what may start now; False when nothing may.
        if self._stage != "search":
            return False
        if self._scheduler.alive < self._concurrency and self._affordable():
            self._scheduler.start(self._expand())
        elif not self._scheduler.alive:
            self._stage = "final"
            self._scheduler.start(self._final())
        else:
            return False
        return True

    def _block(self) -> int:
        # The most rollouts that one expansion takes.
        return self.options.screen_tasks * max(1, self.options.siblings + self.options.redraw_parent)

    def _affordable(self) -> bool:
        if self._pool.barren >= self.options.patience:
            self._closed = self._closed or f"{self._pool.barren} proposals in a row brought no usable text"
        if self._silent >= self.options.patience:
            self._closed = self._closed or f"{self._silent} evaluations in a row brought no reward"
        left = self._most - self.evidence.spent - self._held - self._block()
        return not self._closed and left >= self.options.reserve * self.options.max_rollouts

    # Stages.

    def _probe(self) -> Process:
        options, seed = self.options, self.candidates[SEED]
        size = options.probe_tasks * options.probe_repeats
        for _ in range(2 if options.max_rollouts >= 2 * size else 1):
            tasks = self._next_tasks(options.probe_tasks)
            yield from self._run([self._evaluate(seed, tasks * options.probe_repeats, "train", "probe")])
            found = [float(draw.reward or 0.0) for _, draw in self.evidence.rewarded(SEED)]
            if not found:
                self._end("no_evidence", "no rollout of the probe brought a reward")
                return
            if min(found) < options.perfect_reward or len(self._train) <= options.probe_tasks:
                break
        if min(found) >= options.perfect_reward:
            self._end("nothing_to_gain", f"all {len(found)} rollouts of the seed in the probe were perfect: there is nothing to gain")
        else:
            self._stage = "search"

    def _expand(self) -> Process:
        self._held += self._block()
        self._turn += 1
        parent = self._choose()
        asked = [move for sibling in range(self.options.siblings) if (move := self._ask_for(parent, sibling)) is not None]
        answers = yield list(asked)
        children: list[Candidate] = []
        for move, answer in zip(asked, answers, strict=True):
            child = yield from self._pool.admitted(move, answer, self._scheduler.number)
            children += [] if child is None else [child]
        # A parent with no failure to learn from is drawn on further tasks, until it is clear that there is none.
        drawn = [parent] if not asked or (children and self.options.redraw_parent) else []
        tasks = self._next_tasks(self.options.screen_tasks)
        self._held -= self._block()
        yield from self._run([self._evaluate(one, tasks, "train", "screen") for one in (*drawn, *children)])
        self._judge(children)
        if not asked and self.evidence.count(parent.candidate_id) >= min(30, 2 * len(self._train)):
            self._close_if_perfect(parent)

    def _judge(self, children: Sequence[Candidate]) -> None:
        means = self._fit().posterior.mean
        for child in children:
            if draws := self.evidence.count(child.candidate_id):
                self._pool.judge(child, means[child.candidate_id] - means[child.parent_id or SEED], draws)

    def _close_if_perfect(self, parent: Candidate) -> None:
        rewards = [draw.reward or 0.0 for (split, _), draw in self.evidence.rewarded(parent.candidate_id) if split == "train"]
        if min(rewards) >= self.options.perfect_reward:
            self._closed = self._closed or f"all {len(rewards)} rollouts of {parent.candidate_id} on training tasks were perfect"

    def _choose(self) -> Candidate:
        # Thompson sampling among the candidates that have been drawn at all.
        posterior, spread = self._fit().posterior, self.options.exploration
        drawn = posterior.sample(self._random("parent"))
        values = {name: (1 - spread) * posterior.mean[name] + spread * drawn[name] for name in drawn if self.evidence.count(name)}
        return self.candidates[max(values, key=lambda name: (values[name], name))]

    def _ask_for(self, parent: Candidate, sibling: int) -> Propose | None:
        options, names = self.options, list(parent.texts)
        chance = self._random(f"records {sibling}").random
        failures, successes = self._contrast.choose(parent.candidate_id, options.failures_shown, options.successes_shown, chance)
        if not failures:
            return None
        component = names[(self._turn * options.siblings + sibling) % len(names)]
        return Propose(
            number=self._scheduler.number(),
            parent=parent,
            component=component,
            failures=failures,
            successes=successes,
            rejected=self._pool.rejected_for(component, options.rejected_shown),
        )

    def _final(self) -> Process:
        finalists = arms = self._ranked()[: self.options.finalists]
        if self._closed:  # what an early end saves is not spent here
            self._most = min(self._most, self.evidence.spent + math.ceil(self.options.reserve * self.options.max_rollouts))
        order, position = list(self._val), 0
        self._random("final").shuffle(order)
        while arms:
            each = final.tasks_each(self._most - self.evidence.spent, len(arms))
            if self._fit().variances.noise == 0.0:
                each = min(each, len(order) - position)  # a task says the same again
            tasks = [order[(position + step) % len(order)] for step in range(each)]
            position += each
            yield from self._run([self._evaluate(self.candidates[name], tasks, "val", "final") for name in (SEED, *arms) if tasks])
            if len(arms) == 1:
                break
            arms = final.halved(arms, self._fit().posterior.mean)
        self._gate(arms[0] if arms else SEED, finalists)

    def _gate(self, best: str, finalists: Sequence[str]) -> None:
        test = final.gate(best, self.evidence, self._fit())
        if test is None:
            self._end("no_significant_improvement", "no candidate could be compared with the seed, which stays")
            return
        # The best of k was chosen by draws that test it, too: Bonferroni's correction.
        asked = 1.0 - (1.0 - self.options.confidence) / max(1, len(finalists))
        passed = test.p_better >= asked
        verdict = f"P(better than the seed) is {test.p_better:.3f} on {test.n} common tasks, asked for was {asked:.3g}"
        chosen = f" ({self.options.confidence:g} for one, it is the best of {len(finalists)})" if len(finalists) > 1 else ""
        reason = f"{verdict}{chosen}: {f'{best} is used' if passed else 'no significant improvement, the seed stays'}"
        self._end("improved" if passed else "no_significant_improvement", reason, best=best, finalists=finalists, test=test)

    def _end(self, decision: str, reason: str, *, best: str = SEED, finalists: Sequence[str] = (), test: PairedTest | None = None) -> None:
        self._stage = "over"
        reason += f"; the search ended early: {self._closed}" if self._closed else ""
        self.outcome = final.conclude(
            self.candidates,
            self.evidence,
            decision=decision,
            reason=reason,
            best=best,
            finalists=finalists,
            test=test,
            step_sd=self.options.step_sd,
        )

    # Helpers.

    def _random(self, what: str) -> Random:
        return self._scheduler.random(f"{what} {self._turn}")

    def _evaluate(self, candidate: Candidate, tasks: Sequence[str], split: str, stage: str) -> Evaluate:
        return Evaluate(number=self._scheduler.number(), candidate=candidate, tasks=tuple(tasks), split=split, stage=stage)

    def _run(self, moves: list[Evaluate]) -> Generator[list[Move], list[Answer], None]:
        rollouts = sum(len(move.tasks) for move in moves)
        self._held += rollouts
        answers = yield list(moves)
        self._held -= rollouts
        for move, answer in zip(moves, answers, strict=True):
            assert not isinstance(answer, Proposal)
            missing = self.evidence.missing
            self.evidence.add(move.candidate.candidate_id, move.split, answer)
            self._silent = self._silent + 1 if self.evidence.missing - missing == len(move.tasks) else 0

    def _fit(self) -> Fit:
        known = (self.evidence.spent, len(self.candidates))
        if self._fitted is None or self._known != known:
            self._known = known
            parents, options = self._pool.parents, self.options
            self._fitted = fit(self.evidence.cells, parents, step_sd=options.step_sd, drift=options.step_mean, start=self._fitted)
        return self._fitted

    def _ranked(self) -> list[str]:
        means = self._fit().posterior.mean
        return sorted((name for name in means if name != SEED and self.evidence.count(name)), key=lambda name: -means[name])

    def _next_tasks(self, count: int) -> list[str]:
        # Whole epochs in shuffled order: which tasks come next depends on no outcome.
        taken: list[str] = []
        while len(taken) < min(count, len(self._train)):
            if not self._epoch:
                self._epoch = list(self._train)
                self._random("epoch").shuffle(self._epoch)
            task = self._epoch.pop()
            if task not in taken:
                taken.append(task)
        return taken


def check(seed_texts: Mapping[str, str], train_tasks: Sequence[str], val_tasks: Sequence[str], options: RacingOptions) -> None:
    """Raises ValueError for what cannot work."""
    if not seed_texts:
        raise ValueError("there is no prompt to optimise: give `seed_texts` at least one text")
    for name, tasks in (("train_tasks", train_tasks), ("val_tasks", val_tasks)):
        if not tasks:
            raise ValueError(f"`{name}` is empty: the search needs at least one task there")
        if len(set(tasks)) != len(tasks):
            raise ValueError(f"`{name}` names a task twice: give each id once")
    if options.concurrency is not None and options.concurrency < 1:
        raise ValueError(f"`concurrency` must be at least 1, or None, given was {options.concurrency}")
    for name in ("probe_tasks", "probe_repeats", "screen_tasks", "siblings", "finalists", "failures_shown", "patience"):
        if getattr(options, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, given was {getattr(options, name)}")
    for name in ("reserve", "confidence"):
        if not 0.0 <= getattr(options, name) < 1.0:
            raise ValueError(f"`{name}` must be at least 0 and less than 1, given was {getattr(options, name)}")
    least = options.probe_tasks * options.probe_repeats
    if options.max_rollouts < least:
        raise ValueError(f"`max_rollouts` is {options.max_rollouts}, the probe alone takes {least}; raise it, or lower `probe_tasks`")
    if unknown := sorted({*options.guards.required, *options.guards.plain} - set(seed_texts)):
        raise ValueError(f"the guards name prompts that do not exist: {unknown}; there are {sorted(seed_texts)}")
