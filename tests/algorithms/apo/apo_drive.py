"""Plays a search against a toy world: a prompt succeeds the more often the more good words it has."""

from random import Random

from agl_apo.moves import Draw, Evaluate, Proposal, Propose

SEED_TEXTS = {"prompt": "Answer {question}."}
TRAIN = [f"train-{number}" for number in range(20)]
VAL = [f"val-{number}" for number in range(20)]


class Toy:
    """A world whose proposer adds a good or a bad word.

    Args:
        seed: of its chance.
        base: probability of success of the seed.
        worth: what a good word adds to it, and a bad one takes.
        hit: share of good words.
        rewards: replaces the reward of a draw, from its texts and its task.
        propose: replaces the proposer, from the move and a source of chance.
    """

    def __init__(self, seed=0, *, base=0.4, worth=0.1, hit=0.6, rewards=None, propose=None):
        self.chance, self.base, self.worth, self.hit = Random(f"toy {seed}"), base, worth, hit
        self.rewards, self.propose = rewards, propose
        self.plays = 0

    def true(self, texts):
        words = " ".join(texts.values()).split()
        return min(1.0, max(0.0, self.base + self.worth * (words.count("good") - words.count("bad"))))

    def answer(self, move):
        if isinstance(move, Evaluate):
            return [self._draw(move, task) for task in move.tasks]
        if self.propose is not None:
            return self.propose(move, self.chance)
        if not isinstance(move, Propose):
            return Proposal(text=None, error="nothing to say")
        word = "good" if self.chance.random() < self.hit else "bad"
        noise = self.chance.randrange(10**6)
        return Proposal(text=f"{move.parent.texts[move.component]} {word} {noise}", hypothesis=f"{word} {noise}")

    def _draw(self, move, task):
        self.plays += 1
        texts = move.candidate.texts
        reward = float(self.chance.random() < self.true(texts)) if self.rewards is None else self.rewards(texts, task)
        return Draw(task_id=task, reward=reward, rollout_id=f"ro-{self.plays}", cost=0.5)


def drive(search, world, *, order=None):
    """Play to the end; `order` draws which open move is answered next, else the oldest. Gives (move, answer) as they were told."""
    open_moves, told = [], []
    while not search.done:
        while (move := search.ask()) is not None:
            open_moves.append(move)
        if search.done:
            break
        assert open_moves, "the search waits for nothing"
        move = open_moves.pop(order.randrange(len(open_moves)) if order else 0)
        told.append((move, world.answer(move)))
        search.tell(*told[-1])
    assert not open_moves
    assert search.ask() is None
    return told
