"""Does the same agent learn in every framework? The math agent in four, native GRPO, from the same embedded checkpoint.

    make bench-frameworks          (python benchmarks/frameworks.py [--frameworks langgraph autogen] [--seeds 2] [--resume])

Each run is `examples/math_agent/train_math_agent.py` in a process of its own, in the environment of its framework, which is made if it
is not there. One control has shuffled rewards. Held-out tasks are measured greedily before and after, and choose nothing. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "examples" / "math_agent" / "train_math_agent.py"
FRAMEWORKS = ("langgraph", "autogen", "crewai", "openai_agents")
WANTED_GAIN, CPU_LIMIT = 0.15, 180.0
_CONTROL = "langgraph"


class Arm(NamedTuple):
    """One run to make."""

    framework: str
    seed: int
    control: bool = False

    def __str__(self) -> str:
        return f"{self.framework}-{'control-' if self.control else ''}{self.seed}"


def main() -> None:
    """Make environments, run all arms, print table and figures."""
    options = arguments()
    if not options.resume:
        shutil.rmtree(options.out, ignore_errors=True)
    arms = [Arm(framework, seed) for framework in options.frameworks for seed in range(options.seeds)]
    control = _CONTROL if _CONTROL in options.frameworks else options.frameworks[0]
    arms += [Arm(control, seed, control=True) for seed in range(options.control_seeds)]
    found = [(arm, measure(arm, python_of(arm.framework, options.environments), options.out / str(arm))) for arm in arms]
    print(table(found))
    print(json.dumps(figures(found)), flush=True)


def python_of(framework: str, environments: dict[str, Path]) -> Path:
    """The interpreter of a framework's environment, which `tools/setup_framework_bench.py` makes where none is named."""
    if framework in environments:
        return environments[framework] / "bin" / "python"
    subprocess.run([sys.executable, str(ROOT / "tools" / "setup_framework_bench.py"), framework], check=True)
    return ROOT / f".venv-{framework}-grpo" / "bin" / "python"


def measure(arm: Arm, python: Path, folder: Path) -> dict[str, Any]:
    """One run's figures: those of its last line."""
    kept = folder / "figures.json"
    if kept.exists():
        return json.loads(kept.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    command = [str(python), str(SCRIPT), "--framework", arm.framework, "--seed", str(arm.seed), "--out", str(folder)]
    with subprocess.Popen([*command, *(["--shuffle-rewards"] if arm.control else [])], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(f"{arm}: {line}", end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
    figures = json.loads(lines[-1])
    kept.write_text(json.dumps(figures))
    return figures


def table(found: list[tuple[Arm, dict[str, Any]]]) -> str:
    """One row per run, as Markdown."""
    rows = ["| framework | rewards | seed | before | after | gain | CPU, s | wall, s |", "|---|---|---|---|---|---|---|---|"]
    for arm, run in found:
        gain = run["after"] - run["before"]
        scores = f"{run['before']:.3f} | {run['after']:.3f} | {gain:+.3f} | {run['cpu_seconds']:.0f} | {run['seconds']:.0f}"
        rows.append(f"| {arm.framework} | {'shuffled' if arm.control else 'own'} | {arm.seed} | {scores} |")
    return "\n".join(rows)


def figures(found: list[tuple[Arm, dict[str, Any]]]) -> dict[str, Any]:
    """What the benchmark says: the least gain of each framework, and whether all have reached what is wanted."""
    gains: dict[str, float] = {}
    for arm, run in found:
        if not arm.control:
            gains[arm.framework] = round(min(gains.get(arm.framework, 1.0), run["after"] - run["before"]), 4)
    slowest = max(run["cpu_seconds"] for arm, run in found if not arm.control)
    control = [round(run["after"] - run["before"], 4) for arm, run in found if arm.control]
    return {
        "least_gain": gains,
        "cpu_seconds_longest": slowest,
        "control_gains": control,
        "reached": min(gains.values()) >= WANTED_GAIN and slowest <= CPU_LIMIT,
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--control-seeds", type=int, default=1)
    parser.add_argument("--environment", action="append", default=[], metavar="FRAMEWORK=FOLDER", help="use an environment that is there")
    parser.add_argument("--out", type=Path, default=ROOT / ".agl" / "bench-frameworks")
    parser.add_argument("--resume", action="store_true", help="keep the runs that are finished")
    options = parser.parse_args()
    options.environments = {name: Path(folder) for name, _, folder in (item.partition("=") for item in options.environment)}
    if wrong := [item for item in options.environment if item.partition("=")[0] not in FRAMEWORKS or not item.partition("=")[2]]:
        parser.error(f"--environment takes FRAMEWORK=FOLDER with one of {', '.join(FRAMEWORKS)}, given was {wrong[0]!r}")
    return options


if __name__ == "__main__":
    main()
