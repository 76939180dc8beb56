"""Beam: the search of the reference's APO, move by move, for comparison.

Written after the description of `agentlightning.algorithm.apo` 0.3.0 in its documentation: the seed is scored on all validation tasks; in
each round every parent gets `branch_factor` children, each from a fresh batch of training tasks; old beam and children are scored on one
random validation batch and the best `beam_width` survive; the leader is scored on all validation tasks and is the result when it has
strictly more than any leader before. Its habits are kept: a proposal that fails counts as a child with the text of its parent, a missing reward as 0,
no guard, no test.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence

from agl_apo.moves import SEED, Answer, Candidate, Draw, Evaluate, Move, Proposal, Propose
from agl_apo.search.evidence import Evidence, usable
from agl_apo.search.options import BeamOptions
from agl_apo.search.outcome import Estimate, Outcome
from agl_apo.search.scheduler import Process, Scheduler
from agl_apo.search.statistics import noise_sd


def beam_rollouts(options: BeamOptions, val_tasks: int, train_tasks: int | None = None) -> int:
    """Rollouts that a beam search takes: ``V + sum_r (W B g + (|beam_r| + W B) v + V)``.

    Args:
        options: W = `beam_width`, B = `branch_factor`, g = `gradient_batch_size`, v = `val_batch_size`.
        val_tasks: V. A batch has no more tasks than there are.
        train_tasks: The same for g; None for enough.
    """
    batch = min(options.val_batch_size, val_tasks)
    gradient = options.gradient_batch_size if train_tasks is None else min(options.gradient_batch_size, train_tasks)
    children = options.beam_width * options.branch_factor
    spent, beam = val_tasks * options.run_initial_validation, 1
    for _ in range(options.beam_rounds):
        spent += children * gradient + (beam + children) * batch + val_tasks
        beam = min(options.beam_width, beam + children)
    return spent


class Beam:
    """The search. One move at a time, as the reference; arguments as of `Racing`."""

    def __init__(
        self,
        seed_texts: Mapping[str, str],
        train_tasks: Sequence[str],
        val_tasks: Sequence[str],
        options: BeamOptions | None = None,
        *,
        seed: int = 0,
    ) -> None:
        if len(seed_texts) != 1:
            raise ValueError(f"the beam search changes one prompt, given were {sorted(seed_texts)}; name one, or use the default strategy")
        if not train_tasks or not val_tasks:
            raise ValueError("the beam search needs training tasks and validation tasks")
        self.options = options or BeamOptions()
        self.evidence = Evidence()
        self.outcome: Outcome | None = None
        self._component = next(iter(seed_texts))
        self._train, self._val = tuple(train_tasks), tuple(val_tasks)
        self._candidates = {SEED: Candidate(candidate_id=SEED, texts=dict(seed_texts))}
        self._batches: dict[str, list[str]] = {}
        self._scheduler = Scheduler(seed)
        self._scheduler.start(self._search())

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
        return self._scheduler.next()

    def tell(self, move: Move, answer: Answer) -> None:
        """Take the answer to a move."""
        self._scheduler.answered(move, answer)

    def _search(self) -> Process:
        options, beam, best = self.options, [SEED], (SEED, -math.inf)
        if options.run_initial_validation:
            best = (SEED, (yield from self._score(SEED, self._val, "initial")))
        for turn in range(options.beam_rounds):
            pool = [*beam]
            for parent in self._parents(beam, turn):
                for _ in range(options.branch_factor):
                    pool.append((yield from self._child(parent)))
            batch = self._batch("val", self._val, options.val_batch_size)
            scores = {}
            for name in pool:
                scores[name] = yield from self._score(name, batch, "select")
            beam = sorted(pool, key=lambda name: -scores[name])[: options.beam_width]
            leader = yield from self._score(beam[0], self._val, "leader")
            if leader > best[1]:
                best = (beam[0], leader)
        self._end(*best)

    def _parents(self, beam: Sequence[str], turn: int) -> list[str]:
        width = self.options.beam_width
        if len(beam) < width:
            return [beam[number % len(beam)] for number in range(width)]
        return self._scheduler.random(f"parents {turn}").sample(beam, width)

    def _child(self, parent: str) -> Generator[list[Move], list[Answer], str]:
        draws = yield from self._evaluate(parent, self._batch("train", self._train, self.options.gradient_batch_size), "train", "gradient")
        good = [usable(draw) and (draw.reward or 0.0) >= self.options.perfect_reward for draw in draws]
        ids = [draw.rollout_id for draw in draws]
        asked = Propose(
            number=self._scheduler.number(),
            parent=self._candidates[parent],
            component=self._component,
            failures=tuple(name for name, fine in zip(ids, good, strict=True) if not fine),
            successes=tuple(name for name, fine in zip(ids, good, strict=True) if fine),
        )
        (proposal,) = yield [asked]
        assert isinstance(proposal, Proposal)
        text = asked.parent.texts[self._component] if proposal.text is None else proposal.text
        made = Candidate(
            candidate_id=f"c{len(self._candidates)}",
            texts={self._component: text},
            parent_id=parent,
            component=self._component,
            hypothesis=proposal.hypothesis,
        )
        self._candidates[made.candidate_id] = made
        return made.candidate_id

    def _score(self, name: str, tasks: Sequence[str], stage: str) -> Generator[list[Move], list[Answer], float]:
        draws = yield from self._evaluate(name, tasks, "val", stage)
        return math.fsum(draw.reward or 0.0 for draw in draws if usable(draw)) / len(draws)

    def _evaluate(self, name: str, tasks: Sequence[str], split: str, stage: str) -> Generator[list[Move], list[Answer], list[Draw]]:
        move = Evaluate(number=self._scheduler.number(), candidate=self._candidates[name], tasks=tuple(tasks), split=split, stage=stage)
        (answer,) = yield [move]
        assert not isinstance(answer, Proposal)
        self.evidence.add(name, split, answer)
        return list(answer)

    def _batch(self, split: str, tasks: Sequence[str], size: int) -> list[str]:
        # Batches of a shuffled epoch; a last one that would be short begins the next epoch.
        left = self._batches.get(split, [])
        size = min(size, len(tasks))
        if len(left) < size:
            left = list(tasks)
            self._scheduler.random(f"epoch {split}").shuffle(left)
        self._batches[split] = left[size:]
        return left[:size]

    def _end(self, best: str, score: float) -> None:
        seed, winner = self._candidates[SEED], self._candidates[best]
        first = self.evidence.mean(SEED, "val")
        known = () if score == -math.inf else (self._estimate(best, score),)
        self.outcome = Outcome(
            decision="no_significant_improvement" if best == SEED else "improved",
            winner=winner,
            seed=seed,
            best=winner,
            estimates=known,
            gain=math.nan if first is None else score - first,
            gain_low=math.nan,
            gain_high=math.nan,
            p_better=math.nan,
            pairs=0,
            spent=self.evidence.spent,
            cost=self.evidence.cost,
            noise_floor=noise_sd(self.evidence.cells),
            reason="the leader with the highest mean on all validation tasks; this search makes no test",
        )

    def _estimate(self, name: str, score: float) -> Estimate:
        return Estimate(candidate_id=name, mean=score, low=math.nan, high=math.nan, draws=self.evidence.count(name))
