"""Check 2: VERL with vLLM on one GPU trains the same agent, for at least five GRPO steps.

python benchmarks/gpu/verl_vllm.py --out OUT [--model DIR] [--steps 8] [--dry-run]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from machine import require_gpu, versions, write
from sql import MODEL, agent_and_tasks, result_of


def config(model: str, steps: int, prompt: int, response: int) -> dict[str, Any]:
    """One GPU, shared by trainer and server; the server's memory is never put to sleep, which a small model does not need."""
    return {
        "data": {"train_batch_size": 16, "max_prompt_length": prompt, "max_response_length": response},
        "actor_rollout_ref": {
            # VERL's default attention is flash-attn, which is not in the bundle.
            "model": {"path": model, "override_config": {"attn_implementation": "sdpa"}, "enable_gradient_checkpointing": False},
            "actor": {"strategy": "fsdp2", "ppo_mini_batch_size": 16, "ppo_max_token_len_per_gpu": 16384, "optim": {"lr": 3e-4}},
            "rollout": {
                "name": "vllm",
                "n": 8,
                "tensor_model_parallel_size": 1,
                "gpu_memory_utilization": 0.3,
                "free_cache_engine": False,
                "enable_sleep_mode": False,
                "log_prob_max_token_len_per_gpu": 32768,
                "engine_kwargs": {"vllm": {"compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}}},
            },
        },
        "trainer": {
            "n_gpus_per_node": 1,
            "val_before_train": False,
            "test_freq": -1,
            "save_freq": -1,
            "total_training_steps": steps,
            "total_epochs": 1000,
        },
        "transfer_queue": {"backend": {"SimpleStorage": {"num_data_storage_units": 1}}},
        "ray_kwargs": {"ray_init": {"include_dashboard": False, "object_store_memory": 2_000_000_000}},
    }


def main() -> None:
    """Train and write the figures."""
    import agl

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=448)
    parser.add_argument("--response", type=int, default=64)
    parser.add_argument("--dry-run", action="store_true", help="compose and check only")
    options = parser.parse_args()
    agent, train, test = agent_and_tasks(options.out)
    trainer = agl.Trainer(
        n_runners=128,
        algorithm=agl.VERL(config(options.model, options.steps, options.prompt, options.response)),
        adapter={"agent_match": "write|rewrite"},
        store=options.out / "store.sqlite",
        timeout=120,
    )
    if options.dry_run:
        trainer.fit(agent, train, dry_run=True)
        return
    gpu = require_gpu()
    found = result_of(trainer.fit(agent, train, test_dataset=test))
    steps = found["steps"]
    rates = {
        "steps_done": len(steps),
        "seconds_per_step": sum(one["seconds"] for one in steps) / len(steps),
        "rollout_probs_diff_max": max(one.get("training/rollout_probs_diff_max", 0.0) for one in steps),
        "sampled_tokens_per_second": sum(one["sampled_tokens"] for one in steps) / sum(one["timing_s/gen"] for one in steps),
        "update_seconds": sum(one["timing_s/update_actor"] for one in steps) / len(steps),
    }
    write(
        options.out / "verl_vllm.json",
        {
            "check": "verl_vllm",
            "model": options.model,
            **gpu,
            **rates,
            **found,
            "versions": versions("torch", "transformers", "verl", "vllm", "ray"),
        },
    )


if __name__ == "__main__":
    main()
