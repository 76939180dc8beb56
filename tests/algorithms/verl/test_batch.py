"""Finished groups as the rows of VERL's batch: masks, advantages, weights, and a count of what is left out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from agl.errors import DataError
from agl.results import Group
from agl_grpo.collect import learning_rows
from agl_grpo.losses import AGGREGATIONS
from agl_verl.advantages import Values
from agl_verl.batch import Limits, make_batch, validation_samples
from agl_verl.weights import weigher

LIMITS = Limits(prompt=100, response=100, temperature=1.0)
ROLLOUT_MEAN = weigher("seq-mean-token-mean")


def centred(values: Values, tokens: Sequence[Sequence[int]]) -> list[list[float]]:
    """r - mean within each group, as Dr.GRPO has it."""
    found = []
    for group in values:
        known = [value for value in group if value is not None]
        mean = sum(known) / len(known) if known else 0.0
        found.append([0.0 if value is None else value - mean for value in group])
    return found


def batch(*groups: Group, limits: Limits = LIMITS, mode: str = "seq-mean-token-mean") -> Any:
    return make_batch(groups, centred, weigher(mode), limits)


@pytest.fixture
def pair(make_call, make_result, make_group):
    """Two rollouts: one of two turns in one row, one of a single call."""
    first = make_call("a", [1, 2], [3, 4])
    second = make_call("a", [1, 2, 3, 4, 9, 9], [5])
    return make_group(make_result("a", 1.0, first, second), make_result("b", 0.0, make_call("b", [1, 2], [6])))


def test_turns_that_extend_each_other_are_one_row_whose_mask_has_sampled_tokens_only(pair) -> None:
    one, two = batch(pair).samples
    assert (one.prompt_ids, one.response_ids) == ((1, 2), (3, 4, 9, 9, 5))
    assert one.mask == (True, True, False, False, True)
    assert one.logprobs == (-0.5, -0.5, 0.0, 0.0, -0.5)
    assert one.advantages == (0.5, 0.5, 0.0, 0.0, 0.5)
    assert (two.advantages, two.rollout, two.reward, two.versions) == ((-0.5,), 1, 0.0, (3, 3))


def test_a_rollouts_weight_does_not_depend_on_how_it_was_cut(pair, make_call, make_result, make_group) -> None:
    calls = make_call("a", [1, 2], [3, 4]), make_call("a", [7, 7], [5])
    cut = make_group(make_result("a", 1.0, *calls), pair.results[1])
    whole_loss, cut_loss = (sum(s.weight * sum(s.advantages) for s in batch(group).samples) for group in (pair, cut))
    assert len(batch(cut).samples) == 3
    assert whole_loss == pytest.approx(cut_loss, abs=1e-15)


def test_statistics_are_over_rollouts_with_a_reward_and_excluded_ones_make_no_row(pair, make_call, make_result, make_group) -> None:
    excluded = make_result("c", None, make_call("c", [1, 2], [8]))
    found = batch(make_group(*pair.results, excluded))
    assert [sample.rollout for sample in found.samples] == [0, 1]
    assert found.samples[1].advantages == (-0.5,)


def test_what_a_call_got_beyond_its_rollout_stays_with_its_tokens(make_call, make_result, make_group) -> None:
    calls = make_call("a", [1], [3], reward=1.0), make_call("a", [1, 3, 9], [4], reward=2.0)
    found = batch(make_group(make_result("a", 1.5, *calls), make_result("b", 0.0, make_call("b", [1], [6], reward=0.0))))
    assert found.samples[0].advantages == pytest.approx((0.25, 0.0, 1.25))


def test_rows_that_do_not_fit_are_left_out_whole_counted_and_keep_their_place_in_the_weights(pair) -> None:
    kept = {sample.rollout: sample.weight for sample in batch(pair).samples}
    found = batch(pair, limits=msgspec.structs.replace(LIMITS, response=4))
    assert found.dropped == {"response_too_long": 1}
    assert {sample.rollout: sample.weight for sample in found.samples} == {1: kept[1]}
    assert batch(pair, limits=msgspec.structs.replace(LIMITS, prompt=1)).dropped == {"prompt_too_long": 2}
    assert batch(pair, limits=msgspec.structs.replace(LIMITS, temperature=0.7)).dropped == {"other_temperature": 2}


def test_calls_without_a_version_of_verl_are_left_out(pair, make_call, make_result, make_group) -> None:
    other = make_group(make_result("a", 1.0, make_call("a", [1], [2], version="hosted")), pair.results[1])
    assert batch(other).dropped == {"other_version": 1}


def test_rewards_without_a_call_that_can_be_trained_are_an_error(make_call, make_result, make_group) -> None:
    call = make_call("a", [1], [2], untrained="the role `checker` is frozen")
    with pytest.raises(DataError, match="no call of 1 rollouts can be trained: 1 calls: the role `checker` is frozen"):
        batch(make_group(make_result("a", 1.0, call)))


def test_a_validation_has_one_row_for_each_reward_whatever_its_calls(make_call, make_result) -> None:
    results = [make_result("a", 1.0, make_call("a", [1], [2, 3])), make_result("b", None), make_result("c", 0.5)]
    found = validation_samples(results)
    assert [(sample.group, sample.reward, sample.response_ids) for sample in found] == [(0, 1.0, (2, 3)), (2, 0.5, (0,))]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("mode", "native"), [("seq-mean-token-mean", "rollout_mean"), ("token-mean", "token_mean")])
def test_advantages_and_weights_are_those_of_native_grpo(seed: int, mode: str, native: str, make_call, make_result, make_group) -> None:
    draw = random.Random(seed)
    groups = []
    for g in range(3):
        results = []
        for i in range(4):
            name = f"{g}-{i}"
            calls = [
                make_call(name, [1, n], [5] * draw.randint(1, 4), role=draw.choice(["writer", "checker"]), reward=draw.random())
                for n in range(draw.randint(1, 3))
            ]
            results.append(make_result(name, draw.choice([None, 0.0, 1.0, 0.5]), *calls))
        groups.append(make_group(*results))
    rows, advantages = learning_rows(groups, "dr_grpo")
    found = make_batch(groups, centred, weigher(mode), LIMITS)
    assert list(found.rows) == rows
    assert [list(given) for given in found.advantages] == [pytest.approx(list(values)) for values in advantages]
    assert list(found.weights) == pytest.approx(AGGREGATIONS[native](rows))
