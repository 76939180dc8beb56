"""AlgorithmConformance: what every algorithm promises, as checks.

    class TestMyAlgorithm(AlgorithmConformance):
        def make_algorithm(self) -> Algorithm:
            return MyAlgorithm(steps=3, batch_size=2, checkpoint_every=1)

The agent of the checks asks every model of the resources once, and reads every prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import math
import socket
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

import agl
from agl.algorithms import Algorithm
from agl.fitted import FitResult
from agl.hookspecs import hookimpl
from agl.resources import LLM, Resource, Resources
from agl.rollouts import Rollout, RolloutStatus
from agl.store.base import Store
from agl.testing.expected import Conformance, ConformanceError, require
from agl.testing.memory import MemoryStore
from agl.testing.running import left_behind
from agl.trainer import Trainer

T = TypeVar("T")
FIT_SECONDS = 120.0
"""How long one small fit may take."""


class AlgorithmConformance(Conformance):
    """Checks of a driver of `agl.algorithms`."""

    initial_resources: ClassVar[Mapping[str, Resource]] = {}
    """What the Trainer is given beside what the algorithm starts with, such as the prompt to improve."""
    tasks: ClassVar[list[dict[str, Any]]] = [{"id": n, "input": f"Task {n}?"} for n in range(6)]
    seed = 3
    may_return_the_first: ClassVar[bool] = False
    """Whether it gives back the resources that it began with where nothing else is better beyond chance: here rewards are chance."""
    tolerance = 1e-5
    """Greatest relative difference between metrics that must be the same."""

    def make_algorithm(self) -> Algorithm:
        """An algorithm that is quick: three steps of four rollouts or more, and a checkpoint after each step."""
        raise NotImplementedError(f"{type(self).__name__} must define `make_algorithm(self)`")

    def test_it_publishes_under_the_names_it_began_with(self) -> None:
        """If this fails, agents go on with the resources of the beginning: what was learned has a name that they do not ask for."""
        with _fresh_store() as store:
            result = _fit(self, store, _answering())
            versions = asyncio.run(_versions(store, result.run_id))
            names = set(versions[0].keys())
            require(names, "no resources were published before `fit`")
            for version in versions[1:]:
                require(
                    set(version.keys()) == names, f"version {version.version} has the names {sorted(version.keys())}, not {sorted(names)}"
                )
            lines = _lines(result)
            require(lines, "no step was ended: `run.publish(metrics=…)` never came")
            require(len(versions) > len(lines), f"{len(lines)} steps published {len(versions) - 1} versions")
            changed = [name for name in names if versions[0][name] != versions[-1][name]]
            require(
                changed or self.may_return_the_first, f"after {len(lines)} steps all of {sorted(names)} are as they were in the beginning"
            )

    def test_the_models_that_it_brings_are_said_beforehand(self) -> None:
        """If this fails, a user's endpoint of the same name is put aside, and nobody says so."""
        with _fresh_store() as store:
            first = asyncio.run(_versions(store, _fit(self, store, _answering()).run_id))[0]
        brought = {name for name in first.llms() if name not in self.initial_resources}
        said = set(self.make_algorithm().serves)
        require(brought == said, f"`start` brings the models {sorted(brought)}, and `serves` says {sorted(said)}; make them the same")

    def test_its_options_are_json(self) -> None:
        """If this fails, a run's record cannot be written, or a resumed run is refused because its options differ."""
        config = self.make_algorithm().config()
        require(msgspec.json.decode(msgspec.json.encode(config)) == config, f"`config()` is not plain JSON: {config}")
        require(self.make_algorithm().config() == config, "two algorithms that are made the same way have different `config()`")

    def test_the_same_seed_gives_the_same_run(self) -> None:
        """If this fails, no result can be repeated."""
        runs: list[list[dict[str, Any]]] = []
        for _ in range(2):
            with _fresh_store() as store:
                runs.append(_lines(_fit(self, store, _answering())))
        difference = _difference(runs[0], runs[1], self.tolerance)
        require(difference is None, f"two runs with seed {self.seed} differ: {difference}")

    def test_failed_rollouts_do_not_stop_it(self) -> None:
        """If this fails, one agent that raises ends the run, or a missing reward is taken for a number."""
        with _fresh_store() as store:
            _check_metrics(_fit(self, store, _failing()))

    def test_groups_without_spread_do_not_stop_it(self) -> None:
        """If this fails, a task that is always solved divides by zero, and the weights become NaN."""
        with _fresh_store() as store:
            _check_metrics(_fit(self, store, _constant()))

    def test_it_goes_on_after_its_last_checkpoint_as_if_it_had_never_stopped(self) -> None:
        """If this fails, a run that was killed starts anew, or goes on with other weights, tasks or random numbers."""
        with _fresh_store() as store:
            whole = _lines(_fit(self, store, _answering()))
        with _fresh_store() as store:
            stopper = _Stopper(after_step=2)
            require(_stopped(self, store, _answering(), stopper), "the run could not be stopped after its second step")
            require(list(store.folder.rglob("checkpoints/step-??????")), "it was stopped after step 2, and there is no checkpoint")
            resumed = _lines(_fit(self, store, _answering(), resume=True))
        require(
            [line["step"] for line in resumed] == [line["step"] for line in whole], f"the steps are {[line['step'] for line in resumed]}"
        )
        difference = _difference(whole, resumed, self.tolerance)
        require(difference is None, f"a run that was stopped and resumed differs from one that was not: {difference}")

    def test_stop_leaves_nothing_behind(self) -> None:
        """If this fails, run after run takes ports, threads and memory until nothing is left."""
        before = set(threading.enumerate())
        with _fresh_store() as store:
            result = _fit(self, store, _answering())
            _check_left(self, before, result.resources)

    def test_stop_before_start_does_nothing(self) -> None:
        """If this fails, an error before the start is hidden by another one."""
        asyncio.run(self.make_algorithm().stop())

    def test_ctrl_c_ends_it_at_once_and_in_order(self) -> None:
        """If this fails, a run cannot be stopped, or leaves agents and engines at work."""
        before = set(threading.enumerate())
        with _fresh_store() as store:
            stopper = _Stopper(in_rollout=True)
            require(_stopped(self, store, _sleeping(), stopper), "a run that was cancelled ended as if nothing had happened")
            status, open_ = asyncio.run(_state(store))
            require(status == "stopped", f"the run is kept as `{status}`, not `stopped`")
            require(not open_, f"{open_} rollouts are still queued or running")
            _check_left(self, before, stopper.resources)

    def test_what_it_starts_with_can_be_evaluated(self) -> None:
        """If this fails, `Trainer.evaluate` cannot measure the model before it is trained."""
        with _fresh_store() as store:
            evaluation = _within(FIT_SECONDS, lambda: _trainer(self, store).evaluate(_answering(), self.tasks[:3]))
            require(
                evaluation.mean is not None and len(evaluation.results) == 3, f"the evaluation is {evaluation.mean}, {evaluation.excluded}"
            )


# The agents.


async def _answer(task: dict[str, Any], resources: Resources, rollout: Rollout) -> float:
    """A reward that depends on what was answered, or, without a model, on the prompts and the rollout's seed."""
    said = [f"{name}:{prompt.template}" for name, prompt in resources.prompts().items()]
    for llm in resources.llms().values():
        said.append(await _chat(llm, str(task["input"])))
    text = "|".join(said) if resources.llms() else f"{said}{rollout.seed}"
    return hashlib.blake2b(text.encode(), digest_size=1).digest()[0] % 5 / 4


async def _chat(llm: LLM, text: str) -> str:
    body = {"model": llm.model, "messages": [{"role": "user", "content": text}]}
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {llm.api_key}"}) as session,
        session.post(f"{llm.base_url}/chat/completions", json=body) as response,
    ):
        response.raise_for_status()
        return (await response.json())["choices"][0]["message"]["content"] or ""


def _answering() -> Any:
    @agl.rollout
    async def answering(task: dict[str, Any], resources: Resources, rollout: Rollout) -> float:
        return await _answer(task, resources, rollout)

    return answering


def _failing() -> Any:
    """Of four rollouts one raises and one gives no reward."""
    numbers = itertools.count()

    @agl.rollout
    async def failing(task: dict[str, Any], resources: Resources, rollout: Rollout) -> float | None:
        number = next(numbers) % 4
        reward = await _answer(task, resources, rollout)
        if number == 1:
            raise ValueError("the agent failed")
        return None if number == 3 else reward

    return failing


def _constant() -> Any:
    @agl.rollout
    async def constant(task: dict[str, Any], resources: Resources, rollout: Rollout) -> float:
        await _answer(task, resources, rollout)
        return 0.5

    return constant


def _sleeping() -> Any:
    @agl.rollout
    async def sleeping(task: dict[str, Any]) -> float:
        await asyncio.sleep(600)
        return 0.0

    return sleeping


# Running them.


class _Stopper:
    """Cancels the run as Ctrl-C does: after a step, or while its first rollouts are at work."""

    name = "stopper"

    def __init__(self, *, after_step: int | None = None, in_rollout: bool = False) -> None:
        self.after_step, self.in_rollout = after_step, in_rollout
        self.resources = Resources(version=0, values={})
        self._main: asyncio.Task[Any] | None = None

    @hookimpl
    def agl_resources_published(self, run: Any, resources: Resources) -> None:
        if self._main is None:  # the first time it is the Trainer's own doing
            self._main, self.resources = asyncio.current_task(), resources

    @hookimpl
    def agl_step_ended(self, run: Any, metrics: Mapping[str, Any]) -> None:
        if self._main is not None and metrics["step"] == self.after_step:
            self._main.cancel()

    @hookimpl
    def agl_rollout_started(self, rollout: Rollout) -> None:
        if self.in_rollout and self._main is not None:
            self.in_rollout = False
            asyncio.get_running_loop().call_later(0.1, self._main.cancel)


@contextlib.contextmanager
def _fresh_store() -> Generator[Store]:
    """A store in memory, with a folder for the runs' own files."""
    with tempfile.TemporaryDirectory() as folder:
        store = MemoryStore(folder)
        try:
            yield store
        finally:
            store.close()


def _trainer(kit: AlgorithmConformance, store: Store, *plugins: Any) -> Trainer:
    resources = dict(kit.initial_resources)
    # One runner: what is sampled does not depend on which of two rollouts was quicker.
    return Trainer(
        algorithm=kit.make_algorithm(),
        initial_resources=resources,
        store=store,
        seed=kit.seed,
        n_runners=1 if not plugins or plugins[0].after_step else 4,
        plugins=plugins,
        quiet=True,
    )


def _fit(kit: AlgorithmConformance, store: Store, agent: Any, *, resume: bool = False) -> FitResult:
    return _within(FIT_SECONDS, lambda: _trainer(kit, store).fit(agent, kit.tasks, resume=resume or None))


def _stopped(kit: AlgorithmConformance, store: Store, agent: Any, stopper: _Stopper) -> bool:
    try:
        _within(FIT_SECONDS, lambda: _trainer(kit, store, stopper).fit(agent, kit.tasks))
    except asyncio.CancelledError:
        return True
    return False


def _within(seconds: float, work: Callable[[], T]) -> T:
    """Run work that may hang, in a thread that is abandoned then.

    Raises:
        ConformanceError: it did not end in time.
    """
    outcome: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="agl-kit", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise ConformanceError(f"the run did not end within {seconds:g} s")
    if raised:
        raise raised[0]
    return outcome[0]


async def _versions(store: Store, run_id: str) -> list[Resources]:
    newest = await store.resources(run_id)
    return [await store.resources(run_id, version) for version in range(newest.version + 1)]


async def _state(store: Store) -> tuple[str, int]:
    """Status of the only run, and how many of its rollouts have not ended."""
    (run,) = await store.runs()
    results = await store.results(await store.find(run.run_id))
    return run.status, sum(result.rollout.status in (RolloutStatus.QUEUED, RolloutStatus.RUNNING) for result in results)


def _lines(result: FitResult) -> list[dict[str, Any]]:
    """The metrics of every step."""
    path = result.directory / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _check_metrics(result: FitResult) -> None:
    lines = _lines(result)
    require(lines, "no step was ended")
    for line in lines:
        wrong = {name: value for name, value in line.items() if isinstance(value, float) and not math.isfinite(value)}
        require(not wrong, f"step {line['step']} has the metrics {wrong}")


def _difference(one: list[dict[str, Any]], other: list[dict[str, Any]], tolerance: float) -> str | None:
    """Where the metrics of two runs differ, but for times and the number of the version."""
    if len(one) != len(other):
        return f"{len(one)} and {len(other)} steps"
    for first, second in zip(one, other, strict=True):
        for name in sorted({*first, *second}):
            if name != "version" and "second" not in name and not _same(first.get(name), second.get(name), tolerance):
                return f"step {first['step']}: `{name}` is {first.get(name)} and {second.get(name)}"
    return None


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    return one == other


def _check_left(kit: AlgorithmConformance, before: set[threading.Thread], resources: Resources) -> None:
    left = left_behind(before)
    require(not left, f"after `stop` threads go on: {left}")
    given = {llm.endpoint for llm in kit.initial_resources.values() if isinstance(llm, LLM)}
    for name, llm in resources.llms().items():
        if llm.endpoint not in given:
            require(not _listens(llm.endpoint), f"after `stop` the endpoint of `{name}`, {llm.endpoint}, still takes connections")


def _listens(endpoint: str) -> bool:
    parts = urlsplit(endpoint)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), timeout=2).close()
    except OSError:
        return False
    return True
