"""Does a search for prompts gain with a real model, on tasks that it never saw, and do its controls gain nothing?

    make bench-apo-real            (python benchmarks/apo/real_model.py --model FOLDER [--seeds 3] [--rollouts 160])

The agent is SmolLM2-135M-Instruct on the embedded engine; it samples, so that rewards are noisy. Critic and editor are scripted, of known quality:
in `HIT` of its answers the critic reads the records, else it guesses. Controls: a critic that only guesses, and rewards that are shuffled among the rollouts
of the search. For each seed notes, search, critic and sampling are others. Seeds from 100 on served to design the task; the thresholds below were written
before the first run on 0, 1 and 2. The last line is one JSON object; the exit code is 1 when a threshold is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

from notes import GUESSES, REMEDIES, SEED_PROMPT, Shuffle, make_agent, make_tasks

import agl
from agl_apo.testing import scripted

HIT = 0.6
"""Quality of the critic: the share of its answers for which it reads the records."""
SIZES = {"train": 30, "val": 30, "test": 60}
SAMPLING = {"temperature": 0.3, "max_tokens": 36}
ARMS = {"critic": (HIT, False), "ignorant critic": (0.0, False), "shuffled rewards": (HIT, True)}
"""How often the critic reads the records, and whether rewards are shuffled."""
THRESHOLDS = {"gain": (">=", 0.25), "least_low": (">", 0.0), "largest_control_gain": ("<=", 0.05)}
"""Mean held-out gain of the critic's arm; the least lower end of its seeds' 95 % intervals; the larger mean gain of the two controls."""
Row = dict[str, Any]


def main() -> None:
    """Run all arms, print table and figures, and exit with 1 when a threshold is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the model, as `tools/smollm2.py` writes it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rollouts", type=int, default=160, help="budget of each search")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--processes", type=int, default=3, help="searches at the same time, which the engine answers in one batch")
    parser.add_argument("--out", type=Path, default=Path(".agl/bench-apo-real"))
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    jobs = [(arm, seed, options.rollouts, options.out) for seed in seeds for arm in options.arms]
    with served(options.model) as llm:
        rows = list(shown(llm, jobs, options.processes))
    print(f"\n{table(rows)}\n\n{machine()}")
    used = [sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    told = {**figures(rows), "seeds": options.seeds, "rollouts": options.rollouts, "cpu_seconds": round(sum(used))}
    missed = [name for name, (sign, limit) in THRESHOLDS.items() if name in told and not reached(told[name], sign, limit)]
    print(json.dumps({**told, "missed": missed}), flush=True)
    sys.exit(bool(missed))


@contextlib.contextmanager
def served(model: Path) -> Generator[agl.LLM]:
    """The model on the embedded engine, in an event loop of its own."""
    import torch

    from agl.engines import Policy
    from agl_grpo.models import load_policy
    from agl_grpo.native import NativeEngine

    module, tokenizer = load_policy(model, dtype=torch.bfloat16, device="cpu")
    engine, loop = NativeEngine(max_batch=32), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(engine.start(Policy(module=module, tokenizer=tokenizer)), loop).result()
    try:
        yield engine.llm(sampling_parameters=SAMPLING, version=None)  # nobody trains it
    finally:
        asyncio.run_coroutine_threadsafe(engine.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def shown(llm: agl.LLM, jobs: Sequence[tuple[Any, ...]], processes: int) -> Generator[Row]:
    """All runs, a few at the same time, in their order; each is told when it ends."""
    began = time.monotonic()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(measure, llm, *job) for job in jobs]
        for number, run in enumerate(as_completed(runs), 1):
            row = run.result()
            line = f"{row['arm']}, seed {row['seed']}: {row['seed_score']:.3f} to {row['winner_score']:.3f}, {row['decision']}"
            print(f"{number} of {len(jobs)} after {time.monotonic() - began:.0f} s: {line}", flush=True)
    yield from (run.result() for run in runs)


def measure(llm: agl.LLM, arm: str, seed: int, rollouts: int, out: Path) -> Row:
    """One search, and what its result is worth on the test set."""
    hit, shuffled = ARMS[arm]
    answer = scripted(REMEDIES, hit=hit, guesses=GUESSES, seed=seed)

    async def critic(messages: list[dict[str, str]]) -> str:
        return answer({"messages": messages})

    trainer = agl.Trainer(
        algorithm=agl.APO(critic, max_rollouts=rollouts),
        initial_resources={"main_llm": llm, "prompt_template": agl.PromptTemplate(template=SEED_PROMPT)},
        store=out / f"{arm.replace(' ', '-')}-{seed}" / "store.sqlite",
        seed=seed,
        quiet=True,
    )
    tasks = make_tasks(seed, **SIZES)
    result = trainer.fit(make_agent(Shuffle(seed) if shuffled else None), tasks["train"], tasks["val"], test_dataset=tasks["test"])
    told = json.loads((result.directory / "result.json").read_text())
    test = told["test"]
    return {
        "arm": arm,
        "seed": seed,
        "seed_score": test["seed"]["mean"],
        "winner_score": test["winner"]["mean"],
        "gain": test["gain"]["mean"],
        "low": test["gain"]["low"],
        "high": test["gain"]["high"],
        "decision": told["decision"],
        "reported": told["gain"]["mean"] if told["decision"] == "improved" else 0.0,
        "noise": told["noise_floor"],
        "spent": told["spent"]["rollouts"],
        "prompt": told["prompts"]["prompt_template"]["best"],
    }


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean gain of each arm with its 95 % interval over seeds and test tasks, and what the thresholds ask for."""
    told = dict[str, Any]()
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of_arm = [row for row in rows if row["arm"] == arm]
        name = "gain" if arm == "critic" else f"gain_{arm.replace(' ', '_')}"
        mean, half = mean_gain(of_arm)
        told |= {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
    if own := [row for row in rows if row["arm"] == "critic"]:
        told["least_low"] = min(row["low"] for row in own)
        told["reported_minus_test"] = statistics.fmean(row["reported"] - row["gain"] for row in own)
    if controls := [value for name, value in told.items() if name in ("gain_ignorant_critic", "gain_shuffled_rewards")]:
        told["largest_control_gain"] = max(controls)
    return {name: round(value, 4) for name, value in told.items()}


def mean_gain(rows: Sequence[Row]) -> tuple[float, float]:
    """Mean over seeds, and half of its 95 % interval from those of the seeds: they have other tasks each."""
    halves = [(row["high"] - row["low"]) / 2 for row in rows]
    return statistics.fmean(row["gain"] for row in rows), math.sqrt(sum(half**2 for half in halves)) / len(rows)


def reached(value: float, sign: str, limit: float) -> bool:
    """Whether a threshold is."""
    return value >= limit if sign == ">=" else value > limit if sign == ">" else value <= limit


def table(rows: Sequence[Row]) -> str:
    """One row per run, as Markdown, and the prompts that came out."""
    lines = ["| arm | seed | seed prompt | returned | held-out gain, 95 % | decision | said by the search | rollouts |", "|" + "---|" * 8]
    for row in rows:
        gain = f"{row['gain']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        scores = f"{row['seed_score']:.3f} | {row['winner_score']:.3f} | {gain}"
        rest = f"{row['decision']} | {row['reported']:+.3f} | {row['spent']}"
        lines.append(f"| {row['arm']} | {row['seed']} | {scores} | {rest} |")
    prompts = [f"{row['arm']}, {row['seed']}: {row['prompt']!r}" for row in rows if row["prompt"] != SEED_PROMPT]
    return "\n".join([*lines, "", *prompts])


def machine() -> str:
    """Where it was measured."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("agl-apo", "torch", "transformers"))
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}"


if __name__ == "__main__":
    main()
