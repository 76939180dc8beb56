"""Hand-made groups of rollouts, and a small part of VERL's configuration: nothing here needs VERL, Ray or torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agl.results import Group, RolloutResult
from agl.rewards import Reward
from agl.rollouts import Attempt, AttemptStatus, Rollout
from agl.tasks import Task
from agl.transitions import Transition

DEFAULTS: dict[str, Any] = {
    "algorithm": {
        "_target_": "verl.trainer.config.AlgoConfig",
        "adv_estimator": "gae",
        "gamma": 1.0,
        "use_kl_in_reward": False,
        "norm_adv_by_std_in_grpo": True,
        "filter_groups": {"enable": False, "metric": "reward", "max_num_gen_batches": 0},
        "rollout_correction": {"rollout_is": None},
    },
    "data": {
        "train_files": "~/data/train.parquet",
        "val_files": "~/data/test.parquet",
        "train_batch_size": 1024,
        "max_prompt_length": 512,
        "max_response_length": 512,
        "seed": None,
        "custom_cls": {"path": None, "name": None},
        "dataloader_num_workers": 8,
    },
    "actor_rollout_ref": {
        "model": {"path": "~/models/deepseek-llm-7b-chat", "override_config": {}, "lora_rank": 0, "external_lib": None},
        "actor": {
            "ppo_mini_batch_size": 256,
            "ppo_max_token_len_per_gpu": 16384,
            "use_dynamic_bsz": False,
            "loss_agg_mode": "token-mean",
            "loss_scale_factor": None,
            "policy_loss": {"loss_mode": "vanilla"},
            "optim": {"lr": 1e-6},
        },
        "rollout": {
            "name": "???",
            "n": 1,
            "tensor_model_parallel_size": 2,
            "data_parallel_size": 1,
            "pipeline_model_parallel_size": 1,
            "max_model_len": None,
            "engine_kwargs": {"vllm": {}},
            "multi_turn": {"_target_": "verl.workers.config.MultiTurnConfig", "enable": False, "format": "hermes"},
            "val_kwargs": {"n": 1, "do_sample": False},
        },
    },
    "reward": {"num_workers": 8},
    "trainer": {
        "n_gpus_per_node": 8,
        "nnodes": 1,
        "total_epochs": 30,
        "total_training_steps": None,
        "val_before_train": True,
        "test_freq": -1,
        "save_freq": -1,
        "logger": ["console", "wandb"],
        "device": "cuda",
        "default_local_dir": "checkpoints/${trainer.project_name}",
        "resume_mode": "auto",
        "v1": {
            "trainer_mode": "sync",
            "colocate_async": {"num_warmup_batches": 1},
            "sampler": {"max_off_policy_threshold": 8, "max_off_policy_strategy": "drop", "sync_refill_failed_groups": False},
        },
    },
    "ray_kwargs": {"ray_init": {"num_cpus": None}},
}
"""A part of what `verl/trainer/config/ppo_trainer.yaml` composes to."""


@pytest.fixture(scope="session")
def defaults() -> dict[str, Any]:
    return DEFAULTS


@pytest.fixture(scope="session")
def article() -> dict[str, Any]:
    """The configuration of the published SQL agent's training script, with its keys."""
    return {
        "algorithm": {"adv_estimator": "grpo", "use_kl_in_reward": False},
        "data": {"train_batch_size": 32, "max_prompt_length": 4096, "max_response_length": 2048},
        "actor_rollout_ref": {
            "rollout": {"name": "vllm", "n": 4, "multi_turn": {"format": "hermes"}},
            "actor": {"ppo_mini_batch_size": 32, "optim": {"lr": 1e-6}},
            "model": {"path": "Qwen/Qwen2.5-Coder-1.5B-Instruct"},
        },
        "trainer": {"n_gpus_per_node": 1, "val_before_train": True, "test_freq": 32, "save_freq": 64, "total_epochs": 2},
    }


@pytest.fixture(scope="session")
def make_call() -> Callable[..., Transition]:
    def make(rollout: str, ids: Sequence[int], said: Sequence[int], **given: Any) -> Transition:
        prompt, answer = tuple(ids), tuple(said)
        known: dict[str, Any] = {"span_id": f"{rollout}{prompt}", "role": "writer", "version": "3", "logprobs": (-0.5,) * len(said)}
        return Transition(rollout_id=rollout, attempt_id="a", prompt_ids=prompt, response_ids=answer, **{**known, **given})

    return make


@pytest.fixture(scope="session")
def make_result() -> Callable[..., RolloutResult]:
    def make(name: str, reward: float | None, *calls: Transition) -> RolloutResult:
        attempt = Attempt(attempt_id=f"a-{name}", rollout_id=name, number=1, worker_id="w", status=AttemptStatus.SUCCEEDED)
        task = Task(task_id="t", data={})
        rollout = Rollout(rollout_id=name, run_id="run", task=task, group_id="g", sample=0, attempt=attempt)
        rewards = () if reward is None else (Reward(value=reward, source="returned"),)
        return RolloutResult(rollout=rollout, rewards=rewards, transitions=calls)

    return make


@pytest.fixture(scope="session")
def make_group() -> Callable[..., Group]:
    return lambda *results: Group(task=Task(task_id="t", data={}), results=results)
