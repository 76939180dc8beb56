"""Check 3: one batch's update by native GRPO and by VERL's actor, in one process each and without rollouts: seconds and tokens per second.

    python benchmarks/gpu/update.py --out OUT [--shape 135m] [--device cuda] [--only native|verl]

Weights are random, since speed does not depend on them. Both take the same rows: one sequence per rollout, all advantages set.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import require_gpu, training_flops, versions, write
from sql import MODEL

SHAPES: dict[str, dict[str, int]] = {
    "tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=512),
    "135m": dict(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, vocab_size=49152
    ),
    "1b": dict(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, vocab_size=49152
    ),
}
"""Llama shapes: SmolLM2-135M's, and Llama 3.2 1B's with its vocabulary."""


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", choices=["native", "verl"])
    parser.add_argument("--rollouts", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--response", type=int, default=384)
    parser.add_argument("--micro-batch-tokens", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    model = make_model(options.out / options.shape, SHAPES[options.shape])
    rows = make_rows(options, SHAPES[options.shape]["vocab_size"])
    gpu = require_gpu() if options.device == "cuda" else {"gpu": "none: measured on the CPU", "peak_bf16": None}
    makers = {"native": native, "verl": verl}
    result = {name: measure(make(model, rows, options), rows, options) for name, make in makers.items() if options.only in (None, name)}
    tokens, parameters = sum(len(row.token_ids) for row in rows), count_parameters(model)
    for figures in result.values():
        figures["tokens_per_second"] = tokens / figures["seconds"]
        figures["share_of_peak"] = training_flops(parameters, tokens) / figures["seconds"] / gpu["peak_bf16"] if gpu["peak_bf16"] else None
    write(
        options.out / "update.json",
        {
            "check": "update",
            "shape": options.shape,
            "tokens": tokens,
            "parameters": parameters,
            **gpu,
            **result,
            "versions": versions("torch", "transformers", "verl"),
        },
    )


def make_model(folder: Path, shape: dict[str, int]) -> str:
    """A folder with random weights of a shape."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if not (folder / "model.safetensors").exists():
        torch.manual_seed(0)
        ids = dict(bos_token_id=1, eos_token_id=2, pad_token_id=2)
        LlamaForCausalLM(LlamaConfig(**shape, **ids, max_position_embeddings=4096, tie_word_embeddings=True)).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):  # VERL wants one; no text is read
            shutil.copy(MODEL / name, folder)
    return str(folder)


def count_parameters(model: str) -> int:
    """Parameters of a saved model."""
    from transformers import AutoConfig

    from agl_verl.memory import parameters_of

    return parameters_of(AutoConfig.from_pretrained(model))


def make_rows(options: argparse.Namespace, vocabulary: int) -> list[Any]:
    """One row per rollout, the response of half to one and a half times the asked length."""
    from agl.transitions import Row

    draw, rows = random.Random(0), []
    for index in range(options.rollouts):
        size = int(options.response * draw.uniform(0.5, 1.5))
        ids = tuple(draw.randrange(3, vocabulary) for _ in range(options.prompt + size))
        mask = (False,) * options.prompt + (True,) * size
        logprobs = tuple(-10.0 if on else 0.0 for on in mask)
        owners = tuple(0 if on else -1 for on in mask)
        rows.append(Row(rollout_id=f"r{index}", token_ids=ids, mask=mask, logprobs=logprobs, owners=owners, transitions=()))
    return rows


def native(model: str, rows: list[Any], options: argparse.Namespace) -> Callable[[], Any]:
    """Native GRPO's update."""
    import torch
    from transformers import AutoModelForCausalLM

    from agl_grpo.learner import Learner

    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    learner = Learner(
        AutoModelForCausalLM.from_pretrained(model, dtype=dtype).to(options.device), micro_batch_tokens=options.micro_batch_tokens
    )
    return lambda: learner.update(rows, advantages(rows))


def advantages(rows: list[Any]) -> list[float]:
    """One for each row; none is 0, so that every row is computed."""
    return [1.0 if index % 2 else -1.0 for index in range(len(rows))]


def verl(model: str, rows: list[Any], options: argparse.Namespace) -> Callable[[], Any]:
    """VERL's actor: its FSDP worker alone, in a process group of one."""
    from functools import partial

    import torch
    from omegaconf import OmegaConf
    from verl.utils import tensordict_utils
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.config import TrainingWorkerConfig
    from verl.workers.engine_workers import TrainingWorker
    from verl.workers.utils.losses import ppo_loss

    from agl_verl.configuration import compose_config

    alone()
    config = OmegaConf.create(compose_config(verl_config(model, options)))
    config.actor_rollout_ref.actor.optim.total_training_steps = 1000
    config.actor_rollout_ref.actor.loss_agg_mode = "token-mean"
    model_config, actor = omega_conf_to_dataclass(config.actor_rollout_ref.model), omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    actor.model_config = model_config
    engine = actor.engine
    engine.use_dynamic_bsz, engine.use_remove_padding, engine.micro_batch_size_per_gpu = True, True, None
    engine.max_token_len_per_gpu = engine.infer_max_token_len_per_gpu = options.micro_batch_tokens
    worker = TrainingWorker(
        config=TrainingWorkerConfig(
            model_type="language_model",
            model_config=model_config,
            engine_config=engine,
            optimizer_config=actor.optim,
            checkpoint_config=actor.checkpoint,
        )
    )
    worker.reset()
    worker.set_loss_fn(partial(ppo_loss, config=actor))

    def nested(values: list[Any]) -> Any:
        return torch.nested.as_nested_tensor(values, layout=torch.jagged)

    def update() -> Any:
        parts = [(torch.tensor(row.token_ids), row.mask.index(True), given) for row, given in zip(rows, advantages(rows), strict=True)]
        masks = [torch.ones(len(ids) - first, dtype=torch.int64) for ids, first, _ in parts]
        fields = {
            "prompts": nested([ids[:first] for ids, first, _ in parts]),
            "responses": nested([ids[first:] for ids, first, _ in parts]),
            "input_ids": nested([ids for ids, _, _ in parts]),
            "position_ids": nested([torch.arange(len(ids)) for ids, _, _ in parts]),
            "response_mask": nested(masks),
            "loss_mask": nested([mask.clone() for mask in masks]),
            "old_log_probs": nested([torch.full((len(mask),), -10.0) for mask in masks]),
            "advantages": nested([torch.full((len(mask),), given) for mask, (_, _, given) in zip(masks, parts, strict=True)]),
        }
        sizes = {"global_batch_size": len(rows), "mini_batch_size": len(rows), "epochs": 1, "seed": 0, "temperature": 1.0}
        given = {**sizes, "calculate_entropy": False, "dataloader_kwargs": {"shuffle": False}}
        batch = tensordict_utils.get_tensordict(fields, non_tensor_dict=given)
        return worker.train_mini_batch(batch.to("cuda") if options.device == "cuda" else batch)

    return update


def verl_config(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """VERL's configuration of the worker."""
    cpu: dict[str, Any] = {"fsdp_config": {"use_torch_compile": False}, "use_torch_compile": False} if options.device == "cpu" else {}
    library = {"external_lib": "agl_verl_cpu_engine"} if options.device == "cpu" else {}
    override = {"override_config": {"attn_implementation": "sdpa"}, "enable_gradient_checkpointing": False, "use_remove_padding": True}
    return {
        "data": {"train_batch_size": options.rollouts},
        "actor_rollout_ref": {
            "model": {"path": model, **override, **library},
            "actor": {
                "strategy": "fsdp2",
                "ppo_mini_batch_size": options.rollouts,
                "ppo_max_token_len_per_gpu": options.micro_batch_tokens,
                **cpu,
            },
        },
        "trainer": {"device": options.device, "n_gpus_per_node": 1},
    }


def alone() -> None:
    """The environment of a process group of one."""
    import os

    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")


def measure(update: Callable[[], Any], rows: list[Any], options: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of the repeats after a first one, and the highest memory."""
    import torch

    cuda = options.device == "cuda"
    seconds = []
    for _ in range(options.repeats + 1):
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        update()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    memory = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    return {"seconds": statistics.median(seconds[1:]), "first_seconds": seconds[0], "all_seconds": seconds[1:], "peak_memory_gib": memory}


if __name__ == "__main__":
    main()
