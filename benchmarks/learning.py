"""Does the SQL agent learn, and only from its rewards? Five seeds of GRPO and, for each, a control whose rewards are shuffled.

    make bench-learning            (python benchmarks/learning.py [--seeds 5] [--control-seeds 5] [--resume])

Each run is the demo's own command in a process of its own: embedded checkpoint, generated databases, held-out tasks that
are measured greedily before and after. Nothing is chosen by the held-out tasks, and the final weights are measured, not
the best ones. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "examples" / "sql_agent" / "train_sql_agent.py"


def main() -> None:
    """Run all arms and print table and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--control-seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / ".agl" / "bench-learning")
    parser.add_argument("--parallel", type=int, default=1, help="runs at the same time; their wall seconds are then longer")
    parser.add_argument("--resume", action="store_true", help="keep the runs that are finished")
    options = parser.parse_args()
    if not options.resume:
        shutil.rmtree(options.out, ignore_errors=True)
    runs = [(seed, control) for control, seeds in ((False, options.seeds), (True, options.control_seeds)) for seed in range(seeds)]
    with ThreadPoolExecutor(options.parallel) as pool:
        found = list(pool.map(lambda run: measure(options.out, run[0], control=run[1]), runs))
    learned, control = found[: options.seeds], found[options.seeds :]
    console = Console()
    console.print(table(learned, control))
    console.print(machine(), markup=False)
    print(json.dumps(figures(learned, control, options.parallel)), flush=True)


def measure(out: Path, seed: int, *, control: bool) -> dict[str, Any]:
    """One run's figures: those of its last line."""
    folder = out / f"{'control' if control else 'grpo'}-{seed}"
    kept = folder / "figures.json"
    if kept.exists():
        return json.loads(kept.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, str(SCRIPT), "--out", str(folder), "--seed", str(seed), *(["--shuffle-rewards"] if control else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(f"{folder.name}: {line}", end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
    found = {"seed": seed, **json.loads(lines[-1])}
    kept.write_text(json.dumps(found))
    return found


def table(learned: list[dict[str, Any]], control: list[dict[str, Any]]) -> Table:
    """One row per run."""
    made = Table(title="Held-out execution accuracy, greedy")
    for column in ("arm", "seed", "before", "after", "gain", "learning s"):
        made.add_column(column, justify="left" if column == "arm" else "right")
    for arm, runs in (("GRPO", learned), ("shuffled rewards", control)):
        for run in runs:
            gain = run["after"] - run["before"]
            made.add_row(arm, str(run["seed"]), f"{run['before']:.3f}", f"{run['after']:.3f}", f"{gain:+.3f}", f"{run['seconds']:.0f}")
    return made


def figures(learned: list[dict[str, Any]], control: list[dict[str, Any]], parallel: int) -> dict[str, Any]:
    """What the benchmark says."""
    after = [run["after"] for run in learned]
    gains = [run["after"] - run["before"] for run in control]
    return {
        "before": statistics.median(run["before"] for run in learned),
        "after_median": statistics.median(after),
        "after_worst": min(after),
        "seeds": len(learned),
        "control_gain_median": round(statistics.median(gains), 4) if gains else None,
        "control_gain_largest": round(max(gains), 4) if gains else None,
        "control_seeds": len(gains),
        "seconds_median": statistics.median(run["seconds"] for run in learned),
        "seconds_longest": max(run["seconds"] for run in learned),
        "parallel": parallel,
    }


def machine() -> str:
    """Where it was measured."""
    names = ("agl-core", "agl-grpo", "agl-langgraph", "torch", "transformers", "langgraph", "langchain-openai", "openai")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {cores} cores, Python {platform.python_version()}, {packages}"


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    )
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
