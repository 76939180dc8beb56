"""A reward is one finite number, or an error."""

import decimal
import math

import numpy as np
import pytest
import torch
from agl.errors import RewardError
from agl.rewards import make_reward


@pytest.mark.parametrize(
    "value", [1, 0.5, True, np.float32(0.5), np.int64(2), np.bool_(True), np.array([0.5]), torch.tensor(0.5), torch.tensor([[2.0]])]
)
def test_one_number_of_any_kind_is_taken(value):
    assert make_reward(value, source="returned").value == float(value)


def test_a_tensor_with_a_gradient_is_taken():
    assert make_reward(torch.tensor(0.25, requires_grad=True), source="returned").value == 0.25


@pytest.mark.parametrize(
    "value",
    [None, "1.0", b"1", math.nan, math.inf, -math.inf, np.nan, np.float32("inf"), np.array([1.0, 2.0]), torch.tensor([1.0, 2.0]), [1.0],
     {"reward": 1.0}, 1j, np.complex128(1), np.str_("1"), decimal.Decimal(1), 10**400, object()],
)  # fmt: skip
def test_anything_else_is_refused_by_its_name_and_source(value):
    with pytest.raises(RewardError, match="reward `parsed` from returned must be"):
        make_reward(value, name="parsed", source="returned")


def test_a_reward_says_what_it_judges_and_when():
    reward = make_reward(1, name="parsed", source="agent", span_id="s", role="writer")
    assert (reward.name, reward.source, reward.span_id, reward.role) == ("parsed", "agent", "s", "writer")
    assert reward.created_at > 1e9
