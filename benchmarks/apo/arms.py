"""Arms: one search each on one world, with the same critic and editor, and at most the same number of rollouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

import gepa
import msgspec
from gepa.core.adapter import EvaluationBatch
from worlds import Play, World

from agl_apo.moves import Answer, Draw, Evaluate, Move, Proposal, Propose
from agl_apo.search import Beam, BeamOptions, GuardOptions, Racing, RacingOptions, beam_rollouts


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What an arm brought."""

    truth: float
    """True score of what it returned."""
    reported: float | None
    """The score that it reports for it."""
    spent: int
    """Rollouts."""
    proposals: int
    """Texts asked of the proposer, repairs included."""
    covered: bool | None = None
    """Whether the reported interval has the true score in it."""


class Player:
    """A world for one run: plays rollouts, keeps their records, counts."""

    def __init__(self, world: World, seed: str) -> None:
        self.world = world
        self.draw = Random(seed)
        self.plays: dict[str, Play] = {}
        self.proposals = 0

    def play(self, texts: dict[str, str], task: str) -> tuple[str, float]:
        """One rollout: its id and its reward."""
        play = self.world.play(texts, task, self.draw)
        name = f"ro{len(self.plays)}"
        self.plays[name] = play
        return name, play.reward

    def propose(
        self, texts: dict[str, str], component: str, rollouts: Sequence[str], rejected: Sequence[str] = ()
    ) -> tuple[str | None, str]:
        """A new text and the idea behind it."""
        self.proposals += 1
        return self.world.propose(texts, component, [self.plays[name] for name in rollouts], rejected, self.draw)

    def result(self, texts: dict[str, str], reported: float | None) -> Result:
        """What came of it."""
        return Result(truth=self.world.truth(texts), reported=reported, spent=len(self.plays), proposals=self.proposals)


def run_seed(world: World, budget: int, seed: str) -> Result:
    """No search."""
    return Player(world, seed).result(world.seed_texts, None)


def run_random(world: World, budget: int, seed: str) -> Result:
    """Random edits: a new text replaces the best one when it brings more on the same eight tasks."""
    player = Player(world, seed)
    best, reported = world.seed_texts, None
    while len(player.plays) + 16 <= budget:
        component = player.draw.choice(world.names)
        child = {**best, component: world.blind(best, component, player.draw)}
        tasks = player.draw.sample(world.ids("train"), 8)
        old, new = (sum(player.play(texts, task)[1] for task in tasks) / 8 for texts in (best, child))
        if new > old:
            best, reported = child, new
    return player.result(best, reported)


BEAMS = {240: BeamOptions(beam_width=2, branch_factor=2, beam_rounds=2, val_batch_size=10), 1224: BeamOptions()}
"""The reference's example and its defaults: 232 and 1,224 rollouts with 30 validation tasks."""


def run_beam(world: World, budget: int, seed: str) -> Result:
    """The reference's search. It changes one prompt, the first."""
    player, name = Player(world, seed), world.names[0]
    rest = {one: text for one, text in world.seed_texts.items() if one != name}
    search = Beam({name: world.seed_texts[name]}, world.ids("train"), world.ids("val"), BEAMS[budget], seed=player.draw.randrange(2**32))
    outcome = drive(search, player, rest)
    assert outcome.spent == len(player.plays) == beam_rollouts(BEAMS[budget], world.parameters.tasks)
    return player.result({**rest, **outcome.winner.texts}, outcome.estimates[0].mean)


def run_racing(world: World, budget: int, seed: str, **options: Any) -> Result:
    """Ours."""
    player = Player(world, seed)
    search = Racing(
        world.seed_texts,
        world.ids("train"),
        world.ids("val"),
        RacingOptions(max_rollouts=budget, **options),
        seed=player.draw.randrange(2**32),
    )
    outcome = drive(search, player, {})
    assert outcome.spent == len(player.plays) <= budget
    told = next(one for one in outcome.estimates if one.candidate_id == outcome.winner.candidate_id)
    result = player.result(outcome.winner.texts, told.mean)
    return msgspec.structs.replace(result, covered=told.low <= result.truth <= told.high)


def drive(search: Racing | Beam, player: Player, rest: dict[str, str]) -> Any:
    """Play a search to its end: all moves that may start are started, their answers come one at a time, oldest first."""
    started: list[tuple[Move, Answer]] = []
    while not search.done:
        while (move := search.ask()) is not None:
            started.append((move, answer(move, player, rest)))
        if not search.done:
            search.tell(*started.pop(0))
    assert search.outcome is not None
    return search.outcome


def answer(move: Move, player: Player, rest: dict[str, str]) -> Answer:
    """What the world says to a move."""
    if isinstance(move, Evaluate):
        played = [(task, *player.play({**rest, **move.candidate.texts}, task)) for task in move.tasks]
        return [Draw(task_id=task, rollout_id=name, reward=reward) for task, name, reward in played]
    if isinstance(move, Propose):
        rejected = [idea for one in move.rejected for idea in one.hypothesis.split("; ")]
        text, idea = player.propose({**rest, **move.parent.texts}, move.component, (*move.failures, *move.successes), rejected)
        return Proposal(text=text, hypothesis=idea)
    player.proposals += 1
    return Proposal(text=player.world.mend(move.text, player.draw))


class GepaAdapter:
    """The world for `gepa`, through its adapter protocol, with the same proposer."""

    def __init__(self, player: Player) -> None:
        self.player = player

    def evaluate(self, batch: list[str], candidate: dict[str, str], capture_traces: bool = False) -> EvaluationBatch[str, str]:
        """Rollouts of a candidate; a trajectory is the id of its record."""
        played = [self.player.play(candidate, task) for task in batch]
        names = [name for name, _ in played]
        return EvaluationBatch(outputs=names, scores=[reward for _, reward in played], trajectories=names if capture_traces else None)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: EvaluationBatch[str, str], components_to_update: list[str]
    ) -> dict[str, list[dict[str, Any]]]:
        """The ids of the records, for each component."""
        return {name: [{"rollout": one} for one in eval_batch.trajectories or ()] for name in components_to_update}

    def propose_new_texts(self, candidate: dict[str, str], reflective_dataset: Any, components_to_update: list[str]) -> dict[str, str]:
        """The world's critic and editor; the old text where they bring nothing."""
        made = {}
        for name in components_to_update:
            text, _ = self.player.propose(candidate, name, [record["rollout"] for record in reflective_dataset[name]])
            made[name] = candidate[name] if text is None else text
        return made


class Silent:
    """A logger for gepa that writes nothing."""

    def log(self, message: str) -> None:
        """Nothing."""


def run_gepa(world: World, budget: int, seed: str) -> Result:
    """The real package at its defaults. It looks at its budget between its steps only, and may pass it."""
    player = Player(world, seed)
    found = gepa.optimize(
        seed_candidate=dict(world.seed_texts),
        trainset=world.ids("train"),
        valset=world.ids("val"),
        adapter=GepaAdapter(player),
        max_metric_calls=budget,
        seed=player.draw.randrange(2**32),
        logger=Silent(),
    )
    assert isinstance(found.best_candidate, dict)
    return player.result(found.best_candidate, max(found.val_aggregate_scores))


ARMS: dict[str, Callable[[World, int, str], Result]] = {
    "seed": run_seed,
    "random": run_random,
    "beam": run_beam,
    "gepa": run_gepa,
    "racing": run_racing,
}

ABLATIONS: dict[str, Callable[[World, int, str], Result]] = {
    "4 at once": partial(run_racing, concurrency=4),
    "parent drawn anew": partial(run_racing, redraw_parent=True),
    "gate at P > 0.5": partial(run_racing, confidence=0.0),
    "one failure shown": partial(run_racing, failures_shown=1),
    "no repair": partial(run_racing, guards=GuardOptions(repairs=0)),
}
"""Ours without one of its parts."""
