"""A reward is one finite number, or an error."""

import decimal
import math

import numpy as np
import pytest

from agl.errors import RewardError
from agl.rewards import make_reward


class Tensor:
    """As torch's: `item` gives the number, or a RuntimeError where there are several."""

    def __init__(self, *values):
        self.values = values

    def item(self):
        if len(self.values) > 1:
            raise RuntimeError("a Tensor with 2 elements cannot be converted to Scalar")
        return self.values[0]


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), (0.5, 0.5), (True, 1.0), (np.float32(0.5), 0.5), (np.int64(2), 2.0), (np.bool_(True), 1.0), (np.array([0.5]), 0.5),
     (np.array(3), 3.0), (Tensor(0.25), 0.25)],
)  # fmt: skip
def test_one_number_of_any_kind_is_taken(value, number):
    made = make_reward(value, source="returned").value
    assert (made, type(made)) == (number, float)


@pytest.mark.parametrize(
    "value",
    [None, "1.0", b"1", math.nan, math.inf, -math.inf, np.nan, np.float32("inf"), np.array([1.0, 2.0]),
     Tensor(1.0, 2.0), Tensor(math.nan), [1.0], {"reward": 1.0}, 1j, np.complex128(1), np.str_("1"), decimal.Decimal(1), 10**400, object()],
)  # fmt: skip
def test_anything_else_is_refused_by_its_name_and_source(value):
    with pytest.raises(RewardError, match="reward `parsed` from returned must be"):
        make_reward(value, name="parsed", source="returned")


def test_a_reward_says_what_it_judges_and_when():
    reward = make_reward(1, name="parsed", source="agent", span_id="s", role="writer")
    assert (reward.name, reward.source, reward.span_id, reward.role) == ("parsed", "agent", "s", "writer")
    assert reward.created_at > 1e9
