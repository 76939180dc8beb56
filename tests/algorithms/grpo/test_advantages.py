"""Advantages against values worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agl.errors import RewardError
from agl_grpo.advantages import ESTIMATORS, dr_grpo, grpo, rloo

every_estimator = pytest.mark.parametrize("estimate", list(ESTIMATORS.values()), ids=list(ESTIMATORS))
rewards = st.lists(st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3)), min_size=2, max_size=16)


def test_grpo_divides_by_the_sample_deviation() -> None:
    # mean 0.5; squared deviations sum to 1, over n - 1 = 3: std = 0.57735
    assert grpo([1.0, 1.0, 0.0, 0.0]) == pytest.approx(
        [0.5 / (math.sqrt(1 / 3) + 1e-6)] * 2 + [-0.5 / (math.sqrt(1 / 3) + 1e-6)] * 2, abs=1e-12
    )


def test_two_rollouts_get_plus_and_minus_the_root_of_a_half() -> None:
    assert grpo([1.0, 0.0]) == pytest.approx([0.7071057812, -0.7071057812], abs=1e-9)


def test_dr_grpo_subtracts_the_mean_only() -> None:
    assert dr_grpo([1.0, 0.0, 0.0, 0.0]) == pytest.approx([0.75, -0.25, -0.25, -0.25], abs=1e-15)


def test_rloo_compares_with_the_mean_of_the_others() -> None:
    assert rloo([3.0, 0.0, 6.0]) == pytest.approx([0.0, -4.5, 4.5], abs=1e-15)


@pytest.mark.parametrize("size", range(2, 65))
@every_estimator
def test_a_constant_group_of_fractions_gets_exactly_zero(estimate, size: int) -> None:
    for reward in (0.1, 1 / 3, 0.7, 0.123456789, -0.9):
        assert estimate([reward] * size) == [0.0] * size


@every_estimator
def test_a_group_of_one_has_nothing_to_compare_with(estimate) -> None:
    assert estimate([0.8]) == [0.0]
    assert estimate([]) == []


@every_estimator
def test_a_rollout_without_a_reward_is_out_of_the_baseline(estimate) -> None:
    with_gap = estimate([1.0, None, 0.0, 0.5])
    assert with_gap[1] == 0.0
    assert [with_gap[0], *with_gap[2:]] == estimate([1.0, 0.0, 0.5])
    assert estimate([None, 1.0, None]) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@every_estimator
def test_a_reward_that_is_no_number_is_refused(estimate, wrong: float) -> None:
    with pytest.raises(RewardError, match="finite"):
        estimate([1.0, wrong])


@given(rewards)
@every_estimator
def test_advantages_of_a_group_sum_to_zero_and_keep_the_order(estimate, values: list[float]) -> None:
    found = estimate(values)
    assert math.fsum(found) == pytest.approx(0.0, abs=1e-6)
    ordered = sorted(zip(values, found, strict=True))
    assert all(low[1] <= high[1] for low, high in itertools.pairwise(ordered))


@given(rewards, st.floats(-50, 50))
def test_grpo_does_not_depend_on_where_zero_is(values: list[float], shift: float) -> None:
    if max(values) - min(values) > 1e-2:
        assert grpo([value + shift for value in values]) == pytest.approx(grpo(values), abs=1e-6)
