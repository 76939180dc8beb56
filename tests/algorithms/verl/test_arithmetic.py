"""The numbers of a step, and those that do not fit each other: each says what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agl_verl.arithmetic import count, misfits, unvalidated
from agl_verl.configuration import compose_config
from agl_verl.keys import merged, nested


@pytest.fixture
def config(article, defaults) -> dict[str, Any]:
    return merged(compose_config(article, defaults), nested({"actor_rollout_ref.rollout.tensor_model_parallel_size": 1}))


def test_the_articles_numbers_fit(config) -> None:
    assert misfits(config, train=1000) == []
    found = count(config, train=1000)
    assert (found.tasks * found.n, found.optimizer_steps, found.steps, found.sequence) == (128, 1, 62, 6144)
    assert found.lines()["the run"] == "62 steps, 7936 rollouts"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("data.train_batch_size", 2000, "VERL would never make a step"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size", 24, r"must divide `data.train_batch_size` \(32\)"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size", 64, "must divide"),
        ("actor_rollout_ref.rollout.n", 1, "compared with its siblings"),
        ("actor_rollout_ref.rollout.tensor_model_parallel_size", 2, "1 GPUs are not a multiple of the 2"),
        ("actor_rollout_ref.actor.ppo_max_token_len_per_gpu", 4096, r"less than the longest row \(6144 tokens\)"),
        ("actor_rollout_ref.rollout.max_model_len", 4096, "less than `max_prompt_length`"),
    ],
)
def test_numbers_that_do_not_fit_are_told_apart(path: str, value: int, said: str, config) -> None:
    found = misfits(merged(config, nested({path: value})), train=1000)
    assert re.search(said, found[0])


def test_a_validation_without_tasks_is_refused(article) -> None:
    said = "` has no effect without `val_dataset`; give one, or leave the key out"
    assert unvalidated(article, 0) == [f"`trainer.test_freq{said}", f"`trainer.val_before_train{said}"]
    assert unvalidated(article, 10) == []
    assert unvalidated({"trainer": {"test_freq": -1, "val_before_train": False}}, 0) == unvalidated({}, 0) == []


@pytest.mark.parametrize(("bound", "strategy", "fits"), [(1, "drop", False), (2, "drop", True), (1, "wait", True), (None, "drop", True)])
def test_a_bound_that_what_is_collected_ahead_always_breaks_is_refused(bound, strategy: str, fits: bool, config) -> None:
    sampler = {"max_off_policy_threshold": bound, "max_off_policy_strategy": strategy}
    ahead = merged(config, {"trainer": {"v1": {"trainer_mode": "agl_colocate_async", "sampler": sampler}}})
    found = misfits(ahead, train=1000)
    assert (found == []) == fits
    if not fits:
        assert "must be more than `trainer.v1.colocate_async.num_warmup_batches` (1)" in found[0]
