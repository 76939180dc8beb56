"""Rewards keep their contract, and the kit finds those that do not, by name."""

import time

import pytest

from agl.rewards import Reward
from agl.testing.expected import checks_of, failing
from agl.testing.rewards import RewardConformance, make_result


def exact_match(result):
    return float(result.output == result.task.data["answer"]) if "answer" in result.task.data else None


async def exact_match_async(result):
    return exact_match(result)


class Longest:
    name = "longest"

    def agl_group_reward(self, group):
        most = max(len(result.output) for result in group.results)
        return {result.rollout.rollout_id: len(result.output) / most for result in group.results}


class Kit(RewardConformance):
    reward = staticmethod(exact_match)

    def make_reward(self):
        return self.reward

    def judgeable(self):
        return [make_result(output, task={"answer": "42"}) for output in ("42", "7", "42")]

    def unjudgeable(self):
        return make_result("42", task={"question": "?"})


class TestFunction(Kit):
    pass


class TestAsyncFunction(Kit):
    reward = staticmethod(exact_match_async)


class TestGroupReward(Kit):
    reward = Longest()

    def unjudgeable(self):
        return None


def nan(result):
    return float("nan") if result.output == "7" else 1.0


def zero_for_missing(result):
    return float(result.output == result.task.data.get("answer", "no answer"))


def hides_errors(result):
    try:
        return exact_match(result)
    except Exception:
        return 0.0


def says_the_agent_did(result):
    return Reward(value=1.0, name="praise", source="")


def judges_strangers(result):
    return Reward(value=1.0, name="praise", span_id="0" * 16)


def by_chance(result):
    return time.perf_counter_ns() % 1000 / 1000


async def blocks(result):
    time.sleep(0.6)
    return 1.0


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (nan, "test_it_gives_finite_numbers"),
        (zero_for_missing, "test_what_it_cannot_judge_is_missing"),
        (hides_errors, "test_an_error_is_not_hidden_and_names_it"),
        (says_the_agent_did, "test_every_value_names_its_source"),
        (judges_strangers, "test_values_belong_to_what_was_judged"),
        (by_chance, "test_it_gives_the_same_to_the_same_result"),
        (blocks, "test_it_does_not_block_the_event_loop"),
    ],
)
def test_a_broken_reward_is_caught_by_name(broken, check):
    kit = type("Broken", (Kit,), {"reward": staticmethod(broken)})
    found = failing(kit, only=(check,))
    assert list(found) == [check]
    assert found[check].startswith("ConformanceError: ")


def test_every_check_says_what_is_wrong_when_it_fails():
    for name in checks_of(RewardConformance):
        assert getattr(RewardConformance, name).__doc__.startswith("If this fails, ")
