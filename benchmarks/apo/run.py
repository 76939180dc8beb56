"""Which search finds better prompts with the same rollouts, and which of them sells noise? Simulated worlds with analytic truth.

    make bench-apo            (python benchmarks/apo/run.py [--suite test|dev] [--seeds 100] [--null-seeds 200] [--ablations])

Arms: the seed as it is, random edits, the reference's beam search, the real `gepa` through its adapter protocol, and ours, all with the
same simulated critic and editor. Tuned on `dev`; `test` has other parameters and other seeds. The thresholds below were written before
the first run on `test`. The last line is one JSON object; the exit code is 1 when a threshold is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from arms import ABLATIONS, ARMS
from rich.console import Console
from rich.table import Table
from suites import SUITES
from worlds import World

THRESHOLDS = {
    "gain_vs_beam": (">=", 1.5),
    "gain_vs_gepa_240": (">=", 1.4),
    "gain_vs_gepa_1224": (">=", 1.1),
    "null_harm": ("<=", 0.02),
    "reported_minus_true": ("<=", 0.03),
}
"""True gain over the seed, averaged over the noisy worlds, as a multiple of a peer's; share of runs in the null world that return
something worse than the seed; what is reported for the returned prompts minus their true score, in noisy worlds."""
BUDGETS = (240, 1224)
NOT_NOISY = ("noise-free", "null")
ONE_PROMPT = "several components"
"""The reference changes one prompt only: this world is left out where it is compared with."""
Row = dict[str, Any]


def main() -> None:
    """Run all arms, print table and figures, and exit with 1 when a threshold is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=list(SUITES), default="test")
    parser.add_argument("--seeds", type=int, default=100, help="worlds of each kind")
    parser.add_argument("--null-seeds", type=int, default=200, help="null worlds")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path(".agl/bench-apo/runs.jsonl"), help="where the figures of every run go")
    parser.add_argument("--resume", action="store_true", help="keep the runs that are in that file")
    parser.add_argument("--ablations", action="store_true", help="ours without one of its parts, too")
    options = parser.parse_args()
    started = time.monotonic()
    rows = measure(options)
    console = Console(width=max(200, Console().width))
    for budget in BUDGETS:
        console.print(table(rows, budget))
    console.print(machine(), markup=False)
    told = {**figures(rows), "suite": options.suite, "seeds": options.seeds, "seconds": round(time.monotonic() - started)}
    missed = [name for name, (sign, limit) in THRESHOLDS.items() if not (told[name] >= limit if sign == ">=" else told[name] <= limit)]
    print(json.dumps({**told, "missed": missed}), flush=True)
    sys.exit(bool(missed))


def measure(options: argparse.Namespace) -> list[Row]:
    """Every arm on every world with both budgets; rows go to the file as they come."""
    worlds, base = SUITES[options.suite]
    arms = [*ARMS, *(ABLATIONS if options.ablations else ())]
    jobs = [
        (options.suite, place, base + seed, arm, budget)
        for seed in range(max(options.seeds, options.null_seeds))
        for place, world in enumerate(worlds)
        if seed < (options.null_seeds if world.name == "null" else options.seeds)
        for arm in arms
        for budget in BUDGETS
    ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if not options.resume:
        options.out.unlink(missing_ok=True)
    rows: list[Row] = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    known = {(row["suite"], row["world"], row["seed"], row["arm"], row["budget"]) for row in rows}
    left = [job for job in jobs if (job[0], worlds[job[1]].name, *job[2:]) not in known]
    with ProcessPoolExecutor(options.processes) as pool, options.out.open("a") as file:
        for row in pool.map(one, left, chunksize=10):
            rows.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
    return rows


def one(job: tuple[str, int, int, str, int]) -> Row:
    """One run."""
    suite, place, seed, arm, budget = job
    parameters = SUITES[suite][0][place]
    world = World(parameters, seed)
    result = {**ARMS, **ABLATIONS}[arm](world, budget, f"{suite}:{parameters.name}:{seed}:{arm}:{budget}")
    return {
        "suite": suite,
        "world": parameters.name,
        "seed": seed,
        "arm": arm,
        "budget": budget,
        "gain": result.truth - world.truth(world.seed_texts),
        "optimism": None if result.reported is None else result.reported - result.truth,
        "covered": result.covered,
        "spent": result.spent,
        "proposals": result.proposals,
    }


def of(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """Rows with these values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def noisy(rows: Sequence[Row], *, one_prompt: bool = False) -> list[str]:
    """Names of the worlds that count in the averages."""
    out = (*NOT_NOISY, *((ONE_PROMPT,) if one_prompt else ()))
    return [name for name in dict.fromkeys(row["world"] for row in rows) if name not in out]


def mean_gain(rows: Sequence[Row], arm: str, budget: int, worlds: Sequence[str]) -> float:
    """Mean over worlds of the mean true gain."""
    return statistics.fmean(statistics.fmean(row["gain"] for row in of(rows, arm=arm, budget=budget, world=world)) for world in worlds)


def ratio(rows: Sequence[Row], peer: str, budget: int) -> tuple[float, float]:
    """Ours by a peer's, and the lower end of its 95 % interval by a bootstrap over the seeds of each world, both arms resampled together."""
    worlds = noisy(rows, one_prompt=peer == "beam")
    gains = {
        (arm, world): [row["gain"] for row in of(rows, arm=arm, budget=budget, world=world)] for arm in ("racing", peer) for world in worlds
    }
    drawn, draw = [], Random(0)
    for _ in range(1000):
        sums = {"racing": 0.0, peer: 0.0}
        for world in worlds:
            chosen = draw.choices(range(len(gains[peer, world])), k=len(gains[peer, world]))
            for arm in sums:
                sums[arm] += math.fsum(gains[arm, world][place] for place in chosen) / len(chosen)
        drawn.append(sums["racing"] / sums[peer])
    return mean_gain(rows, "racing", budget, worlds) / mean_gain(rows, peer, budget, worlds), sorted(drawn)[25]


def harm(rows: Sequence[Row], arm: str, budget: int) -> float:
    """Share of runs in the null world that return something worse than the seed."""
    found = of(rows, arm=arm, budget=budget, world="null")
    return sum(row["gain"] < -1e-9 for row in found) / len(found)


def optimism(rows: Sequence[Row], arm: str, budget: int, worlds: Sequence[str]) -> float:
    """Mean over worlds of reported minus true."""
    return statistics.fmean(
        statistics.fmean(row["optimism"] for row in of(rows, arm=arm, budget=budget, world=world) if row["optimism"] is not None)
        for world in worlds
    )


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """What the benchmark says."""
    worlds = noisy(rows)
    ratios = {(peer, budget): ratio(rows, peer, budget) for peer in ("beam", "gepa") for budget in BUDGETS}
    told: dict[str, Any] = {"gain_vs_beam": min(ratios["beam", budget][0] for budget in BUDGETS)}
    told |= {f"gain_vs_{peer}_{budget}": found[0] for (peer, budget), found in ratios.items()}
    told |= {f"gain_vs_{peer}_{budget}_low": found[1] for (peer, budget), found in ratios.items()}
    told["null_harm"] = max(harm(rows, "racing", budget) for budget in BUDGETS)
    told["reported_minus_true"] = max(optimism(rows, "racing", budget, worlds) for budget in BUDGETS)
    covered = [row["covered"] for row in of(rows, arm="racing") if row["world"] in worlds and row["covered"] is not None]
    told["interval_coverage"] = statistics.fmean(covered)
    told |= {f"gain_{arm}_{budget}": mean_gain(rows, arm, budget, worlds) for arm in ("beam", "gepa", "racing") for budget in BUDGETS}
    told["gain_vs_gepa_noise_free_1224"] = mean_gain(rows, "racing", 1224, ["noise-free"]) / mean_gain(rows, "gepa", 1224, ["noise-free"])
    return {name: round(value, 4) for name, value in told.items()}


def table(rows: Sequence[Row], budget: int) -> Table:
    """One row per world, one column per arm."""
    arms = [arm for arm in dict.fromkeys(row["arm"] for row in rows) if arm != "seed" and of(rows, arm=arm, budget=budget)]
    made = Table(title=f"{budget} rollouts: true gain over the seed ± 95 % (reported - true; share of runs worse than the seed)")
    made.add_column("world")
    for arm in arms:
        made.add_column(arm, justify="right")
    for world in dict.fromkeys(row["world"] for row in rows):
        made.add_row(world, *(cell(of(rows, arm=arm, budget=budget, world=world)) for arm in arms))
    worlds = noisy(rows)
    made.add_row(
        "noisy worlds", *(f"{mean_gain(rows, arm, budget, worlds):+.3f} ({optimism(rows, arm, budget, worlds):+.3f})" for arm in arms)
    )
    for name, key in (("most rollouts", "spent"), ("mean proposals", "proposals")):
        of_arm = [[row[key] for row in of(rows, arm=arm, budget=budget)] for arm in arms]
        made.add_row(name, *(str(max(values) if key == "spent" else round(statistics.fmean(values))) for values in of_arm))
    return made


def cell(rows: Sequence[Row]) -> str:
    """One arm on one world."""
    gains = [row["gain"] for row in rows]
    half = 1.96 * statistics.stdev(gains) / math.sqrt(len(gains))
    over = [row["optimism"] for row in rows if row["optimism"] is not None]
    reported = f"{statistics.fmean(over):+.2f}; " if over else ""
    return f"{statistics.fmean(gains):+.3f} ± {half:.3f} ({reported}{sum(gain < -1e-9 for gain in gains) / len(gains):.1%})"


def machine() -> str:
    """Where it was measured."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("agl-apo", "gepa"))
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}"


if __name__ == "__main__":
    main()
