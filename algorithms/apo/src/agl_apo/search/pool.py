"""Pool: the candidates, the ideas that did not help, and what keeps a proposal out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence

from agl_apo.moves import SEED, Answer, Candidate, Move, Proposal, Propose, Rejected, Repair
from agl_apo.search import guards
from agl_apo.search.evidence import Evidence
from agl_apo.search.options import GuardOptions

RecordsText = Callable[[Sequence[str]], Sequence[str]]
"""Gives the texts of training records by ids of rollouts, for the guard against copies. Must give the same again after a resume."""


class Pool:
    """All candidates of a search, by id, parents before children."""

    def __init__(self, seed_texts: Mapping[str, str], options: GuardOptions, records_text: RecordsText | None) -> None:
        self.candidates = {SEED: Candidate(candidate_id=SEED, texts=dict(seed_texts))}
        self.rejected: list[Rejected] = []
        self.barren = 0
        """Proposals in a row without a usable text."""
        self._options, self._records_text = options, records_text
        self._hashes = {guards.normalised_hash(seed_texts.values())}

    @property
    def parents(self) -> dict[str, str | None]:
        """Parent of each candidate."""
        return {name: one.parent_id for name, one in self.candidates.items()}

    def rejected_for(self, component: str, most: int) -> tuple[Rejected, ...]:
        """The newest ideas for a component that did not help."""
        return tuple(one for one in self.rejected if one.component == component)[-most:] if most else ()

    def admitted(self, asked: Propose, answer: Answer, number: Callable[[], int]) -> Generator[list[Move], list[Answer], Candidate | None]:
        """The child that a proposal makes, after at most `repairs` tries at mending it; None when it makes none."""
        for left in range(self._options.repairs, -1, -1):
            assert isinstance(answer, Proposal)
            if answer.text is None:
                break
            reason = self._refusal(asked, answer.text)
            if reason is None:
                self.barren = 0
                return self._admit(asked, answer)
            if left:
                (answer,) = yield [Repair(number=number(), asked=asked, text=answer.text, reason=reason)]
            else:
                self.rejected.append(Rejected(component=asked.component, hypothesis=answer.hypothesis, reason=reason))
        self.barren += 1
        return None

    def _refusal(self, asked: Propose, text: str) -> str | None:
        name, old = asked.component, asked.parent.texts
        if guards.normalised_hash({**old, name: text}.values()) in self._hashes:
            return "this text was tried before; try another idea"
        records = self._records_text((*asked.failures, *asked.successes)) if self._records_text and self._options.copy_words else ()
        return guards.refusal(self._options, name, self.candidates[SEED].texts[name], old[name], text, records)

    def _admit(self, asked: Propose, answer: Proposal) -> Candidate:
        assert answer.text is not None
        child = Candidate(
            candidate_id=f"c{len(self.candidates)}",
            texts={**asked.parent.texts, asked.component: answer.text},
            parent_id=asked.parent.candidate_id,
            component=asked.component,
            hypothesis=answer.hypothesis,
        )
        self.candidates[child.candidate_id] = child
        self._hashes.add(guards.normalised_hash(child.texts.values()))
        return child

    def judge(self, child: Candidate, change: float, draws: int) -> None:
        """Note the idea of a child that its screening does not speak for.

        Args:
            change: Posterior mean of the child minus that of its parent.
            draws: Rewards of the child.
        """
        if change < 0 and child.component is not None:
            reason = f"the reward changed by about {change:+.2f}, from {draws} rollouts"
            self.rejected.append(Rejected(component=child.component, hypothesis=child.hypothesis, reason=reason))


class Contrast:
    """Chooses the rollouts that a proposal is about: failures first, those shown least often before all others."""

    def __init__(self, evidence: Evidence, perfect_reward: float) -> None:
        self._evidence, self._perfect = evidence, perfect_reward
        self._shown: dict[str, int] = {}

    def choose(
        self, candidate_id: str, failures: int, successes: int, chance: Callable[[], float]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Ids of failed and of good rollouts on training tasks, of the failed at most one for each task.

        Args:
            chance: Breaks ties.
        """
        draws = [
            (float(draw.reward or 0.0), chance(), draw) for (split, _), draw in self._evidence.rewarded(candidate_id) if split == "train"
        ]
        bad = sorted(
            (self._shown.get(draw.rollout_id, 0), reward, tie, draw.rollout_id, draw.task_id)
            for reward, tie, draw in draws
            if reward < self._perfect
        )
        good = sorted((-reward, tie, draw.rollout_id) for reward, tie, draw in draws if reward >= self._perfect)
        by_task: dict[str, str] = {}
        for *_, rollout_id, task_id in bad:
            by_task.setdefault(task_id, rollout_id)
        chosen = tuple(by_task.values())[:failures]
        for rollout_id in chosen:
            self._shown[rollout_id] = self._shown.get(rollout_id, 0) + 1
        return chosen, tuple(rollout_id for _, _, rollout_id in good[:successes])
