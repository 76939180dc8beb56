"""Worlds with analytic truth: tasks that need rules, an agent that follows the rules its prompts contain, a critic and an editor.

A prompt is a text with lines such as `- Rule 7.`; the agent reads the text, so that an edit really changes what it does. A task needs
some rules; each one that is missing spoils the answer with a probability of its own, as do lures (rules that sound right and
hurt some families of tasks). So the probability of success is a product, and the true score of a prompt is its mean over
held-out tasks, without sampling. A rollout's record names the causes that spoiled it; the critic hits one of them with a known
probability and else invents a rule. Nothing here is imported by a search, and no search is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

import msgspec

RULE = re.compile(r"- Rule (\w+)\.")
PLACEHOLDER = "{question}"
TEST_TASKS = 400


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """What a world is like. Each seed draws tasks, rules and weights anew."""

    name: str
    rules: int = 10
    """Rules that some tasks need, over all components."""
    given: int = 2
    """Rules that the seed already has; all of them where it is -1."""
    needs: tuple[int, int] = (1, 4)
    """Least and most rules that a task needs."""
    weight: tuple[float, float] = (0.3, 0.6)
    """Probability that a missing rule spoils a task that needs it: between these."""
    base: float = 0.95
    """Probability of success when nothing spoils the answer."""
    families: int = 4
    """Families of tasks: a lure hurts some of them."""
    lures: int = 8
    """Rules that hurt half of the families, each with a probability from `lure_weight`."""
    lure_weight: tuple[float, float] = (0.1, 0.4)
    fillers: int = 12
    """Rules that do nothing, but for the length that they add."""
    crowd: int = 16
    """Rules in one prompt above which every further one spoils 2 % of the answers."""
    conflicts: int = 0
    """Rules that also hurt the tasks of other families; each has a narrow form that does not."""
    hit: float = 0.6
    """Probability that an idea of the critic is a cause of a failure that it was shown."""
    lured: float = 0.3
    """Probability that any other idea is a lure, and not a filler."""
    fixes: int = 2
    """Most ideas in one edit."""
    slip: float = 0.01
    """Probability that an edit loses a line that it should have kept, for each line."""
    breaks: float = 0.02
    """Probability that an edit breaks the placeholder."""
    silent: float = 0.02
    """Probability that the proposer brings nothing."""
    components: int = 1
    noisy: bool = True
    """Whether a reward is 0 or 1 by chance; else it is the probability itself."""
    tasks: int = 30
    """Training tasks, and as many validation tasks."""


class Task(msgspec.Struct, frozen=True):
    """What a task needs."""

    family: int
    needs: tuple[str, ...]


class Play(msgspec.Struct, frozen=True):
    """The record of a rollout."""

    reward: float
    causes: tuple[tuple[str, str], ...]
    """(`add` or `drop`, rule) that would have helped: what feedback on this rollout can show."""


class World:
    """One world."""

    def __init__(self, parameters: Parameters, seed: int) -> None:
        self.parameters = at = parameters
        draw = Random(f"world:{at.name}:{seed}")
        self.names = [f"prompt{number}" for number in range(at.components)]
        self.home = {f"r{number}": self.names[number % at.components] for number in range(at.rules)}
        self.weight = {rule: draw.uniform(*at.weight) for rule in self.home}
        families = range(at.families)
        self.hurts = {
            f"l{number}": dict.fromkeys(draw.sample(families, at.families // 2), draw.uniform(*at.lure_weight))
            for number in range(at.lures)
        }
        self.narrow: dict[str, str] = {}
        for number in draw.sample(range(at.rules), at.conflicts):
            broad = f"r{number}"
            self.narrow[broad] = f"n{number}"
            self.hurts[broad] = dict.fromkeys(draw.sample(families, at.families // 2), draw.uniform(0.3, 0.5))
        self.fillers = [f"f{number}" for number in range(at.fillers)]
        self.tasks = {f"{split}{number}": self._task(draw) for split in ("train", "val") for number in range(at.tasks)}
        self._test = [self._task(draw) for _ in range(TEST_TASKS)]
        given = list(self.home) if at.given < 0 else draw.sample(list(self.home), at.given)
        self.seed_texts = {name: text_of([rule for rule in given if self.home[rule] == name]) for name in self.names}
        self._known: dict[tuple[str, ...], list[list[str]] | None] = {}

    def _task(self, draw: Random) -> Task:
        family, count = draw.randrange(self.parameters.families), draw.randint(*self.parameters.needs)
        # A conflicting rule is needed by no task of a family that it hurts.
        able = [rule for rule in self.home if family not in self.hurts.get(rule, {})]
        return Task(family, tuple(draw.sample(able, min(count, len(able)))))

    def ids(self, split: str) -> list[str]:
        """Ids of the tasks of `train` or `val`."""
        return [name for name in self.tasks if name.startswith(split)]

    def truth(self, texts: dict[str, str]) -> float:
        """Expected reward on held-out tasks, exact."""
        read = self._read(texts)
        return sum(self._success(read, task) for task in self._test) / len(self._test) if read is not None else 0.0

    def expected(self, texts: dict[str, str], task_id: str) -> float:
        """Expected reward on one training or validation task, exact."""
        read = self._read(texts)
        return 0.0 if read is None else self._success(read, self.tasks[task_id])

    def play(self, texts: dict[str, str], task_id: str, draw: Random) -> Play:
        """One rollout."""
        read, task = self._read(texts), self.tasks[task_id]
        if read is None:
            return Play(0.0, ())
        causes = self._causes(read, task)
        if not self.parameters.noisy:
            return Play(self._success(read, task), tuple(cause for cause, _ in causes))
        bitten = tuple(cause for cause, weight in causes if draw.random() < weight)
        fine = draw.random() < self._unspoiled(read)
        return Play(float(fine and not bitten), bitten)

    def _read(self, texts: dict[str, str]) -> list[list[str]] | None:
        # The rules of each prompt; None where a prompt cannot be filled in.
        key = tuple(texts[name] for name in self.names)
        if key not in self._known:
            broken = any(text.count(PLACEHOLDER) != 1 or "{" in text.replace(PLACEHOLDER, "") for text in key)
            self._known[key] = None if broken else [RULE.findall(text) for text in key]
        return self._known[key]

    def _causes(self, read: list[list[str]], task: Task) -> list[tuple[tuple[str, str], float]]:
        at_home = {
            rule
            for name, rules in zip(self.names, read, strict=True)
            for rule in rules
            if self.home.get(rule.replace("n", "r"), name) == name
        }
        missing = [rule for rule in task.needs if rule not in at_home and self.narrow.get(rule) not in at_home]
        harm = [(rule, self.hurts[rule][task.family]) for rule in sorted(at_home) if task.family in self.hurts.get(rule, {})]
        return [(("add", rule), self.weight[rule]) for rule in missing] + [(("drop", rule), weight) for rule, weight in harm]

    def _unspoiled(self, read: list[list[str]]) -> float:
        crowded = sum(max(0, len(rules) - self.parameters.crowd) for rules in read)
        return self.parameters.base * 0.98**crowded

    def _success(self, read: list[list[str]], task: Task) -> float:
        chance = self._unspoiled(read)
        for _, weight in self._causes(read, task):
            chance *= 1.0 - weight
        return chance

    # The critic and the editor.

    def propose(
        self, texts: dict[str, str], component: str, shown: Sequence[Play], rejected: Sequence[str], draw: Random
    ) -> tuple[str | None, str]:
        """A new text for a component and the idea behind it, from the records that are shown; None when nothing came."""
        if draw.random() < self.parameters.silent:
            return None, ""
        ideas = []
        for _ in range(draw.randint(1, self.parameters.fixes)):
            idea = self._idea(component, shown, draw)
            # Told that an idea did not help, the critic looks for another one, once.
            if f"{idea[0]} {idea[1]}" in rejected:
                idea = self._idea(component, shown, draw)
            if idea not in ideas:
                ideas.append(idea)
        return self._edit(texts[component], ideas, draw), "; ".join(f"{what} {rule}" for what, rule in ideas)

    def blind(self, texts: dict[str, str], component: str, draw: Random) -> str:
        """A random edit: any rule of the world is added."""
        rule = draw.choice([*self.home, *self.narrow.values(), *(name for name in self.hurts if name not in self.home), *self.fillers])
        return self._edit(texts[component], [("add", rule)], draw)

    def mend(self, text: str, draw: Random) -> str:
        """The editor's answer to a guard: it mends the placeholder in four of five cases."""
        if draw.random() < 0.2:
            return text
        return text_of(RULE.findall(text))

    def _idea(self, component: str, shown: Sequence[Play], draw: Random) -> tuple[str, str]:
        causes = [cause for play in shown for cause in play.causes if cause[0] == "drop" or self.home[cause[1]] == component]
        if causes and draw.random() < self.parameters.hit:
            what, rule = draw.choice(causes)
            # A rule that conflicts is found in its narrow form half of the time.
            return (what, self.narrow[rule]) if what == "add" and rule in self.narrow and draw.random() < 0.5 else (what, rule)
        lures = [name for name in self.hurts if name.startswith("l")]
        return ("add", draw.choice(lures if lures and draw.random() < self.parameters.lured else self.fillers))

    def _edit(self, text: str, ideas: Sequence[tuple[str, str]], draw: Random) -> str:
        rules = [rule for rule in RULE.findall(text) if draw.random() >= self.parameters.slip]
        for what, rule in ideas:
            if what == "drop":
                rules = [one for one in rules if one != rule]
            elif rule not in rules:
                rules.append(rule)
        made = text_of(rules)
        return made.replace(PLACEHOLDER, "{the_question}") if draw.random() < self.parameters.breaks else made


def text_of(rules: Sequence[str]) -> str:
    """The prompt with these rules."""
    return "\n".join(["Answer the question.", *(f"- Rule {rule}." for rule in rules), f"Question: {PLACEHOLDER}"])
