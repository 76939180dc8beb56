"""The executors keep their contract, and the kit finds those that do not, by name."""

import asyncio
import contextlib

import pytest

from agl.context import entered
from agl.errors import PluginError
from agl.runner import AttemptRunner, ThreadExecutor
from agl.testing.executors import ExecutorConformance
from agl.testing.expected import checks_of, failing
from agl.workers.process import ProcessExecutor


class TestThreadExecutor(ExecutorConformance):
    executor = ThreadExecutor


class TestProcessExecutor(ExecutorConformance):
    executor = ProcessExecutor


class ExceedsN(ThreadExecutor):
    """Has one runner more than it is told."""

    def __init__(self, **given):
        super().__init__(**{**given, "n_runners": given["n_runners"] + 1})


class MixesAttempts(ThreadExecutor):
    """Runs agents in the context of the attempt that began last."""

    def __init__(self, **given):
        super().__init__(**given)
        self._attempts = Mixing(self)


class Mixing(AttemptRunner):
    last = None

    async def _outcome(self, attempt):
        self.last = attempt
        await asyncio.sleep(0.01)
        return await super()._outcome(self.last)


class StopsAtAFailure(ThreadExecutor):
    """Ends when an agent fails."""

    def __init__(self, **given):
        super().__init__(**given)
        self._attempts = Stopping(self)


class Stopping(AttemptRunner):
    async def _outcome(self, attempt):
        outcome = await super()._outcome(attempt)
        if outcome.failure:
            raise RuntimeError(outcome.error)
        return outcome


class HasNoDeadline(ThreadExecutor):
    """Lets agents take their time."""

    def __init__(self, **given):
        super().__init__(**given)
        self._attempts = Patient(self)


class Patient(AttemptRunner):
    async def _outcome(self, attempt):
        with entered(attempt):
            await self._agent.run(attempt.rollout, attempt.resources)
        return await super()._outcome(attempt)


class LeavesAttempts(ThreadExecutor):
    """Goes away when it is cancelled, without a word to its agents."""

    async def run(self):
        work = asyncio.ensure_future(super().run())
        await asyncio.shield(work)


class HidesBrokenPlugins(ThreadExecutor):
    """Goes on without them."""

    async def run(self):
        while True:
            with contextlib.suppress(PluginError):
                await super().run()


class GivesTheNewest(ThreadExecutor):
    """Gives every attempt the newest resources."""

    def __init__(self, **given):
        super().__init__(**given)
        self._attempts = Newest(self)


class Newest(AttemptRunner):
    async def _load(self, version):
        return await self._store.resources(self._run_id)


class LosesRewards(ProcessExecutor):
    """Forgets the rewards that its workers tell."""

    async def hire(self, parcel):
        link = await super().hire(parcel)
        told = link.event

        async def event():
            while b'"RewardAdded"' in (found := await told()):
                pass
            return found

        link.event = event
        return link


class HasOneMore(ProcessExecutor):
    """Starts one worker more than it is told."""

    def __init__(self, **given):
        super().__init__(**{**given, "n_runners": given["n_runners"] + 1})


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (ExceedsN, "test_at_most_n_runners_work_at_the_same_time"),
        (MixesAttempts, "test_attempts_are_never_mixed"),
        (StopsAtAFailure, "test_a_failing_agent_ends_its_own_attempt_alone"),
        (LeavesAttempts, "test_what_is_cancelled_leaves_nothing_behind"),
        (HidesBrokenPlugins, "test_a_broken_plugin_stops_it_and_is_named"),
        (GivesTheNewest, "test_an_attempt_gets_the_resources_of_its_rollouts_version"),
        (HasNoDeadline, "test_an_agent_is_ended_at_its_deadline"),
        (LosesRewards, "test_attempts_are_never_mixed"),
        (HasOneMore, "test_at_most_n_runners_work_at_the_same_time"),
    ],
)
def test_a_broken_executor_is_caught_by_name(broken, check):
    kit = type("Broken", (ExecutorConformance,), {"executor": broken})
    found = failing(kit, only=(check,))
    assert list(found) == [check]


def test_every_check_says_what_is_wrong_when_it_fails():
    for name in checks_of(ExecutorConformance):
        assert getattr(ExecutorConformance, name).__doc__.startswith("If this fails, ")
