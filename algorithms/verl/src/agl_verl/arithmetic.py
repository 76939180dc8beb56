"""Arithmetic: the numbers of one step, and those that do not fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from agl_verl.advantages import WITHIN_GROUPS
from agl_verl.keys import at

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
VALIDATING = ("trainer.test_freq", "trainer.val_before_train")


class Arithmetic(msgspec.Struct, frozen=True, kw_only=True):
    """What one step and one run are made of."""

    tasks: int
    """Per step (`data.train_batch_size`)."""
    n: int
    """Rollouts per task."""
    optimizer_steps: int
    """Per step: `train_batch_size / ppo_mini_batch_size`."""
    steps: int
    gpus: int
    replicas: int
    """Rollout servers."""
    sequence: int
    """Longest row in tokens."""

    def lines(self) -> dict[str, str]:
        """The numbers in words."""
        return {
            "a step": f"{self.tasks} tasks x {self.n} rollouts = {self.tasks * self.n} rollouts, {self.optimizer_steps} optimiser steps",
            "the run": f"{self.steps} steps, {self.steps * self.tasks * self.n} rollouts",
            "GPUs": f"{self.gpus}, with {self.replicas} rollout servers",
            "longest row": f"{self.sequence} tokens",
        }


def count(config: Mapping[str, Any], train: int) -> Arithmetic:
    """The numbers of a configuration whose interpolations are resolved.

    Args:
        train: training tasks.
    """
    tasks, per_step = at(config, "data.train_batch_size"), at(config, f"{ACTOR}.ppo_mini_batch_size")
    gpus = at(config, "trainer.n_gpus_per_node") * at(config, "trainer.nnodes")
    epochs = (train // tasks) * at(config, "trainer.total_epochs") if tasks else 0
    return Arithmetic(
        tasks=tasks,
        n=at(config, f"{ROLLOUT}.n"),
        optimizer_steps=tasks // per_step if per_step else 0,
        steps=at(config, "trainer.total_training_steps") or epochs,
        gpus=gpus,
        replicas=gpus // _replica_gpus(config),
        sequence=at(config, "data.max_prompt_length") + at(config, "data.max_response_length"),
    )


def _replica_gpus(config: Mapping[str, Any]) -> int:
    sizes = [at(config, f"{ROLLOUT}.{name}_parallel_size") or 1 for name in ("tensor_model", "data", "pipeline_model")]
    return sizes[0] * sizes[1] * sizes[2]


def misfits(config: Mapping[str, Any], train: int) -> list[str]:
    """What cannot work, each with the remedy."""
    a = count(config, train)
    per_step = at(config, f"{ACTOR}.ppo_mini_batch_size")
    found = []
    if a.tasks > train:
        found.append(f"`data.train_batch_size` is {a.tasks} and there are {train} training tasks: VERL would never make a step; lower it")
    if per_step > a.tasks or a.tasks % per_step:
        found.append(f"`{ACTOR}.ppo_mini_batch_size` ({per_step}) must divide `data.train_batch_size` ({a.tasks}): both count tasks")
    if a.n < 2 and at(config, "algorithm.adv_estimator") in WITHIN_GROUPS:
        found.append(f"`{ROLLOUT}.n` must be at least 2, it is {a.n}: a rollout is compared with its siblings")
    if a.gpus % _replica_gpus(config):
        found.append(
            f"{a.gpus} GPUs are not a multiple of the {_replica_gpus(config)} that one rollout server takes (`{ROLLOUT}.*_parallel_size`)"
        )
    limit = at(config, f"{ACTOR}.ppo_max_token_len_per_gpu")
    shards = at(config, f"{ACTOR}.ulysses_sequence_parallel_size") or 1
    if at(config, f"{ACTOR}.use_dynamic_bsz") and limit * shards < a.sequence:
        found.append(f"`{ACTOR}.ppo_max_token_len_per_gpu` ({limit}) is less than the longest row ({a.sequence} tokens): raise it")
    model_len = at(config, f"{ROLLOUT}.max_model_len")
    if model_len and model_len < a.sequence:
        found.append(f"`{ROLLOUT}.max_model_len` ({model_len}) is less than `max_prompt_length` + `max_response_length` ({a.sequence})")
    return found + _too_stale(config)


def unvalidated(given: Mapping[str, Any], val: int) -> list[str]:
    """Keys that ask for validations, where there are no tasks for them.

    Args:
        given: the user's own configuration: in that of a run without validation tasks they are put out.
        val: validation tasks.
    """
    asked = [path for path in VALIDATING if (value := at(given, path)) is not None and value > 0 and not val]
    return [f"`{path}` has no effect without `val_dataset`; give one, or leave the key out" for path in asked]


def _too_stale(config: Mapping[str, Any]) -> list[str]:
    """A bound on staleness that what is collected ahead would always break."""
    if at(config, "trainer.v1.trainer_mode") != "agl_colocate_async" or at(config, "trainer.v1.sampler.max_off_policy_strategy") != "drop":
        return []
    bound, ahead = at(config, "trainer.v1.sampler.max_off_policy_threshold"), at(config, "trainer.v1.colocate_async.num_warmup_batches")
    if bound is None or bound > ahead:
        return []
    return [
        f"`trainer.v1.sampler.max_off_policy_threshold` ({bound}) must be more than `trainer.v1.colocate_async.num_warmup_batches` ({ahead}): groups that "
        "are collected that far ahead would all be dropped"
    ]
