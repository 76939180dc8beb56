"""RewardConformance: what everything in `Trainer(rewards=[…])` promises, as checks.

class TestMyReward(RewardConformance):
    def make_reward(self):
        return exact_match

    def judgeable(self):
        return [make_result("42", task={"answer": "42"}), make_result("7", task={"answer": "42"})]

    def unjudgeable(self):
        return make_result("42", task={})
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Any, cast

from agl.errors import AglError
from agl.judges import Given
from agl.plugins import Plugins
from agl.results import Group, RolloutResult
from agl.rewards import RESERVED, Judgement, Reward
from agl.rollouts import Attempt, AttemptStatus, RolloutStatus, new_id
from agl.spans import Span
from agl.testing.expected import Conformance, ConformanceError, not_applicable, require
from agl.testing.running import error_of, make_rollout, run_check

BLOCKED_SECONDS = 1.0
"""Longest time for which a reward may keep the event loop from everything else."""


def make_result(
    output: Any, *, task: dict[str, Any] | None = None, spans: Sequence[Span] = (), rewards: Sequence[Reward] = ()
) -> RolloutResult:
    """A finished rollout whose agent ended well, for a reward to judge.

    Args:
        output: what the agent returned.
        task: fields of its task.
    """
    rollout_id = new_id("ro")
    attempt = Attempt(
        attempt_id=new_id("at"), rollout_id=rollout_id, number=1, worker_id="kit", status=AttemptStatus.SUCCEEDED, output=output
    )
    rollout = make_rollout(task, rollout_id=rollout_id, attempt=attempt, status=RolloutStatus.SUCCEEDED)
    return RolloutResult(rollout=rollout, spans=tuple(spans), rewards=tuple(rewards))


class RewardConformance(Conformance):
    """Checks of an element of `Trainer(rewards=[…])`, or of a driver of `agl.rewards`."""

    repeatable = True
    """Whether it gives the same to the same result; not so for a model that judges by chance."""

    def make_reward(self) -> Any:
        """A function, an object with `agl_reward` or `agl_group_reward`, or the name of a driver."""
        raise NotImplementedError(f"{type(self).__name__} must define `make_reward(self)`")

    def judgeable(self) -> list[RolloutResult]:
        """Results that it can judge, with `make_result`; two or more, as siblings of one group, where it compares."""
        raise NotImplementedError(f"{type(self).__name__} must define `judgeable(self)`")

    def unjudgeable(self) -> RolloutResult | None:
        """A result that lacks what it needs; None when there is none that it cannot judge."""
        raise NotImplementedError(f"{type(self).__name__} must define `unjudgeable(self)`; None when it can judge everything")

    def test_it_gives_finite_numbers(self) -> None:
        """If this fails, a NaN gets into a whole group's advantages, or rollouts are left without a reward."""
        for result, judged in self._all():
            values = [reward.value for reward in judged if isinstance(reward, Reward)]
            require(values, f"it gives no number to the output {result.output!r}: {judged}")
            wrong = [value for value in values if not (isinstance(cast(object, value), float) and math.isfinite(value))]
            require(not wrong, f"it gives {wrong} to the output {result.output!r}")

    def test_every_value_names_its_source(self) -> None:
        """If this fails, nobody can tell who gave a reward, or weigh it by its name."""
        for _, judged in self._all():
            nameless = [one for one in judged if not one.name or one.source in ("", "agent", *RESERVED)]
            require(not nameless, f"values without a name or a source of their own: {nameless}")

    def test_values_belong_to_what_was_judged(self) -> None:
        """If this fails, a reward for a call goes to a call of another rollout, or to none."""
        for result, judged in self._all():
            spans = {span.span_id for span in result.spans}
            strange = [one.span_id for one in judged if isinstance(one, Reward) and one.span_id is not None and one.span_id not in spans]
            require(not strange, f"it judges spans {strange} that the result does not have")

    def test_what_it_cannot_judge_is_missing(self) -> None:
        """If this fails, a missing reward becomes a number: the agent is punished for what it did not do."""
        result = self.unjudgeable()
        if result is None:
            not_applicable("this reward can judge everything")
        try:
            judged = self._judge([result, *self.judgeable()])[result.rollout.rollout_id]
        except AglError as error:  # it says aloud that it cannot
            self._check_named(error)
            return
        values = [one.value for one in judged if isinstance(one, Reward)]
        require(not values, f"it gives {values} to a result that lacks what it needs; give None, or raise")

    def test_an_error_is_not_hidden_and_names_it(self) -> None:
        """If this fails, a broken reward looks like a bad agent, or nobody learns which reward is broken."""
        given = Given(self.make_reward())
        if "agl_reward" not in given.hooks and given.hooks:
            not_applicable("it compares groups")
        found: list[Judgement] = []

        async def judge() -> None:
            found.extend(await Plugins([given.plugin()], discover=False).rewards(cast(Any, _Unreadable())))

        error: list[Exception | None] = []

        async def main() -> None:
            error.append(await error_of(judge()))

        run_check(main())
        if error[0] is not None:
            self._check_named(error[0])
            return
        values = [one.value for one in found if isinstance(one, Reward)]
        require(not values, f"every look at the result raises, and it gives {values}: it hides its errors")

    def test_it_gives_the_same_to_the_same_result(self) -> None:
        """If this fails, results of several rollouts are mixed when they are judged at the same time, or chance plays a part."""
        if not self.repeatable:
            not_applicable("this reward does not claim to be repeatable")
        first = self._judge(self._judgeable_once())
        for _ in range(3):
            again = self._judge(self._judgeable_once())
            shown = [_values(judged) for judged in first.values()], [_values(judged) for judged in again.values()]
            require(shown[0] == shown[1], f"it gave {shown[0]}, and then {shown[1]}")

    def test_it_does_not_block_the_event_loop(self) -> None:
        """If this fails, all agents stand still while one rollout is judged."""
        gaps: list[float] = []
        run_check(_watched(self._judging(self.judgeable(), {}), gaps))
        longest = max(gaps, default=0.0)
        require(longest < BLOCKED_SECONDS, f"it kept the event loop for {longest:.1f} s; await what takes time, or write a plain function")

    def _judgeable_once(self) -> list[RolloutResult]:
        """The results to judge, made once, so that their ids stay."""
        if not hasattr(self, "_results"):
            self._results = self.judgeable()
        return self._results

    def _all(self) -> list[tuple[RolloutResult, list[Judgement]]]:
        results = self.judgeable()
        require(results, "`judgeable` gives no result")
        try:
            found = self._judge(results)
        except AglError as error:
            raise ConformanceError(f"it failed on a result that it can judge: {error}") from error
        return [(result, found[result.rollout.rollout_id]) for result in results]

    def _judge(self, results: Sequence[RolloutResult]) -> dict[str, list[Judgement]]:
        found: dict[str, list[Judgement]] = {}
        run_check(self._judging(results, found))
        return found

    async def _judging(self, results: Sequence[RolloutResult], found: dict[str, list[Judgement]]) -> None:
        """All results at the same time, and as a group where it compares."""
        plugins = Plugins([Given(self.make_reward()).plugin()], discover=False)
        judged = await asyncio.gather(*(plugins.rewards(result) for result in results))
        found |= {result.rollout.rollout_id: values for result, values in zip(results, judged, strict=True)}
        if plugins.compares():
            require(len(results) > 1, "it compares: `judgeable` must give two results or more")
            compared = await plugins.group_rewards(Group(task=results[0].task, results=tuple(results)))
            for rollout_id, values in compared.items():
                found[rollout_id] += values

    def _check_named(self, error: Exception) -> None:
        name = Given(self.make_reward()).name
        require(isinstance(error, AglError) and name in str(error), f"the error does not name `{name}`: {type(error).__name__}: {error}")


class _Unreadable:
    """A finished rollout of which nothing can be read."""

    succeeded = True

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"the kit lets nobody read `{name}`")


def _values(judged: Sequence[Judgement]) -> list[tuple[str, float | None]]:
    return [(one.name, one.value if isinstance(one, Reward) else None) for one in judged]


async def _watched(work: Any, gaps: list[float]) -> None:
    """Run work beside a clock that notes for how long the loop was kept from it."""
    judging = asyncio.ensure_future(work)
    last = time.monotonic()
    while not judging.done():
        await asyncio.sleep(0.01)
        now = time.monotonic()
        gaps.append(now - last)
        last = now
    await judging
