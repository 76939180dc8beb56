import random

from agl_best_of_n.algorithm import select


def names(results):
    return [result.rollout.rollout_id for result in results]


def test_what_is_above_the_groups_mean_is_kept(make_group):
    assert names(select(make_group(0.0, 0.2, 0.9, 0.5))) == ["r2", "r3"]


def test_equal_rewards_are_kept_or_left_out_together(make_group):
    assert names(select(make_group(1.0, 0.0, 1.0, 0.0))) == ["r0", "r2"]
    assert names(select(make_group(0.5, 0.0, 1.0, 0.5))) == ["r2"]


def test_a_group_without_spread_gives_nothing(make_group):
    assert select(make_group(1.0, 1.0, 1.0)) == []
    assert select(make_group(0.1, 0.1, 0.1)) == []
    assert select(make_group(1.0, None)) == []
    assert select(make_group(None, None)) == []


def test_a_failed_rollout_lowers_the_mean_and_is_never_kept(make_group):
    assert names(select(make_group(0.5, 0.5, 0.0, failures=[2]))) == ["r0", "r1"]
    assert names(select(make_group(-1.0, -1.0, 0.0, failures=[2]))) == []
    assert names(select(make_group(0.0, 1.0, None, failures=[2]))) == ["r1"], "an agent's failure without a reward is 0"


def test_a_rollout_without_a_reward_counts_nowhere(make_group):
    assert names(select(make_group(None, 0.4, 0.5, None))) == ["r2"]


def test_a_kept_rollout_must_also_reach_the_least_reward(make_group):
    group = make_group(0.0, 0.6, 0.8)
    assert names(select(group, min_reward=0.8)) == ["r2"]
    assert names(select(group, min_reward=0.0)) == ["r1", "r2"]
    assert select(group, min_reward=0.9) == []


def test_the_control_draws_as_many_without_regard_to_reward(make_group):
    group = make_group(1.0, 0.0, 1.0, 0.0, None, 1.0, failures=[5])
    drawn = [names(select(group, chance=random.Random(seed))) for seed in range(40)]
    assert {len(chosen) for chosen in drawn} == {2}
    assert {name for chosen in drawn for name in chosen} == {"r0", "r1", "r2", "r3"}
    assert drawn == [names(select(group, chance=random.Random(seed))) for seed in range(40)]
    assert select(make_group(1.0, 1.0), chance=random.Random(0)) == []
