"""Trains the math agent of one framework, which stays as it is, and shows what it learned.

    python examples/math_agent/train_math_agent.py --framework langgraph

The last line is one JSON object: held-out score before and after, seconds of learning, CPU seconds of the whole process.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import agl
from frameworks import FRAMEWORKS
from problems import make_splits

HERE = Path(__file__).parent
EMBEDDED_MODEL = HERE / "model"


def main() -> None:
    """Trains by the command line's options."""
    options = arguments()
    tasks = make_splits(seed=0)
    trainer = agl.Trainer(
        algorithm=agl.GRPO(EMBEDDED_MODEL, **settings(options)),
        n_runners=options.runners,
        store=options.out / "store.sqlite",
        seed=options.seed,
        timeout=120,
    )
    result = trainer.fit(FRAMEWORKS[options.framework](), train_dataset=tasks.train, test_dataset=tasks.test)
    show(result, options.framework, trainer.console)


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What suits the embedded model; the warm-up and the pull to the start keep chance from flipping habits."""
    return dict(
        steps=options.steps,
        lr=options.lr,
        batch_size=12,
        group_size=8,
        schedule="linear",
        warmup=4,
        minibatches=2,
        kl_coef=0.03,
        max_tokens=48,
        threads=1,
        shuffle_rewards=options.shuffle_rewards,
    )


def show(result: agl.FitResult, framework: str, console: Any) -> None:
    """The table by kind of problem, and the figures as one JSON line."""
    from agl.report.table import before_after_table

    console.show(before_after_table(result.before, result.after))
    console.say(result.summary())
    figures = {
        "framework": framework,
        "before": result.before.mean,
        "after": result.after.mean,
        "seconds": round(result.seconds, 1),
        "cpu_seconds": round(time.process_time(), 1),
    }
    print(json.dumps(figures), flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=FRAMEWORKS, default="langgraph")
    parser.add_argument("--out", type=Path, default=Path(".agl"), help="folder for store, checkpoints and report")
    parser.add_argument("--runners", type=int, default=32, help="most rollouts at the same time")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shuffle-rewards", action="store_true", help="control run: nothing can be learned")
    return parser.parse_args()


if __name__ == "__main__":
    main()
