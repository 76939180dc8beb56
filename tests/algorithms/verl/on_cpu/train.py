"""Trains the SQL agent through VERL on a CPU: what the tests start as a process of its own.

python train.py FOLDER [--steps 3] [--resume] [--ahead | --filter --lora] [--executor ray]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
ENVIRONMENT = {
    "VERL_USE_EXTERNAL_MODULES": "agl_verl_cpu",
    "VERL_PLATFORM": "cpu",
    "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "disabled",
    "HYDRA_FULL_ERROR": "1",
}

FILTER = {"algorithm": {"filter_groups": {"enable": True}}}
"""Groups without spread replaced."""
AHEAD = {
    **FILTER,
    "rollout": {"val_kwargs": {"n": 2, "do_sample": True, "temperature": 1.0}},
    "trainer": {
        "v1": {"trainer_mode": "colocate_async", "sampler": {"max_off_policy_threshold": 2, "max_off_policy_strategy": "wait"}},
    },
}
"""Rollouts that go on over changes of weights, at most one version old; groups without spread replaced; each validation task run twice."""
LORA = {
    "model": {"lora_rank": 8, "lora": {"merge": True}},
    "actor": {"optim": {"lr": 3e-3, "weight_decay": 0.0, "betas": [0.9, 0.99]}},
}
"""An adapter, served merged into the weights; what it learns in a step is far above the rounding in which VERL sends it."""
OWN_RAY = {"num_cpus": 8, "num_gpus": 1, "object_store_memory": 200_000_000, "include_dashboard": False}


def config(path: Path, steps: int, **changes: Any) -> dict[str, Any]:
    """A small run of VERL on one CPU."""
    return {
        "data": {"train_batch_size": 8, "max_prompt_length": 448, "max_response_length": 64},
        "actor_rollout_ref": {
            "model": {
                "path": str(path),
                "external_lib": "agl_verl_cpu_engine",
                "enable_gradient_checkpointing": False,
                "override_config": {"attn_implementation": "sdpa"},
                **changes.pop("model", {}),
            },
            "actor": {
                "strategy": "fsdp2",
                "ppo_mini_batch_size": 8,
                # In a first pass all ratios are 1 and advantages of equal weight add up to 0: a loss that says nothing.
                "ppo_epochs": 2,
                "ppo_max_token_len_per_gpu": 8192,
                "use_torch_compile": False,
                "fsdp_config": {"use_torch_compile": False, "mixed_precision": {"param_dtype": "fp32"}},
                "optim": {"lr": 3e-4, "weight_decay": 0.0, "betas": [0.9, 0.99]},
                "clip_ratio_high": 0.28,
                "clip_ratio_c": 1e9,
                **changes.pop("actor", {}),
            },
            "rollout": {
                "name": "native",
                "n": 4,
                "tensor_model_parallel_size": 1,
                "log_prob_max_token_len_per_gpu": 8192,
                "free_cache_engine": False,
                **changes.pop("rollout", {}),
            },
        },
        "trainer": {
            "device": "cpu",
            "n_gpus_per_node": 1,
            "nnodes": 1,
            "val_before_train": True,
            "test_freq": -1,
            "save_freq": 1,
            "total_training_steps": steps,
            "logger": ["console", "tensorboard"],
            **changes.pop("trainer", {}),
        },
        "transfer_queue": {"backend": {"SimpleStorage": {"num_data_storage_units": 1}}},
        "ray_kwargs": {"ray_init": changes.pop("ray", OWN_RAY)},
        **changes,
    }


def main() -> None:
    """Trains by the command line's options and prints one JSON line."""
    os.environ.update(ENVIRONMENT)
    sys.path[:0] = [str(HERE), str(ROOT / "examples" / "sql_agent")]

    from agl_verl_cpu_agent import graph

    import agl
    from agl_verl import VERL
    from data import make_splits
    from train_sql_agent import EMBEDDED_MODEL, reward, visible

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--ahead", action="store_true")
    parser.add_argument("--filter", action="store_true")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--executor", default="thread", help="where the agents run")
    parser.add_argument("--address", help="of a Ray cluster; started for the run when none is given")
    options = parser.parse_args()
    changes = {
        **({"ray": {"address": options.address}} if options.address else {}),
        **(FILTER if options.filter else {}),
        **(AHEAD if options.ahead else {}),
        **(LORA if options.lora else {}),
    }
    os.environ["TENSORBOARD_DIR"] = str(options.folder / "tensorboard")
    train, val, _ = make_splits(options.folder / "databases", seed=0)
    trainer = agl.Trainer(
        n_runners=8 if options.executor == "thread" else 2,
        executor=options.executor,
        algorithm=VERL(config(EMBEDDED_MODEL, options.steps, **changes)),
        adapter={"agent_match": "write|rewrite"},
        store=options.folder / "store.sqlite",
        trackers=[f"jsonl={options.folder / 'tracked.jsonl'}"],
        timeout=120,
    )
    agent = agl.agent(graph, input=visible, reward=reward, name="sql_agent")
    result = trainer.fit(agent, train[:64], val[:4], resume=options.resume or None)
    print(json.dumps({"run": result.run_id, "directory": str(result.directory)}), flush=True)


if __name__ == "__main__":
    main()
