"""Credit by name: discounted along the tree, compared in step groups; options without effect are refused."""

import msgspec
import pytest

import agl
from agl.credit import Credit, split_credit
from agl.errors import ConfigError
from agl.hookspecs import hookimpl
from agl.results import Group
from agl.rewards import Reward
from agl.rollouts import AttemptStatus
from agl.transitions import parents_of, transitions_of


@pytest.fixture
def rollout(make_result):
    def make(spans, *rewards):
        result = make_result(spans=tuple(spans), transitions=tuple(transitions_of(spans)), rewards=rewards)
        attempt = msgspec.structs.replace(result.rollout.attempt, status=AttemptStatus.SUCCEEDED)
        return msgspec.structs.replace(result, rollout=msgspec.structs.replace(result.rollout, attempt=attempt))

    return make


def assigned(credit, *results):
    (group,) = credit.assign([Group(task=results[0].task, results=results)])
    return group.results


def rewards_of(credit, result):
    return [item.reward for item in assigned(credit, result)[0].transitions]


def test_a_reward_at_the_end_is_worth_less_the_earlier_a_call_was(rollout, make_call):
    spans = [make_call([1], [2]), make_call([1, 2, 3], [4]), make_call([1, 2, 3, 4, 5], [6])]
    assert rewards_of(Credit(name="discounted", discount=0.5), rollout(spans, Reward(value=1.0))) == [0.25, 0.5, 1.0]
    assert rewards_of(Credit(name="discounted"), rollout(spans, Reward(value=1.0))) == [1.0, 1.0, 1.0]


def test_a_calls_own_reward_reaches_those_before_it_and_none_after_it(rollout, make_call):
    spans = [make_call([1], [2]), make_call([1, 2, 3], [4]), make_call([1, 2, 3, 4, 5], [6])]
    own = Reward(value=1.0, name="tool", span_id=spans[1].span_id)
    assert rewards_of(Credit(name="discounted", discount=0.5), rollout(spans, own)) == [0.5, 1.0, None]
    assert rewards_of(Credit(name="discounted", discount=0.5), rollout(spans, own, Reward(value=0.0))) == [0.5, 1.0, 0.0]


def test_branches_each_end_with_the_rollouts_reward_and_it_is_not_counted_twice_before_them(rollout, make_call):
    spans = [make_call([1], [2]), make_call([1, 2, 3], [4]), make_call([1, 2, 5], [6]), make_call([1, 2, 5, 6, 7], [8])]
    assert rewards_of(Credit(name="discounted", discount=0.5), rollout(spans, Reward(value=1.0))) == [0.375, 1.0, 0.5, 1.0]


def test_of_several_answers_only_the_one_that_was_gone_on_from_gets_what_came_after(rollout, make_call):
    spans = [make_call([1], [2], [3]), make_call([1, 3, 9], [4])]
    assert parents_of(transitions_of(spans)) == [None, None, 1]
    assert rewards_of(Credit(name="discounted", discount=0.5), rollout(spans, Reward(value=1.0))) == [1.0, 0.5, 1.0]


def test_a_role_judged_by_itself_has_its_own_reward_at_the_end(rollout, make_call):
    spans = [make_call([1], [2], role="a"), make_call([5], [6], role="b")]
    given = (Reward(value=1.0), Reward(value=0.2, role="b"))
    for name in ("lightning", "discounted", "gigpo"):
        assert rewards_of(Credit(name=name), rollout(spans, *given)) == [1.0, 0.2]


def test_step_groups_compare_calls_that_answered_the_same_words_in_the_same_role(rollout, make_call):
    good = rollout([make_call([1], [2]), make_call([1, 2, 7], [3])], Reward(value=1.0))
    bad = rollout([make_call([1], [4]), make_call([1, 4, 7], [5]), make_call([1, 4, 7, 5, 8], [6])], Reward(value=0.0))
    first, second = assigned(Credit(name="gigpo", step_std=False), good, bad)
    assert [item.step_advantage for item in first.transitions] == [0.5, 0.5]
    assert [item.step_advantage for item in second.transitions] == [-0.5, -0.5, 0.0]  # nobody else was asked [8]
    assert [item.reward for item in first.transitions + second.transitions] == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_step_groups_are_weighed_scaled_and_of_one_role(rollout, make_call):
    spans = [[make_call([1], [2], role="a"), make_call([1], [3], role="b")] for _ in range(2)]
    results = [rollout(spans[0], Reward(value=1.0)), rollout(spans[1], Reward(value=0.0))]
    scaled = assigned(Credit(name="gigpo", step_weight=2.0), *results)
    assert [item.step_advantage for item in scaled[0].transitions] == pytest.approx([2 * 0.5 / 0.5**0.5] * 2, rel=1e-5)


def test_equal_returns_and_excluded_rollouts_have_no_step_advantage(rollout, make_call):
    results = [rollout([make_call([1], [2])], Reward(value=0.1)) for _ in range(3)] + [rollout([make_call([1], [2])])]
    assert [item.step_advantage for result in assigned(Credit(name="gigpo"), *results) for item in result.transitions] == [0.0] * 4


@pytest.mark.parametrize(
    ("adapter", "says"),
    [
        ({"credit": "gigpoo"}, r"must be one of \['lightning', 'discounted', 'gigpo'\], given was 'gigpoo'"),
        ({"discount": 0.9}, "given was None"),
        ({"credit": "lightning", "discount": 0.9}, r"\['discount'\] of `adapter` have no effect on the credit `lightning`"),
        ({"credit": "discounted", "step_weight": 1.0}, r"\['step_weight'\] of `adapter` have no effect"),
        ({"credit": "discounted", "discount": 1.5}, "`discount` must be from 0 to 1"),
        ({"credit": "gigpo", "step_std": "yes"}, "cannot be used"),
    ],
)
def test_what_cannot_work_is_refused(adapter, says):
    with pytest.raises(ConfigError, match=says):
        split_credit(adapter)
    with pytest.raises(ConfigError, match=says):
        agl.Trainer(adapter=adapter, quiet=True)


def test_other_options_of_the_adapter_stay():
    assert split_credit({"agent_match": "x", "credit": "discounted", "discount": 0.9}) == (
        Credit(name="discounted", discount=0.9),
        {"agent_match": "x"},
    )
    assert split_credit(None) == (None, None)


class Mine:
    @hookimpl
    def agl_assign_credit(self, result, transitions):
        return [msgspec.structs.replace(item, reward=7.0) for item in transitions]


def test_a_plugins_credit_takes_the_place_of_the_default_and_no_name_beside_it(make_result, make_call):
    from agl.plugins import Plugins

    items = transitions_of([make_call([1], [2])])
    assert [item.reward for item in Plugins([Mine()]).assign_credit(make_result(), items)] == [7.0]
    with pytest.raises(ConfigError, match="`adapter` names `gigpo`; take one of them away"):
        agl.Trainer(adapter={"credit": "gigpo"}, plugins=[Mine()], quiet=True)
