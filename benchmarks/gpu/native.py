"""Check 1: native GRPO on one GPU trains the SQL agent: learning curve, tokens per second of sampling and of updates, memory, share of peak.

python benchmarks/gpu/native.py --out OUT [--model DIR] [--steps 30]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from machine import require_gpu, training_flops, versions, write
from sql import MODEL, agent_and_tasks, result_of


def main() -> None:
    """Train and write the figures."""
    import agl

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--model", default=str(MODEL), help="a Hugging Face folder; the example's own has 0.8 M parameters and learns in 30 steps"
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    agent, train, test = agent_and_tasks(options.out)
    small = dict(schedule="linear", warmup=10, minibatches=2, kl_coef=0.4) if options.model == str(MODEL) else {}
    algorithm = agl.GRPO(
        options.model, steps=options.steps, lr=options.lr, max_tokens=options.max_tokens, device="cuda", max_batch=256, **small
    )
    trainer = agl.Trainer(
        n_runners=128, algorithm=algorithm, adapter={"agent_match": "write|rewrite"}, store=options.out / "store.sqlite", timeout=120
    )
    gpu = require_gpu()
    import torch

    found = result_of(trainer.fit(agent, train, test_dataset=test))
    parameters = sum(value.numel() for value in algorithm.learner.model.parameters())
    steps = found["steps"]
    trained, updating = sum(one["trained_tokens"] for one in steps), sum(one["update_seconds"] for one in steps)
    computed, sampling = sum(one["computed_tokens"] for one in steps), sum(one["seconds"] - one["update_seconds"] for one in steps)
    rates = {
        "update_tokens_per_second": computed / updating,
        "trained_tokens_per_second": trained / updating,
        "sampled_tokens_per_second": sum(one["sampled_tokens"] for one in steps) / sampling,
        "share_of_peak": training_flops(parameters, computed) / updating / gpu["peak_bf16"] if gpu["peak_bf16"] else None,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
    }
    write(
        options.out / "native.json",
        {
            "check": "native",
            "model": options.model,
            "parameters": parameters,
            **gpu,
            **rates,
            **found,
            "versions": versions("torch", "transformers", "agl-core"),
        },
    )


if __name__ == "__main__":
    main()
