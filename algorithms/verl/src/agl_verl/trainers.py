"""Trainers: VERL's own, registered by its `register_trainer`, with advantages, weights and optimiser steps by rollouts.

`agl_sync` is VERL's `sync` with four methods of it: what AGL knows of a rollout replaces what VERL derives from the rows of its batch,
and AGL hears when weights are served and steps end. `agl_colocate_async` is VERL's `colocate_async` for agents: rollouts go on over
changes of weights, and their calls are not cut but waited for.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import open_dict
from tensordict import TensorDict
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.utils.metric import reduce_metrics
from verl.utils.py_functional import rename_dict

from agl_verl.batch import Sample
from agl_verl.manager import key_of, telling
from agl_verl.messages import GO, STOP, Choose, Finished, Pause, Ready, StepEnded, numbers
from agl_verl.updates import OVER_ROWS, Plan, plan_updates, step_factors

POLL_SECONDS = 0.05
"""Between VERL's looks at its queue; two seconds by its own default."""


@register_trainer("agl_sync")
class AglTrainerSync(PPOTrainerSync):
    """VERL's synchronous trainer, for rollouts of agents."""

    mode = "sync"
    """VERL's name of it."""

    def __init__(self, config: Any) -> None:
        with open_dict(config):
            config.trainer.v1.trainer_mode = self.mode  # VERL looks at the mode's name in many places
        super().__init__(config)
        self.replay_buffer.poll_interval = POLL_SECONDS
        self._samples: dict[str, Sample] = {}
        self._plan = Plan(order=(), step_rows=0, part={})
        self._part_of: dict[str, int] = {}
        self._saved: str | None = None
        self._metrics: dict[str, Any] = {}

    def init(self) -> None:
        """VERL's own; what it raises is told at once, since closing VERL's queue can take minutes."""
        with telling():
            super().init()

    def fit(self, agent_loop_manager: Any) -> None:
        """Learn when AGL says so; then serve until AGL says stop."""
        self._manager = agent_loop_manager
        with telling():
            self._fit(agent_loop_manager)

    def _fit(self, agent_loop_manager: Any) -> None:
        mailbox = agent_loop_manager.mailbox
        ready = Ready(
            addresses=tuple(self.llm_server_manager.get_addresses()), version=self.global_steps, total_steps=self.total_training_steps
        )
        ray.get(mailbox.ask.remote(ready))
        ray.get(mailbox.wait.remote(GO))
        super().fit(agent_loop_manager)
        ray.get(mailbox.ask.remote(Finished()))
        ray.get(mailbox.wait.remote(STOP))

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> Any:
        """One step of VERL; its metrics are kept for AGL."""
        self._metrics, self._saved = metrics, None
        return super().step(metrics, timing_raw)

    def on_step_end(self) -> None:
        """Serve the new weights, then tell AGL."""
        super().on_step_end()
        timing = {f"timing_s/{name}": value for name, value in self.timing_raw.items()}
        told = StepEnded(version=self.global_steps, metrics=numbers({**self._metrics, **timing}), checkpoint=self._saved)
        ray.get(self._manager.mailbox.ask.remote(told))
        self._samples.clear()

    def _save_checkpoint(self) -> None:
        super()._save_checkpoint()
        self._saved = f"{self.config.trainer.default_local_dir}/global_step_{self.global_steps}"

    def _balance_batch(self, batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Have AGL weigh the chosen groups; order and pad the rows so that VERL's cut into optimiser steps keeps a rollout's rows together."""
        self._choose(batch)
        sizes: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for index, (key, tag) in enumerate(zip(batch.keys, batch.tags, strict=True)):
            sizes[key.rpartition("_")[0]].append((index, tag["seq_len"]))
        parts = self.config.data.train_batch_size // self.config.actor_rollout_ref.actor.ppo_mini_batch_size
        self._plan = plan_updates(sizes, parts, self._ranks())
        keys = list(batch.keys)
        self._part_of = {keys[index]: part for index, part in self._plan.part.items()}
        batch = upsample_batch_to_divisible_size(batch, len(self._plan.order), self.tokenizer.eos_token_id)
        batch.reorder(list(self._plan.order))
        metrics |= {"agl/optimizer_steps": parts, "agl/rows": len(keys), "agl/padding_rows": len(self._plan.order) - len(keys)}
        return batch

    def _choose(self, batch: Any) -> None:
        uids = tuple(dict.fromkeys(key.rsplit("_", 2)[0] for key in batch.keys))
        left = (tq.kv_list(batch.partition_id) or {}).get(batch.partition_id, {})
        kept = frozenset(key for key, tag in left.items() if tag.get("is_prompt")) - {*uids}
        answer = ray.get(self._manager.mailbox.ask.remote(Choose(groups=uids, kept=kept)))
        self._samples = {key_of(uids[sample.group], sample): sample for sample in answer.samples}

    def _ranks(self) -> int:
        """Data-parallel workers of the actor."""
        group = self.actor_rollout_wg
        if "actor" not in group._dispatch_info:
            group._dispatch_info["actor"] = group._query_dispatch_info("actor")
        return max(group._dispatch_info["actor"]) + 1

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """AGL's advantages, times the weights of their tokens, in VERL's batch; its correction of log-probabilities is computed as ever."""
        batch = super()._compute_advantage(batch, metrics)
        samples = self._samples
        tokens = {key: samples[key].tokens for key in self._part_of}
        factors = step_factors(tokens, self._part_of, by_row=self._by_row())
        found = []
        for key in batch.keys:
            sample = samples.get(key)
            if sample is None:  # VERL's padding: one masked token
                found.append(torch.zeros(1))
                continue
            found.append(torch.tensor(sample.advantages, dtype=torch.float64).mul(sample.weight * factors[key]).float())  # (T,)
        advantages = torch.nested.as_nested_tensor(found, layout=torch.jagged)
        fields = TensorDict({"advantages": advantages, "returns": advantages.clone()}, batch_size=len(batch))
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)

    def _by_row(self) -> int | None:
        """Rows of an optimiser step, for a loss that VERL averages over rows whatever `loss_agg_mode` says."""
        return self._plan.step_rows if self.config.actor_rollout_ref.actor.policy_loss.loss_mode in OVER_ROWS else None

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """VERL's update, with optimiser steps of as many rows as the plan has for them."""
        actor = self.config.actor_rollout_ref.actor
        batch.extra_info.update(
            {
                "calculate_entropy": actor.calculate_entropy or actor.entropy_coeff != 0.0,
                "distillation_use_topk": False,
                "distillation_only": False,
                "global_batch_size": self._plan.step_rows,
                "mini_batch_size": self._plan.step_rows,
                "epochs": actor.ppo_epochs,
                "seed": actor.data_loader_seed,
                "dataloader_kwargs": {"shuffle": False},
                "temperature": self.config.actor_rollout_ref.rollout.temperature,
            }
        )
        output = rename_dict(self.actor_rollout_wg.update_actor(batch)["metrics"], "actor/")
        output["perf/mfu/actor"] = output.pop("actor/mfu")
        metrics.update(reduce_metrics(output))
        return batch


@register_trainer("agl_colocate_async")
class AglTrainerColocateAsync(AglTrainerSync):
    """VERL's asynchronous trainer with trainer and servers on the same GPUs, for rollouts of agents."""

    mode = "colocate_async"

    def on_train_begin(self) -> None:
        """Ask for the groups that are collected ahead."""
        self._add_async_warmup_batches(self.config.trainer.v1.colocate_async.num_warmup_batches)

    def on_sample_end(self) -> None:
        """Let running calls end and hold new ones back, where VERL cuts them: an agent's client cannot go on with half an answer."""
        ray.get(self._manager.mailbox.ask.remote(Pause()))
        super().on_sample_end()

    def _load_checkpoint(self) -> None:
        """VERL's own; groups that were under way or waited for their step are asked for again, since AGL's part of them ended with its process."""
        super()._load_checkpoint()
        prompts = {key: tag for key, tag in ((tq.kv_list("train") or {}).get("train", {})).items() if tag.get("is_prompt")}
        if prompts:
            tags = [{**tag, "status": "pending"} for tag in prompts.values()]
            tq.kv_batch_put(keys=list(prompts), partition_id="train", tags=tags)
