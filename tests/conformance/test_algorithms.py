"""GRPO keeps the contract of algorithms, and the kit finds algorithms that do not, by name."""

import asyncio
import random
import threading

import pytest
from tiny_policy import save

import agl
from agl.testing.algorithms import AlgorithmConformance
from agl.testing.expected import checks_of, failing


@pytest.fixture(scope="module")
def _folder(tmp_path_factory):
    TestGRPO.folder = save(tmp_path_factory.mktemp("policy"))


@pytest.mark.usefixtures("_folder")
class TestGRPO(AlgorithmConformance):
    tasks = [{"id": n, "input": f"Task {n}?"} for n in range(4)]

    def make_algorithm(self):
        small = dict(steps=3, batch_size=2, group_size=2, max_tokens=8, checkpoint_every=1, lr=1e-3, device="cpu", threads=1)
        return agl.GRPO(self.folder, **small)


class Toy(agl.Algorithm):
    """Counts up in a prompt; its state is the sum of the rewards."""

    name = "toy"

    async def start(self, run):
        self.total = 0.0
        if run.restored is not None:
            self.total = float((run.restored / "total").read_text())
        return {"prompt": agl.PromptTemplate(template=str(run.finished))}

    async def fit(self, run):
        for step in run.steps(3):
            groups = await run.rollout(run.train.sample(2), n=2)
            self.total += self.learn(groups)
            await self.publish(run, str(step + 1))
            await self.save(run)

    def learn(self, groups):
        return sum(reward for group in groups for reward in group.rewards if reward is not None)

    async def publish(self, run, template):
        await run.publish(metrics={"total": self.total}, prompt=agl.PromptTemplate(template=template))

    async def save(self, run):
        await run.checkpoint(lambda folder: (folder / "total").write_text(str(self.total)))


class ToyKit(AlgorithmConformance):
    def make_algorithm(self):
        return Toy()


class TestToy(ToyKit):
    pass


class PublishesUnderAnotherName(Toy):
    async def publish(self, run, template):
        await run.publish(metrics={"total": self.total}, better_prompt=agl.PromptTemplate(template=template))


class LearnsNothing(Toy):
    async def publish(self, run, template):
        await run.publish(metrics={"total": self.total}, prompt=agl.PromptTemplate(template="0"))


class BringsAModelUnsaid(Toy):
    async def start(self, run):
        return {**await super().start(run), "judge": agl.LLM(endpoint="http://127.0.0.1:9/v1", model="m")}

    async def fit(self, run):
        await run.publish(metrics={"total": 0.0}, prompt=agl.PromptTemplate(template="1"))


class SaysAModelThatItDoesNotBring(Toy):
    serves = ("main_llm",)


class DrawsWithoutTheSeed(Toy):
    def learn(self, groups):
        return random.random()


class TakesMissingForANumber(Toy):
    def learn(self, groups):
        return sum(sum(group.rewards) for group in groups)


class DividesByTheSpread(Toy):
    def learn(self, groups):
        rewards = [reward for group in groups for reward in group.rewards if reward is not None]
        mean = sum(rewards) / len(rewards)
        return max(reward - mean for reward in rewards) / sum((reward - mean) ** 2 for reward in rewards)


class KeepsNoCheckpoint(Toy):
    async def save(self, run):
        pass


class ForgetsItsState(Toy):
    async def start(self, run):
        self.total = 0.0
        return {"prompt": agl.PromptTemplate(template=str(run.finished))}


class LeavesAThread(Toy):
    over = threading.Event()

    async def start(self, run):
        self.over.clear()
        threading.Thread(target=self.over.wait, name="left", daemon=True).start()
        return await super().start(run)


class SwallowsCtrlC(Toy):
    async def fit(self, run):
        try:
            await super().fit(run)
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()


class StopsOnlyWhatItStarted(Toy):
    async def stop(self):
        self.total += 1


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (PublishesUnderAnotherName, "test_it_publishes_under_the_names_it_began_with"),
        (LearnsNothing, "test_it_publishes_under_the_names_it_began_with"),
        (BringsAModelUnsaid, "test_the_models_that_it_brings_are_said_beforehand"),
        (SaysAModelThatItDoesNotBring, "test_the_models_that_it_brings_are_said_beforehand"),
        (DrawsWithoutTheSeed, "test_the_same_seed_gives_the_same_run"),
        (TakesMissingForANumber, "test_failed_rollouts_do_not_stop_it"),
        (DividesByTheSpread, "test_groups_without_spread_do_not_stop_it"),
        (KeepsNoCheckpoint, "test_it_goes_on_after_its_last_checkpoint_as_if_it_had_never_stopped"),
        (ForgetsItsState, "test_it_goes_on_after_its_last_checkpoint_as_if_it_had_never_stopped"),
        (LeavesAThread, "test_stop_leaves_nothing_behind"),
        (SwallowsCtrlC, "test_ctrl_c_ends_it_at_once_and_in_order"),
        (StopsOnlyWhatItStarted, "test_stop_before_start_does_nothing"),
    ],
)
def test_a_broken_algorithm_is_caught_by_name(broken, check):
    kit = type("Broken", (AlgorithmConformance,), {"make_algorithm": lambda self: broken()})
    found = failing(kit, only=(check,))
    LeavesAThread.over.set()
    assert list(found) == [check]


def test_every_check_says_what_is_wrong_when_it_fails():
    for name in checks_of(AlgorithmConformance):
        assert getattr(AlgorithmConformance, name).__doc__.startswith("If this fails, ")
