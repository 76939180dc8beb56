"""Racing: proposals are screened in pairs with their parents, a final on common tasks picks the best, a gate keeps the seed.

    search = Racing(seed_texts, train_tasks, val_tasks, RacingOptions(max_rollouts=240), seed=0)
    while not search.done:
        while (move := search.ask()) is not None:
            ...  # run it, now or later
        search.tell(move, answer)  # one answer, then ask again until None
    search.outcome

Stages (the `stage` of its moves): `probe`, `screen`, `final`. Every random choice depends on the seed and on the answers told so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence

from agl_apo.moves import SEED, Answer, Candidate, Draw, Evaluate, Move, Proposal, Propose, Rejected, Repair
from agl_apo.search import guards
from agl_apo.search.evidence import Evidence
from agl_apo.search.options import RacingOptions
from agl_apo.search.outcome import Estimate, Outcome
from agl_apo.search.scheduler import Process, Scheduler
from agl_apo.search.statistics import Fit, fit, noise_sd, paired_test

RecordsText = Callable[[Sequence[str]], Sequence[str]]
"""Gives the texts of training records by ids of rollouts, for the guard against copies. Must give the same again after a resume."""


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
        self.rejected: list[Rejected] = []
        self.outcome: Outcome | None = None
        self._train, self._val = tuple(train_tasks), tuple(val_tasks)
        self._records_text = records_text
        self._candidates = {SEED: Candidate(candidate_id=SEED, texts=dict(seed_texts))}
        self._hashes = {guards.normalised_hash(seed_texts.values())}
        self._scheduler = Scheduler(seed)
        self._most = self.options.max_rollouts
        self._held = 0  # rollouts that running processes may still ask for
        self._stage = "probe"
        self._barren = 0
        self._shown: dict[str, int] = {}
        self._turn = 0
        self._epoch: list[str] = []
        self._closed = ""
        self._hold(self.options.probe_tasks * self.options.probe_repeats)
        self._scheduler.start(self._probe())

    # What the driver sees.

    @property
    def candidates(self) -> Mapping[str, Candidate]:
        """All candidates so far, by id."""
        return self._candidates

    @property
    def done(self) -> bool:
        """Whether the outcome is there."""
        return self.outcome is not None

    def ask(self) -> Move | None:
        """The next move that may start now."""
        while (move := self._scheduler.next()) is None and self._more():
            pass
        return move

    def tell(self, move: Move, answer: Answer) -> None:
        """Take the answer to a move."""
        self._scheduler.answered(move, answer)

    def hurry(self, reason: str = "asked to end", most: int | None = None) -> None:
        """Start nothing new but the final; for a driver whose seconds or money run out.

        Args:
            most: Rollouts that may still be asked for, those that are under way not counted; None for the whole budget.
        """
        self._closed = self._closed or reason
        if most is not None:
            self._most = min(self._most, self.evidence.spent + self._held + most)

    # Stages.

    def _more(self) -> bool:
        # Starts what may start now; False when nothing may.
        if self.done:
            return False
        if self._stage == "search" and self._scheduler.alive < self.options.concurrency and self._affordable():
            self._hold(self._block())
            self._scheduler.start(self._expand())
            return True
        if self._stage == "search" and not self._scheduler.alive:
            self._stage = "final"
            self._scheduler.start(self._final())
            return True
        return False

    def _block(self) -> int:
        return self.options.screen_tasks * (self.options.siblings + 1)

    def _left(self) -> int:
        return self._most - self.evidence.spent - self._held

    def _affordable(self) -> bool:
        if not self._closed and self._barren >= self.options.patience:
            self._closed = f"{self._barren} proposals in a row brought no usable text"
        return not self._closed and self._left() - self._block() >= int(self.options.reserve * self.options.max_rollouts)

    def _hold(self, rollouts: int) -> None:
        self._held += rollouts

    def _evaluate(self, candidate: Candidate, tasks: Sequence[str], split: str, stage: str) -> Evaluate:
        return Evaluate(number=self._scheduler.number(), candidate=candidate, tasks=tuple(tasks), split=split, stage=stage)

    def _keep(self, move: Evaluate, answer: Answer) -> None:
        assert not isinstance(answer, Proposal)
        self.evidence.add(move.candidate.candidate_id, move.split, answer)
        self._held -= len(move.tasks)

    def _run(self, moves: list[Evaluate]) -> Generator[list[Move], list[Answer], None]:
        answers = yield list(moves)
        for move, answer in zip(moves, answers, strict=True):
            self._keep(move, answer)

    def _probe(self) -> Process:
        tasks = self._next_tasks(self.options.probe_tasks, "probe")
        seed = self._candidates[SEED]
        yield from self._run([self._evaluate(seed, list(tasks) * self.options.probe_repeats, "train", "probe")])
        self._held = 0
        found = [draw for _, draw in self.evidence.rewarded(SEED)]
        if not found:
            self._end_without("no_evidence", "no rollout of the probe brought a reward")
        elif all(self._perfect(draw) for draw in found):
            self._end_without("nothing_to_gain", f"all {len(found)} rollouts of the probe were perfect: there is nothing to gain")
        else:
            self._stage = "search"

    def _expand(self) -> Process:
        held = self._block()
        fitted = self._fit()
        turn = self._turn
        self._turn += 1
        parent = self._choose(fitted, turn)
        asked = [self._ask_for(parent, turn, sibling) for sibling in range(self.options.siblings)]
        asked = [move for move in asked if move is not None]
        answers = yield list(asked)
        children = []
        for move, answer in zip(asked, answers, strict=True):
            child = yield from self._guarded(move, answer)
            if child is not None:
                children.append(child)
        if not asked or children:
            tasks = self._next_tasks(self.options.screen_tasks, f"screen {turn}")
            moves = [self._evaluate(one, tasks, "train", "screen") for one in (parent, *children)]
            held -= sum(len(move.tasks) for move in moves)
            yield from self._run(moves)
            self._judge(parent, children)
        self._held -= held

    def _choose(self, fitted: Fit, turn: int) -> Candidate:
        # Thompson sampling among the candidates that have been drawn at all.
        drawn = fitted.posterior.sample(self._scheduler.random(f"parent {turn}"))
        able = [name for name in drawn if self.evidence.count(name)]
        return self._candidates[max(able, key=lambda name: (drawn[name], name))]

    def _ask_for(self, parent: Candidate, turn: int, sibling: int) -> Propose | None:
        random = self._scheduler.random(f"records {turn} {sibling}")
        draws = [(draw, random.random()) for (split, _), draw in self.evidence.rewarded(parent.candidate_id) if split == "train"]
        bad = sorted(
            (self._shown.get(draw.rollout_id, 0), draw.reward, tie, draw.rollout_id, draw) for draw, tie in draws if not self._perfect(draw)
        )
        if not bad:
            return None
        good = sorted((-(draw.reward or 0.0), tie, draw.rollout_id) for draw, tie in draws if self._perfect(draw))
        failures: dict[str, Draw] = {}
        for *_, draw in bad:
            failures.setdefault(draw.task_id, draw)
        shown = list(failures.values())[: self.options.failures_shown]
        for draw in shown:
            self._shown[draw.rollout_id] = self._shown.get(draw.rollout_id, 0) + 1
        names = list(parent.texts)
        component = names[(turn * self.options.siblings + sibling) % len(names)]
        return Propose(
            number=self._scheduler.number(),
            parent=parent,
            component=component,
            failures=tuple(draw.rollout_id for draw in shown),
            successes=tuple(one[-1] for one in good[: self.options.successes_shown]),
            rejected=tuple(one for one in self.rejected if one.component == component)[-self.options.rejected_shown :],
        )

    def _guarded(self, asked: Propose, answer: Answer) -> Generator[list[Move], list[Answer], Candidate | None]:
        for left in range(self.options.guards.repairs, -1, -1):
            assert isinstance(answer, Proposal)
            if answer.text is None:
                self._barren += 1
                return None
            reason = self._refusal(asked, answer.text)
            if reason is None:
                self._barren = 0
                return self._admit(asked, answer)
            if left:
                (answer,) = yield [Repair(number=self._scheduler.number(), asked=asked, text=answer.text, reason=reason)]
            else:
                self._barren += 1
                self.rejected.append(Rejected(component=asked.component, hypothesis=answer.hypothesis, reason=reason))
        return None

    def _refusal(self, asked: Propose, text: str) -> str | None:
        options, name = self.options.guards, asked.component
        seed, old = self._candidates[SEED].texts[name], asked.parent.texts[name]
        reason = (
            (None if name in options.plain else guards.check_placeholders(seed, text))
            or guards.check_required(text, options.required.get(name, ()))
            or guards.check_growth(seed, text, options.max_growth)
        )
        if reason is None and guards.normalised_hash({**asked.parent.texts, name: text}.values()) in self._hashes:
            reason = "this text was tried before; try another idea"
        if reason is None and options.copy_words and self._records_text is not None:
            records = self._records_text((*asked.failures, *asked.successes))
            reason = guards.check_copy(old, text, records, options.copy_words)
        return reason

    def _admit(self, asked: Propose, answer: Proposal) -> Candidate:
        assert answer.text is not None
        texts = {**asked.parent.texts, asked.component: answer.text}
        child = Candidate(
            candidate_id=f"c{len(self._candidates)}",
            texts=texts,
            parent_id=asked.parent.candidate_id,
            component=asked.component,
            hypothesis=answer.hypothesis,
        )
        self._candidates[child.candidate_id] = child
        self._hashes.add(guards.normalised_hash(texts.values()))
        return child

    def _judge(self, parent: Candidate, children: Sequence[Candidate]) -> None:
        for child in children:
            differences = self.evidence.differences(child.candidate_id, parent.candidate_id)
            if differences and math.fsum(differences) < 0 and child.component:
                change = math.fsum(differences) / len(differences)
                reason = f"reward changed by {change:+.2f} on {len(differences)} common tasks"
                self.rejected.append(Rejected(component=child.component, hypothesis=child.hypothesis, reason=reason))

    def _final(self) -> Process:
        ranked = self._ranked()
        arms = ranked[: self.options.finalists]
        order = list(self._val)
        self._scheduler.random("final").shuffle(order)
        position = 0
        while arms:
            rounds = max(1, math.ceil(math.log2(len(arms) + 1)))
            each = max(0, self._most - self.evidence.spent) // rounds // (len(arms) + 1)
            if each:
                tasks = [order[(position + step) % len(order)] for step in range(each)]
                position += each
                moves = [self._evaluate(self._candidates[name], tasks, "val", "final") for name in (SEED, *arms)]
                self._held += sum(len(move.tasks) for move in moves)
                yield from self._run(moves)
            if len(arms) == 1:
                break
            means = self._fit().posterior.mean
            arms = sorted(arms, key=lambda name: -means[name])[: len(arms) // 2]
        self._end(arms[0] if arms else SEED)

    def _ranked(self) -> list[str]:
        means = self._fit().posterior.mean
        return sorted((name for name in means if name != SEED and self.evidence.count(name)), key=lambda name: -means[name])

    # Ends.

    def _end_without(self, decision: str, reason: str) -> None:
        seed = self._candidates[SEED]
        estimates = (self._estimate(SEED, self._fit()),) if self.evidence.count(SEED) else ()
        self._conclude(decision, seed, seed, estimates, (0.0, math.nan, math.nan, math.nan, 0), reason)

    def _end(self, best: str) -> None:
        differences = self.evidence.differences(best, SEED, "val")
        if best == SEED or not differences:
            self._end_without("no_significant_improvement", f"no candidate was left to compare with the seed{self._why_closed()}")
            return
        fitted = self._fit()
        test = paired_test(differences, math.sqrt(fitted.variances.noise + fitted.variances.interaction))
        passed = test.p_better >= self.options.confidence
        seed, other = self._candidates[SEED], self._candidates[best]
        verdict = f"P(better than the seed) is {test.p_better:.3f}, asked for was {self.options.confidence:g}"
        reason = f"{verdict}: {'the winner is used' if passed else 'no significant improvement, the seed stays'}{self._why_closed()}"
        names = sorted({SEED, best, *self._ranked()[: self.options.finalists]}, key=lambda name: -fitted.posterior.mean[name])
        estimates = tuple(self._estimate(name, fitted) for name in names)
        decision = "improved" if passed else "no_significant_improvement"
        self._conclude(
            decision, other if passed else seed, other, estimates, (test.mean, test.low, test.high, test.p_better, test.n), reason
        )

    def _why_closed(self) -> str:
        return f" ({self._closed})" if self._closed else ""

    def _conclude(
        self,
        decision: str,
        winner: Candidate,
        best: Candidate,
        estimates: tuple[Estimate, ...],
        test: tuple[float, float, float, float, int],
        reason: str,
    ) -> None:
        gain, low, high, p_better, pairs = test
        self._stage = "over"
        self.outcome = Outcome(
            decision=decision,
            winner=winner,
            seed=self._candidates[SEED],
            best=best,
            estimates=estimates,
            gain=gain,
            gain_low=low,
            gain_high=high,
            p_better=p_better,
            pairs=pairs,
            spent=self.evidence.spent,
            cost=self.evidence.cost,
            noise_floor=noise_sd(self.evidence.cells),
            reason=reason,
        )

    def _estimate(self, name: str, fitted: Fit) -> Estimate:
        split = "val" if any(key[0] == "val" for key in fitted.offsets) else "train"
        offsets = [value for key, value in fitted.offsets.items() if key[0] == split]
        mean = fitted.posterior.mean[name] + math.fsum(offsets) / len(offsets)
        half = 1.96 * math.sqrt(fitted.posterior.variance[name])
        return Estimate(candidate_id=name, mean=mean, low=mean - half, high=mean + half, draws=self.evidence.count(name))

    # Helpers.

    def _fit(self) -> Fit:
        parents = {name: one.parent_id for name, one in self._candidates.items()}
        return fit(self.evidence.cells, parents, step_sd=self.options.step_sd)

    def _perfect(self, draw: Draw) -> bool:
        return draw.reward is not None and draw.reward >= self.options.perfect_reward

    def _next_tasks(self, count: int, what: str) -> list[str]:
        # Whole epochs in shuffled order: which tasks come next depends on no outcome.
        taken: list[str] = []
        while len(taken) < min(count, len(self._train)):
            if not self._epoch:
                self._epoch = list(self._train)
                self._scheduler.random(f"epoch {what}").shuffle(self._epoch)
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
    least = options.probe_tasks * options.probe_repeats
    if options.max_rollouts < least:
        raise ValueError(f"`max_rollouts` is {options.max_rollouts}, the probe alone takes {least}; raise it, or lower `probe_tasks`")
    if unknown := set(options.guards.required) - set(seed_texts):
        raise ValueError(f"`required` names prompts that do not exist: {sorted(unknown)}; there are {sorted(seed_texts)}")
