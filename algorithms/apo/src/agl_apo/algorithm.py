"""APO: better prompts for an agent, found with few rollouts; the seed is returned unless another is better beyond chance."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from agl.algorithms import Algorithm, DryRun
from agl.errors import ConfigError
from agl.resources import PromptTemplate, Resource
from agl.results import Evaluation
from agl.runs import Run
from agl.tasks import Mode
from agl_apo import outcome as files
from agl_apo.driver import Driver, Limits
from agl_apo.ledger import Event, Ledger
from agl_apo.model import make_models
from agl_apo.options import Settings, SharedSettings
from agl_apo.proposer import Proposer
from agl_apo.search import Outcome
from agl_apo.world import DIVIDED, World, chosen, discover, task_sets, templates

POML_TRACE = "_poml_trace"
"""Option of Agent Lightning that its own example sets."""
DISCOVERY_TASKS = 2
"""Tasks on which an agent shows its prompts when it cannot be asked for them."""


class APO(Algorithm):
    """Automatic prompt optimisation.

    A critic reads rollouts that went badly, an editor rewrites one prompt, a search decides by rollouts which texts are better. The default search
    compares in pairs on common tasks, keeps a share of the budget for a final, and returns the prompts that it was given
    unless others are better with the asked probability.

    Args:
        async_openai_client: what criticises and edits: a client with `chat.completions.create`, such as `openai.AsyncOpenAI()`, or an async
            function of messages that returns a text; None for the endpoint that the options, or the environment, name.
        options: see `agl_apo.options.Options`, `agl_apo.model.ModelOptions`, `agl_apo.search.RacingOptions`, `GuardOptions` and `BeamOptions`.

    Raises:
        ConfigError: an unknown option, a value that cannot work, or an option without effect.
    """

    name = "apo"
    only_prompts = True
    settings_type: type[SharedSettings] = Settings

    def __init__(self, async_openai_client: Any = None, **options: Any) -> None:
        if options.pop(POML_TRACE, None) is not None:
            warnings.warn(f"`{POML_TRACE}` has no effect: nothing is written in POML", DeprecationWarning, stacklevel=2)
        self.settings = self.settings_type(options)
        self._given = async_openai_client
        self._texts: dict[str, str] | None = None
        self.outcome: Outcome | None = None
        """What the last `fit` found."""
        self._said: str | None = None

    def __class_getitem__(cls, task: Any) -> type[APO]:
        """`APO[Task]`, as Agent Lightning writes it: the type of a task says nothing here."""
        return cls

    def config(self) -> dict[str, Any]:
        return self.settings.config()

    def check(self) -> str:
        critic, editor = make_models(self._given, self.settings.model)
        return f"critic {critic.name}, editor {editor.name}"

    def summary(self) -> str | None:
        return self._said

    def get_best_prompt(self, name: str | None = None) -> PromptTemplate:
        """The prompt that the last `fit` found, or the seed where nothing was better.

        Args:
            name: of its resource; not needed where one prompt was optimised.

        Raises:
            ConfigError: there was no `fit`, or no such prompt.
        """
        if self.outcome is None:
            raise ConfigError("there is no best prompt yet: `Trainer(algorithm=apo).fit(…)` finds one")
        texts = self.outcome.winner.texts
        if (name is None and len(texts) > 1) or (name is not None and name not in texts):
            raise ConfigError(f"`get_best_prompt` was asked for {name!r}; the prompts are {sorted(texts)}")
        return PromptTemplate(template=texts[name] if name is not None else next(iter(texts.values())))

    def dry_run(self, *, train: int, val: int) -> DryRun:
        """The budget for so many tasks, and who criticises."""
        kept = val or (train // 2 if train >= DIVIDED else train)
        left, problems = train if val or train < DIVIDED else train - kept, list[str]()
        facts = {"search": self.settings.strategy, "tasks": f"{left} to learn from, {kept} for validation"}
        facts["rollouts"] = f"at most {self.settings.rollouts(kept, left)}, and the test set once or twice"
        try:
            facts["models"] = self.check()
            names = [f"t{number}" for number in range(max(left, kept))]
            texts = dict.fromkeys(self.settings.guards.required or ["prompt"], "")
            self.settings.search(texts, names[:left], names[:kept], seed=0, records=lambda ids: [])
        except ConfigError as error:
            problems.append(str(error))
        return DryRun(facts=facts, problems=tuple(problems))

    async def start(self, run: Run) -> Mapping[str, Resource]:
        """Choose the prompts, and check that there is somebody to criticise them.

        Returns:
            The agent's own prompts among them, as resources.
        """
        self.outcome, self._said = None, None
        self._proposer = Proposer(*make_models(self._given, self.settings.model), files=self.settings.files)
        given = {name: template.template for name, template in run.resources.prompts().items()}
        listed = {name: template.template for name, template in run.prompts.items()}
        asked = self.settings.own.prompts
        unknown_yet = not listed and not (given if asked is None else set(asked) <= given.keys())
        self._texts = None if unknown_yet else chosen(asked, given, listed)
        return {} if self._texts is None else templates({name: text for name, text in self._texts.items() if name not in given})

    async def fit(self, run: Run) -> None:
        tasks = task_sets(run)
        ledger = await Ledger.of(run)
        texts = self._texts if self._texts is not None else await self._discovered(run, ledger)
        own, sizes = self.settings.own, {name: len(found) for name, found in tasks.items()}
        world = World(run, tasks, own.agent_price)
        train, val = list(tasks["train"]), list(tasks["val"])
        search = self.settings.search(texts, train, val, seed=run.seed, records=world.training_texts)
        rollouts = self.settings.rollouts(sizes["val"], sizes["train"])
        limits = Limits(max_rollouts=rollouts, max_cost=own.max_cost, max_seconds=own.max_seconds, reserve=self.settings.reserve)
        about = {"seed": run.seed, "texts": texts, "train": train, "val": val, "options": self.config()}
        went_on = await ledger.begin(about)
        try:
            run.console.say(
                f"  {self.settings.strategy}: {sorted(texts)}, at most {rollouts} rollouts on {sizes['train']} + {sizes['val']} tasks"
            )
            if went_on:
                run.console.say(f"  goes on from {len(ledger.events)} events of {ledger.where}")
            driver = Driver(run, search, world, self._proposer, ledger, limits, own.record_characters)
            await driver.drive()
            await self._end(run, search, driver, ledger)
        finally:
            getattr(search, "close", lambda: None)()

    async def _discovered(self, run: Run, ledger: Ledger) -> dict[str, str]:
        """Prompts that the agent's calls tell; those that an earlier process found."""
        if (begun := ledger.begun) is not None:
            return dict(begun["texts"])
        given = {name: template.template for name, template in run.resources.prompts().items()}
        return await discover(run, list(run.train)[:DISCOVERY_TASKS], self.settings.own.prompts, given)

    async def _end(self, run: Run, search: Any, driver: Driver, ledger: Ledger) -> None:
        outcome: Outcome = search.outcome
        if ledger.events[-1].event != "end":
            about = {"decision": outcome.decision, "winner": outcome.winner.candidate_id}
            await ledger.append(Event(event="end", at=driver.seconds, about=about))
        await driver.end(outcome.winner.texts, {"improved": int(outcome.decision == "improved")})
        test = await self._tested(run, outcome)
        self.outcome, self._said = outcome, files.summary(outcome, driver.totals, test)
        run.console.say(f"  {self._said}")
        path = files.write(
            run.directory,
            run_id=run.id,
            strategy=self.settings.strategy,
            outcome=outcome,
            candidates=search.candidates,
            draws=search.evidence.draws,
            rejected=getattr(search, "rejected", ()),
            totals=driver.totals,
            seconds=driver.seconds,
            test=test,
        )
        run.console.say(f"  {path}")

    async def _tested(self, run: Run, outcome: Outcome) -> tuple[Evaluation, Evaluation] | None:
        """Seed and winner on the test set; the seed was measured before the search, and nothing is measured twice."""
        if not len(run.test):
            return None
        lines = [line for line in run.read("evaluations.jsonl") if line["mode"] == Mode.TEST]
        first = await _evaluation(run, lines[0])
        if outcome.winner.candidate_id == outcome.seed.candidate_id:
            return first, first
        for line in lines:  # by a process that was killed after it
            if (await run.store.resources(run.id, line["version"])).values == run.resources.values:
                return first, await _evaluation(run, line)
        return first, await run.evaluate(run.test, mode=Mode.TEST)


async def _evaluation(run: Run, line: Mapping[str, Any]) -> Evaluation:
    results = tuple(await run.store.results(line["rollouts"]))
    return Evaluation(results=results, mode=line["mode"], step=line["step"], resources_version=line["version"])
