from agl_best_of_n.algorithm import better


def test_what_is_above_the_groups_mean_is_kept(make_group):
    assert better(make_group(0.0, 0.2, 0.9, 0.5)) == [False, False, True, True]


def test_equal_rewards_are_kept_or_left_out_together(make_group):
    assert better(make_group(1.0, 0.0, 1.0, 0.0)) == [True, False, True, False]
    assert better(make_group(0.5, 0.0, 1.0, 0.5)) == [False, False, True, False]


def test_a_group_without_spread_gives_nothing(make_group):
    for rewards in [(1.0, 1.0, 1.0), (0.1, 0.1, 0.1), (1.0, None), (None, None)]:
        assert not any(better(make_group(*rewards))), rewards


def test_a_failed_rollout_lowers_the_mean_and_is_never_kept(make_group):
    assert better(make_group(0.5, 0.5, 0.0, failures=[2])) == [True, True, False]
    assert better(make_group(-1.0, -1.0, 0.0, failures=[2])) == [False, False, False]
    # An agent's failure without a reward is 0.
    assert better(make_group(0.0, 1.0, None, failures=[2])) == [False, True, False]


def test_a_rollout_without_a_reward_counts_nowhere(make_group):
    assert better(make_group(None, 0.4, 0.5, None)) == [False, False, True, False]


def test_a_kept_rollout_must_also_reach_the_least_reward(make_group):
    group = make_group(0.0, 0.6, 0.8)
    assert better(group, min_reward=0.8) == [False, False, True]
    assert better(group, min_reward=0.0) == [False, True, True]
    assert better(group, min_reward=0.9) == [False, False, False]
