"""The whole configuration: the user's values over VERL's, what a run sets, and values that cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agl.errors import ConfigError
from agl_verl.configuration import compose_config, run_config
from agl_verl.keys import at, merged, nested


def test_the_articles_configuration_keeps_its_values_and_agls_defaults_fill_in(article, defaults) -> None:
    config = compose_config(article, defaults)
    assert at(config, "data.train_batch_size") == 32
    assert at(config, "actor_rollout_ref.actor.optim.lr") == 1e-6
    assert at(config, "actor_rollout_ref.actor.loss_agg_mode") == "seq-mean-token-mean"
    assert at(config, "trainer.logger") == ["console"]
    served = at(config, "actor_rollout_ref.rollout.engine_kwargs.vllm")
    assert served == {"served_model_name": "policy", "enable_auto_tool_choice": True, "tool_call_parser": "hermes"}


def test_tool_calls_are_read_only_where_a_format_is_named(defaults) -> None:
    config = compose_config({}, defaults)
    assert at(config, "actor_rollout_ref.rollout.engine_kwargs.vllm") == {"served_model_name": "policy"}


def test_the_users_values_go_before_agls(defaults) -> None:
    config = compose_config({"trainer": {"logger": ["console", "tensorboard"]}}, defaults)
    assert at(config, "trainer.logger") == ["console", "tensorboard"]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("algorithm.adv_estimator", "gae", "can be one of"),
        ("algorithm.use_kl_in_reward", True, "actor.use_kl_loss"),
        ("algorithm.gamma", 0.9, "discounts over calls"),
        ("algorithm.filter_groups", {"enable": True, "metric": "acc"}, "can be `reward`, a rollout's final one, given was 'acc'"),
        ("algorithm.filter_groups.max_num_gen_batches", 10, "`max_inflight_gen_batches` bounds it"),
        ("trainer.v1.trainer_mode", "separate_async", "cuts the calls that are on their way"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode", "geo_mean", "by how it was cut"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode", "kl_cov", "picks tokens by the size of their advantage"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode", "dro", "not in proportion to the advantage"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode", "bypass_mode", "rollout_correction.bypass_mode: True"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode", "mine", "it is not known"),
        ("actor_rollout_ref.actor.loss_agg_mode", "mean", "can be one of"),
        ("actor_rollout_ref.actor.loss_agg_mode", "seq-mean-token-sum-norm", "loss_scale_factor"),
        ("actor_rollout_ref.rollout.val_kwargs.n", 4, "the same greedy answer; say `val_kwargs.do_sample: True`"),
    ],
)
def test_values_that_cannot_work_are_refused(path: str, value: Any, said: str, defaults) -> None:
    with pytest.raises(ConfigError, match=said):
        compose_config(nested({path: value}), defaults)


def test_dotted_keys_are_told_how_to_be_written(defaults) -> None:
    with pytest.raises(ConfigError, match=r"write \{'data': \{'train_batch_size': 4\}\} instead"):
        compose_config({"data.train_batch_size": 4}, defaults)


def test_what_is_no_dict_and_an_unknown_engine_are_refused(defaults) -> None:
    with pytest.raises(ConfigError, match="takes a dict of VERL's sections"):
        compose_config("config.yaml", defaults)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="`model_engine` can be one of"):
        compose_config({"model_engine": "jax"}, defaults)


def run(config: dict[str, Any], **given: Any) -> dict[str, Any]:
    return run_config(config, **{"train": 64, "val": 4, "seed": 7, "folder": Path("run/verl"), "resume": None, **given})


def test_a_run_hands_verl_indices_agls_manager_and_a_weight_per_token(article, defaults) -> None:
    config = run(compose_config(article, defaults))
    assert (at(config, "data.train_files"), at(config, "data.val_files")) == (["train:64"], ["val:4"])
    assert at(config, "actor_rollout_ref.rollout.agent.agent_loop_manager_class") == "agl_verl.manager.AglManager"
    assert at(config, "actor_rollout_ref.actor.loss_agg_mode") == "token-mean"
    assert at(config, "trainer.v1.trainer_mode") == "agl_sync"
    assert (at(config, "data.seed"), at(config, "trainer.default_local_dir")) == (7, "run/verl")
    assert (at(config, "trainer.resume_mode"), at(config, "trainer.test_freq")) == ("disable", 32)


def test_collecting_ahead_has_a_trainer_of_its_own_and_corrects_for_older_weights(article, defaults) -> None:
    ahead = merged(article, nested({"trainer.v1.trainer_mode": "colocate_async"}))
    config = run(compose_config(ahead, defaults))
    assert at(config, "trainer.v1.trainer_mode") == "agl_colocate_async"
    assert at(config, "algorithm.rollout_correction.rollout_is") == "token"
    assert at(compose_config(article, defaults), "algorithm.rollout_correction.rollout_is") is None
    own = merged(ahead, nested({"algorithm.rollout_correction.rollout_is": "sequence"}))
    assert at(compose_config(own, defaults), "algorithm.rollout_correction.rollout_is") == "sequence"


def test_where_groups_are_filtered_those_without_rows_are_replaced_too(article, defaults) -> None:
    filtered = compose_config(merged(article, nested({"algorithm.filter_groups.enable": True})), defaults)
    assert at(run(filtered), "trainer.v1.sampler.sync_refill_failed_groups") is True


def test_without_validation_tasks_nothing_is_validated(article, defaults) -> None:
    config = run(compose_config(article, defaults), val=0)
    assert (at(config, "trainer.val_before_train"), at(config, "trainer.test_freq")) == (False, -1)


def test_a_resumed_run_goes_on_from_verls_checkpoint_and_the_users_folder_is_kept(article, defaults) -> None:
    own = merged(article, nested({"trainer.default_local_dir": "/shared/checkpoints", "data.seed": 3}))
    config = run(compose_config(own, defaults), resume="run/verl/global_step_2")
    assert (at(config, "trainer.resume_mode"), at(config, "trainer.resume_from_path")) == ("resume_path", "run/verl/global_step_2")
    assert (at(config, "trainer.default_local_dir"), at(config, "data.seed")) == ("/shared/checkpoints", 3)
