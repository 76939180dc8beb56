"""Trains the SQL agent through VERL on Spider, with the configuration of the published SQL agent.

    python train_sql_agent.py qwen --data spider               # Qwen2.5-Coder-1.5B-Instruct on one GPU
    python train_sql_agent.py llama --data spider --dry-run    # Llama-3.2-1B-Instruct, which needs HF_TOKEN; says what would run

Spider's folder holds `train_spider.json`, `dev.json` and `database/<db>/<db>.sqlite`, or the same tasks as parquet files.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import agl
from data import load_spider

MODELS = {"qwen": "Qwen/Qwen2.5-Coder-1.5B-Instruct", "llama": "meta-llama/Llama-3.2-1B-Instruct"}
TOOL_CALLS = {"qwen": "hermes", "llama": "llama3_json"}


def verl_config(name: str) -> dict[str, Any]:
    """VERL's configuration for one of `MODELS`."""
    return {
        "algorithm": {"adv_estimator": "grpo"},
        "data": {"train_batch_size": 32, "max_prompt_length": 4096, "max_response_length": 2048},
        "actor_rollout_ref": {
            "rollout": {
                "name": "vllm",
                "n": 4,
                "multi_turn": {"format": TOOL_CALLS[name]},
                "tensor_model_parallel_size": 1,
                "gpu_memory_utilization": 0.6,
            },
            "actor": {
                "ppo_mini_batch_size": 32,
                "optim": {"lr": 1e-6},
                "clip_ratio_low": 0.2,
                "clip_ratio_high": 0.3,
                "fsdp_config": {"param_offload": True, "optimizer_offload": True},
            },
            # VERL's own choice is flash-attn, which PyPI has as source only.
            "model": {"path": MODELS[name], "override_config": {"attn_implementation": "sdpa"}},
        },
        "trainer": {"n_gpus_per_node": 1, "val_before_train": True, "test_freq": 32, "save_freq": 64, "total_epochs": 2},
    }


def main(agent: Any, given: Sequence[str] | None = None) -> None:
    """Checks everything, then trains by the command line's options.

    Args:
        agent: what to train.
        given: the command line; `sys.argv` when None.
    """
    options = arguments(given)
    config = merged(verl_config(options.model), json.loads(options.config.read_text()) if options.config else {})
    try:
        check_token(config["actor_rollout_ref"]["model"]["path"])
        train, val = load_spider(options.data, "train"), load_spider(options.data, "dev", limit=options.val)
        trainer = agl.Trainer(
            n_runners=options.runners,
            algorithm=agl.VERL(config),
            adapter={"agent_match": "write|rewrite"},
            store=options.out / "store.sqlite",
        )
        trainer.fit(agent, train_dataset=train, val_dataset=val, dry_run=True)
    except (OSError, agl.AglError) as error:
        raise SystemExit(f"nothing was started: {error}") from error
    if not options.dry_run:
        result = trainer.fit(agent, train_dataset=train, val_dataset=val, resume=options.resume or None)
        print(json.dumps({"run": result.run_id, "directory": str(result.directory), "seconds": round(result.seconds, 1)}), flush=True)


def merged(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A nested configuration with the changed values in their places."""
    found = dict(config)
    for key, value in changes.items():
        found[key] = merged(found[key], value) if isinstance(value, dict) and isinstance(found.get(key), dict) else value
    return found


def check_token(model: str) -> None:
    """Refuses a gated model when there is no token to download it with.

    Raises:
        PermissionError: with what to do.
    """
    if not model.startswith("meta-llama/") or Path(model).exists() or _token():
        return
    raise PermissionError(
        f"{model} is a gated model and there is no HF_TOKEN: accept its licence at https://huggingface.co/{model}, then set HF_TOKEN to a "
        "token of that account, or name a local copy: `--config` with actor_rollout_ref.model.path"
    )


def _token() -> str | None:
    if "HF_TOKEN" in os.environ:
        return os.environ["HF_TOKEN"]
    try:
        from huggingface_hub import get_token
    except ImportError:
        return None
    return get_token()  # of `hf auth login`


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--data", type=Path, default=Path("data"), help="Spider's folder, as published")
    parser.add_argument("--val", type=int, default=500, help="how many of Spider's dev tasks to validate on")
    parser.add_argument("--config", type=Path, help="JSON file with keys of VERL that go before those of this script")
    parser.add_argument("--out", type=Path, default=Path(".agl"), help="folder for store and checkpoints")
    parser.add_argument("--runners", type=int, default=10, help="most rollouts at the same time")
    parser.add_argument("--dry-run", action="store_true", help="check and count everything, start nothing")
    parser.add_argument("--resume", action="store_true", help="go on with the folder's unfinished run")
    return parser.parse_args(given)
