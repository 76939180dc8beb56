"""What each framework plugin adds to one LLM call, beside OpenInference's instrumentor for the same framework.

    make bench-plugins            (python benchmarks/overhead.py [FRAMEWORK …])

Each framework is measured in an environment of its own, one after the other; `benchmarks/overhead_of.py` says how. The
figures that have limits are processor time, which other work on the machine changes little. The last line is one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
FRAMEWORKS = ("langgraph", "crewai", "autogen", "openai_agents")
MOST_MS, MOST_OF_THEIRS = 1.0, 0.5
"""The limits: milliseconds of processor time per LLM call, and the share of OpenInference's."""


def main() -> None:
    """Measure, show, and exit with 1 when a limit is passed."""
    wanted = sys.argv[1:] or FRAMEWORKS
    if unknown := sorted(set(wanted) - set(FRAMEWORKS)):
        raise SystemExit(f"no such framework: {unknown}; there are {list(FRAMEWORKS)}")
    found = {framework: measured(framework) for framework in wanted}
    console = Console()
    console.print(table(found))
    for framework, figures in found.items():
        console.print(f"{framework}: {', '.join(f'{name} {version}' for name, version in figures['versions'].items())}")
    print(json.dumps({framework: brief(figures) for framework, figures in found.items()}), flush=True)
    if over := [framework for framework, figures in found.items() if is_over(figures)]:
        raise SystemExit(f"over the limit: {over}")


def measured(framework: str) -> dict[str, Any]:
    """The figures of one framework, from its own environment."""
    subprocess.run([sys.executable, HERE.parent / "tools" / "setup_plugin.py", framework, "--bench"], check=True)
    python = HERE.parent / f".venv-{framework}-bench" / "bin" / "python"
    said = subprocess.run([python, HERE / "overhead_of.py", framework], check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(said.splitlines()[-1])


def table(found: dict[str, dict[str, Any]]) -> Table:
    """One row per framework; times in milliseconds per LLM call."""
    columns = ("framework", "bare", "+ AGL", "wall", "+ copy of the agent", "+ OpenInference", "wall", "ratio", "spans")
    shown = Table(*columns, title="Per LLM call, ms of processor time, medians")
    for framework, figures in found.items():
        cpu, wall, spans = figures["cpu_ms"], figures["wall_ms"], figures["spans"]
        numbers = (cpu["bare"], cpu["agl"], wall["agl"], cpu["agl_adapter"], cpu["openinference"], wall["openinference"], ratio(figures))
        shown.add_row(framework, *(f"{number:.2f}" for number in numbers), f"{spans['agl']} : {spans['openinference']}")
    return shown


def brief(figures: dict[str, Any]) -> dict[str, float]:
    """What the last line says."""
    cpu = {f"{name}_ms": value for name, value in figures["cpu_ms"].items()}
    others = {f"{name}_{clock}": figures[f"{clock}_ms"][name] for clock in ("wall", "fastest_cpu") for name in ("agl", "openinference")}
    return {name: round(value, 4) for name, value in {**cpu, **others, "ratio": ratio(figures)}.items()}


def ratio(figures: dict[str, Any]) -> float:
    """AGL's addition by OpenInference's."""
    return figures["cpu_ms"]["agl"] / figures["cpu_ms"]["openinference"]


def is_over(figures: dict[str, Any]) -> bool:
    """Whether a limit is passed."""
    return figures["cpu_ms"]["agl"] > MOST_MS or ratio(figures) > MOST_OF_THEIRS


if __name__ == "__main__":
    main()
