"""Manager: VERL's agent-loop manager, which hands VERL's prompts to AGL and puts what AGL's agents did into VERL's TransferQueue.

It runs in the process of VERL's trainer. The contract of the queue is VERL's (`verl.trainer.ppo.v1.replay_buffer`): a prompt's key is its
`uid`, with a status; the key of a row is `{uid}_{rollout}_{row}`.
"""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import torch
import transfer_queue as tq
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from agl_verl.batch import Sample
from agl_verl.messages import Answer, Ask, Failed


class AglManager:
    """VERL makes it by `create`, from `rollout.agent.agent_loop_manager_class`."""

    mailbox: Any = None
    """The actor to ask; the runner of VERL's trainer puts it here before VERL makes the manager."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.streams = config.trainer.v1.trainer_mode not in ("sync", "agl_sync") or config.algorithm.filter_groups.enable
        """Whether each group is a request of its own, finished as soon as its own rollouts are."""

    @classmethod
    def create(cls, config: Any, **given: Any) -> AglManager:
        """The manager; VERL's clients of its servers are not needed, since agents call through AGL's gateway."""
        return cls(config)

    def generate_sequences(self, prompts: Any) -> None:
        """Have the rollouts of a batch of prompts run; returns at once, and rows appear in the queue when they have ended."""
        validate = bool(prompts["validate"]) if "validate" in prompts else False
        rows = [_row(prompts, place) for place in range(len(prompts))]
        partition = "val" if validate else "train"
        tq.kv_batch_put(keys=[row["uid"] for row in rows], partition_id=partition, tags=[{"status": "running"} for _ in rows])
        indices = [int(index) for index in prompts["index"]]
        if self.streams and not validate:
            for index, row in zip(indices, rows, strict=True):
                self._start([index], [row], partition)
        else:
            self._start(indices, rows, partition)

    def _start(self, indices: Sequence[int], rows: Sequence[dict[str, Any]], partition: str) -> None:
        validate, rollout = partition == "val", self.config.actor_rollout_ref.rollout
        ask = Ask(
            tasks=tuple(indices),
            n=rollout.val_kwargs.n if validate else rollout.n,
            validate=validate,
            groups=tuple(row["uid"] for row in rows),
            streamed=self.streams and not validate,
        )
        threading.Thread(target=self._work, args=(ask, rows, partition), name="agl-rollouts", daemon=True).start()

    def _work(self, ask: Ask, rows: Sequence[dict[str, Any]], partition: str) -> None:
        with telling():
            # AGL answers, or ends this process: a request is never left without one.
            self._fill(ray.get(self.mailbox.ask.remote(ask)), rows, partition)

    def _fill(self, answer: Answer, rows: Sequence[dict[str, Any]], partition: str) -> None:
        by_group: dict[int, list[Sample]] = defaultdict(list)
        for sample in answer.samples:
            by_group[sample.group].append(sample)
        for place, row in enumerate(rows):
            self._put(row, by_group[place], partition)
            # Where VERL can ask for another group in its place, one without rows is a failure.
            status = "failure" if self.streams and partition == "train" and not by_group[place] else "finished"
            tq.kv_put(key=row["uid"], partition_id=partition, tag={"status": status})

    def _put(self, row: dict[str, Any], samples: Sequence[Sample], partition: str) -> None:
        if not samples:
            return
        keys = [key_of(row["uid"], sample) for sample in samples]
        tags = [_tag(sample, row["global_steps"]) for sample in samples]
        fields = [{**row, **_fields(sample)} for sample in samples]
        tq.kv_batch_put(keys=keys, fields=list_of_dict_to_tensordict(fields), tags=tags, partition_id=partition)


def key_of(uid: str, sample: Sample) -> str:
    """VERL's name of a row."""
    return f"{uid}_{sample.rollout}_{sample.index}"


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """Tell AGL of an error before it goes on upwards: what nobody waits for here would be waited for for ever there."""
    try:
        yield
    except BaseException:
        AglManager.mailbox.ask.remote(Failed(error=traceback.format_exc()))
        raise


def _row(prompts: Any, place: int) -> dict[str, Any]:
    """One prompt of VERL's batch, with what its trainer reads again from every row."""
    return {
        "uid": str(prompts["uid"][place]),
        "global_steps": int(prompts["global_steps"]),
        "data_source": "agl",
        "reward_model": {"style": "agl", "ground_truth": None},
        "raw_prompt": [],
    }


def _fields(sample: Sample) -> dict[str, Any]:
    prompt = torch.tensor(sample.prompt_ids, dtype=torch.int64)  # (P,)
    response = torch.tensor(sample.response_ids, dtype=torch.int64)  # (T,)
    mask = torch.tensor(sample.mask, dtype=torch.int64)  # (T,)
    scores = torch.zeros(len(response))
    scores[int(mask.nonzero().max())] = sample.reward
    return {
        "prompts": prompt,
        "responses": response,
        "response_mask": mask,
        "loss_mask": mask,
        "input_ids": torch.cat([prompt, response]),
        "position_ids": torch.arange(len(prompt) + len(response)),
        "rollout_log_probs": torch.tensor(sample.logprobs, dtype=torch.float32),
        "rm_scores": scores,
        "multi_modal_inputs": {},
        "num_turns": 2 * sample.calls,
        "session_id": sample.rollout,
        "extra_fields": {"reward_extra_info": {}, "min_global_steps": sample.versions[0], "max_global_steps": sample.versions[1]},
    }


def _tag(sample: Sample, step: int) -> dict[str, Any]:
    sizes = len(sample.prompt_ids), len(sample.response_ids)
    return {
        "status": "success",
        "prompt_len": sizes[0],
        "response_len": sizes[1],
        "seq_len": sum(sizes),
        "global_steps": step,
        "min_global_steps": sample.versions[0],
        "max_global_steps": sample.versions[1],
    }
