import math

from agl_apo.moves import Draw
from agl_apo.search.evidence import Cell, Evidence


def draws(*rewards):
    return [Draw(task_id=f"t{number}", reward=reward, rollout_id=f"ro{number}", cost=0.25) for number, reward in enumerate(rewards)]


def test_every_draw_is_paid_for_and_only_finite_rewards_count():
    evidence = Evidence()
    evidence.add("seed", "train", draws(1.0, None, math.nan, math.inf, 0.0))
    assert (evidence.spent, evidence.missing, evidence.cost) == (5, 3, 1.25)
    assert evidence.count("seed") == 2
    assert [draw.reward for _, draw in evidence.rewarded("seed")] == [1.0, 0.0]
    assert len(evidence.draws["seed"]) == 5


def test_a_failure_with_a_reward_is_a_value():
    evidence = Evidence()
    evidence.add("seed", "train", [Draw(task_id="t0", reward=-1.0, failure="the agent raised")])
    assert evidence.mean("seed") == -1.0


def test_the_same_id_in_two_splits_is_two_tasks():
    evidence = Evidence()
    evidence.add("seed", "train", draws(1.0))
    evidence.add("seed", "val", draws(0.0))
    assert evidence.mean("seed", "train") == 1.0
    assert evidence.mean("seed", "val") == 0.0
    assert evidence.count("seed", "val") == 1
    assert evidence.count("seed") == 2


def test_differences_are_between_mean_rewards_on_common_tasks():
    evidence = Evidence()
    evidence.add("seed", "val", draws(0.0, 1.0, 1.0))
    evidence.add("seed", "val", draws(1.0))
    evidence.add("child", "val", draws(1.0, 1.0))
    assert evidence.differences("child", "seed") == [0.5, 0.0]
    assert evidence.differences("child", "seed", "train") == []
    assert evidence.differences("child", "unknown") == []


def test_means_are_over_tasks_and_none_without_rewards():
    evidence = Evidence()
    evidence.add("seed", "val", draws(0.0, 1.0))
    evidence.add("seed", "val", draws(0.0))
    assert evidence.mean("seed") == 0.5
    assert evidence.mean("child") is None


def test_a_cell_knows_its_spread():
    cell = Cell()
    for reward in (0.0, 1.0, 0.5):
        cell.add(reward)
    assert cell.mean == 0.5
    assert math.isclose(cell.within, 0.5)
