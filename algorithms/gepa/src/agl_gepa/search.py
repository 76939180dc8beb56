"""Search: gepa as moves that are asked and told, so that AGL's budgets, ledger and resume hold for it as for any search.

gepa runs in a thread of its own and stands still while a move is under way: only one of the two threads works at a time. It draws from its own seeded
generator, so that the same answers lead to the same moves.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from random import Random
from typing import Any

import gepa

from agl.report.intervals import estimate as interval
from agl_apo.moves import SEED, Answer, Candidate, Draw, Evaluate, Move, Proposal, Propose, Rejected, Repair
from agl_apo.search import Estimate, GuardOptions, Outcome, guards
from agl_apo.search.evidence import Evidence
from agl_apo.search.final import bounded
from agl_apo.search.racing import RecordsText
from agl_apo.search.scheduler import check_answer
from agl_apo.search.statistics import noise_sd, paired_test
from agl_gepa.adapter import Adapter, Instance, Trajectory
from agl_gepa.options import GepaOptions


class _Ended(BaseException):
    """The budget is spent, or nobody answers any more. gepa goes on after exceptions, so that it is none."""


class _Silent:
    def log(self, message: str) -> None:
        """gepa's own log is not shown."""


class Gepa:
    """The search; see `agl_apo.moves.Search`.

    Args:
        seed_texts: text of every prompt, by the name of its resource.
        train_tasks: ids of the tasks to learn from.
        val_tasks: ids of the tasks by which gepa keeps its front, and on which winner and seed are compared anew.
        max_rollouts: budget, the comparison included; never exceeded.
        seed: of everything that is drawn.
        records_text: texts of training records by ids of rollouts, for the guard against copies.

    Raises:
        ValueError: what it is given cannot work.
    """

    def __init__(
        self,
        seed_texts: Mapping[str, str],
        train_tasks: Sequence[str],
        val_tasks: Sequence[str],
        options: GepaOptions,
        guard_options: GuardOptions,
        *,
        max_rollouts: int,
        seed: int = 0,
        records_text: RecordsText | None = None,
    ) -> None:
        search = int((1 - options.reserve) * max_rollouts)
        least = len(val_tasks) + 2 * options.reflection_minibatch_size
        if search < least:
            raise ValueError(
                f"gepa scores every candidate on all validation tasks: {search} of {max_rollouts} rollouts are for the search, the seed and one "
                f"child take {least}; raise `max_rollouts`, or give fewer validation tasks"
            )
        self.options, self.guards = options, guard_options
        self.evidence = Evidence()
        self.rejected: list[Rejected] = []
        self.outcome: Outcome | None = None
        self._train, self._val, self._seed = tuple(train_tasks), tuple(val_tasks), seed
        self._max, self._for_search = max_rollouts, search
        self._records_text = records_text
        self._candidates = {SEED: Candidate(candidate_id=SEED, texts=dict(seed_texts))}
        self._ids = {_key(seed_texts): SEED}
        self._hypotheses: dict[tuple[tuple[str, str], ...], tuple[str, str, str]] = {}
        self._fresh: dict[str, list[Draw]] = {}
        self._numbered, self._idle, self._hurried = 0, 0, ""
        self._requests: SimpleQueue[Move | BaseException | None] = SimpleQueue()
        self._answers: SimpleQueue[Answer | None] = SimpleQueue()
        self._flying: Move | None = None
        self._adapter = Adapter(self)
        self._thread = threading.Thread(target=self._work, name="agl-gepa", daemon=True)
        self._started = False

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
        """The next move, of which there is one at a time."""
        if self._flying is not None or self.done:
            return None
        if not self._started:
            self._started = True
            self._thread.start()
        asked = self._requests.get()
        if isinstance(asked, BaseException):
            raise asked
        self._flying = asked
        return asked

    def tell(self, move: Move, answer: Answer) -> None:
        """Take the answer to the move."""
        if self._flying is None or move.number != self._flying.number:
            raise ValueError(f"move {move.number} is not open; open is {self._flying}")
        check_answer(self._flying, answer)
        self._flying = None
        self._answers.put(answer)

    def hurry(self, reason: str = "asked to end", most: int | None = None) -> None:
        """Compare what there is with the seed, with at most `most` further rollouts."""
        self._hurried = self._hurried or reason
        if most is not None:
            self._max = min(self._max, self.evidence.spent + most)

    def close(self) -> None:
        """End gepa's thread; twice is allowed."""
        if self._started and self._thread.is_alive():
            self._answers.put(None)
            self._thread.join(10.0)

    # gepa's thread.

    def _work(self) -> None:
        try:
            with contextlib.suppress(_Ended):
                self._optimize()
            self._compare()
        except _Ended:
            return
        except BaseException as error:  # raised where the moves are asked for
            self._requests.put(error)
            return
        self._requests.put(None)

    def _optimize(self) -> None:
        options = self.options
        given: dict[str, Any] = {
            "reflection_minibatch_size": options.reflection_minibatch_size,
            "candidate_selection_strategy": options.candidate_selection_strategy,
            "skip_perfect_score": options.skip_perfect_score,
            "perfect_score": options.perfect_score,
            "use_merge": options.use_merge,
            "max_merge_invocations": options.max_merge_invocations,
        }
        gepa.optimize(
            seed_candidate=dict(self._candidates[SEED].texts),
            trainset=[Instance("train", task) for task in self._train],
            valset=[Instance("val", task) for task in self._val],
            adapter=self._adapter,
            stop_callbacks=self._stop,
            logger=_Silent(),
            seed=self._seed,
            raise_on_exception=True,
            track_best_outputs=False,
            **given,
        )

    def _stop(self, state: Any) -> bool:
        self._idle += 1
        return bool(self._hurried) or self._idle > self.options.patience

    def rollouts(self, texts: Mapping[str, str], split: str, tasks: Sequence[str], stage: str) -> list[Draw]:
        """Run a candidate; for the adapter."""
        limit = self._max if stage == "final" else min(self._max, self._for_search)
        if self.evidence.spent + len(tasks) > limit:
            raise _Ended
        self._idle = 0
        candidate = self._candidate(texts)
        draws = self._asked(Evaluate(number=self._number(), candidate=candidate, tasks=tuple(tasks), split=split, stage=stage))
        assert not isinstance(draws, Proposal)
        self.evidence.add(candidate.candidate_id, split, draws)
        return list(draws)

    def rewrite(self, texts: Mapping[str, str], component: str, records: Sequence[Trajectory]) -> str:
        """A new text for one prompt, mended once where a guard refuses it; for the adapter."""
        parent = self._candidate(texts)
        bad = [each.rollout_id for each in records if each.reward < self.options.perfect_score]
        good = [each.rollout_id for each in records if each.reward >= self.options.perfect_score]
        rejected = tuple(one for one in self.rejected if one.component == component)[-8:]
        move = Propose(
            number=self._number(), parent=parent, component=component, failures=tuple(bad), successes=tuple(good), rejected=rejected
        )
        answer = self._asked(move)
        for left in range(self.guards.repairs, -1, -1):
            assert isinstance(answer, Proposal)
            if answer.text is None:
                break
            reason = self._refusal(move, answer.text)
            if reason is None:
                child = _key({**texts, component: answer.text})
                self._hypotheses.setdefault(child, (parent.candidate_id, component, answer.hypothesis))
                return answer.text
            if left:
                answer = self._asked(Repair(number=self._number(), asked=move, text=answer.text, reason=reason))
            else:
                self.rejected.append(Rejected(component=component, hypothesis=answer.hypothesis, reason=reason))
        return texts[component]

    def _refusal(self, asked: Propose, text: str) -> str | None:
        records = self._records_text((*asked.failures, *asked.successes)) if self._records_text is not None else ()
        name = asked.component
        return guards.refusal(self.guards, name, self._candidates[SEED].texts[name], asked.parent.texts[name], text, records)

    def _asked(self, move: Move) -> Answer:
        self._requests.put(move)
        answer = self._answers.get()
        if answer is None:
            raise _Ended
        return answer

    def _number(self) -> int:
        self._numbered += 1
        return self._numbered - 1

    def _candidate(self, texts: Mapping[str, str]) -> Candidate:
        key = _key(texts)
        if key not in self._ids:
            parent, component, hypothesis = self._hypotheses.get(key, (None, None, "merged from two candidates"))
            made = Candidate(
                candidate_id=f"c{len(self._candidates)}", texts=dict(texts), parent_id=parent, component=component, hypothesis=hypothesis
            )
            self._ids[key] = made.candidate_id
            self._candidates[made.candidate_id] = made
        return self._candidates[self._ids[key]]

    # The gate.

    def _compare(self) -> None:
        """gepa's best, the highest mean on all validation tasks, against the seed on fresh rollouts: the mean that chose it is too high."""
        best = self._best()
        if best == SEED:
            self._conclude("no_significant_improvement", SEED, None, "gepa found no candidate that is better than the seed")
            return
        fresh = self._fresh = {SEED: list[Draw](), best: list[Draw]()}
        order, position = list(self._val), 0
        Random(f"{self._seed}:final").shuffle(order)
        each = (self._max - self.evidence.spent) // 2
        while position < each:
            tasks = order[: each - position]
            for name in fresh:
                fresh[name] += self.rollouts(self._candidates[name].texts, "val", tasks, "final")
            position += len(tasks)
        differences = _differences(fresh[SEED], fresh[best])
        if not differences:
            self._conclude(
                "no_significant_improvement", best, None, f"no rollout was left to compare the winner with the seed{self._why()}"
            )
            return
        scale = noise_sd(self.evidence.cells)
        test = paired_test(differences, 0.0 if math.isnan(scale) else scale)
        passed = test.p_better >= self.options.confidence
        verdict = "the winner is used" if passed else "no significant improvement, the seed stays"
        reason = f"P(better than the seed) is {test.p_better:.3f}, asked for was {self.options.confidence:g}: {verdict}{self._why()}"
        self._conclude("improved" if passed else "no_significant_improvement", best, test, reason)

    def _best(self) -> str:
        """Of those that were scored on all validation tasks."""
        whole = [name for name in self._candidates if self._scored(name) == len(self._val)]
        means = {name: self.evidence.mean(name, "val") for name in whole}
        return max(means, key=lambda name: (means[name] or 0.0, name == SEED), default=SEED)

    def _scored(self, name: str) -> int:
        return len({key for key, _ in self.evidence.draws.get(name, ()) if key[0] == "val"})

    def _why(self) -> str:
        return f" ({self._hurried})" if self._hurried else ""

    def _conclude(self, decision: str, best: str, test: Any, reason: str) -> None:
        seed, other = self._candidates[SEED], self._candidates[best]
        outcome = Outcome(
            decision=decision,
            winner=other if decision == "improved" else seed,
            seed=seed,
            best=other,
            estimates=tuple(self._estimate(name) for name in dict.fromkeys((best, SEED)) if self._fresh.get(name)),
            gain=0.0 if test is None else test.mean,
            gain_low=math.nan if test is None else test.low,
            gain_high=math.nan if test is None else test.high,
            p_better=math.nan if test is None else test.p_better,
            pairs=0 if test is None else test.n,
            spent=self.evidence.spent,
            cost=self.evidence.cost,
            noise_floor=noise_sd(self.evidence.cells),
            reason=reason,
        )
        self.outcome = bounded(outcome, self.evidence)

    def _estimate(self, name: str) -> Estimate:
        """By the fresh rollouts alone."""
        found = interval([draw.reward for draw in self._fresh[name] if draw.reward is not None])
        low, high = (math.nan, math.nan) if found is None or found.low is None or found.high is None else (found.low, found.high)
        return Estimate(
            candidate_id=name, mean=math.nan if found is None else found.mean, low=low, high=high, draws=self.evidence.count(name)
        )


def _key(texts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(texts.items()))


def _differences(seed: Sequence[Draw], winner: Sequence[Draw]) -> list[float]:
    """Of mean rewards by task, winner minus seed, on the tasks that both have a reward on."""
    sums: dict[str, tuple[list[float], list[float]]] = {}
    for place, draws in enumerate((seed, winner)):
        for draw in draws:
            if draw.reward is not None:
                sums.setdefault(draw.task_id, ([], []))[place].append(draw.reward)
    return [math.fsum(new) / len(new) - math.fsum(old) / len(old) for old, new in sums.values() if old and new]
