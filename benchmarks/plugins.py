"""What plugins cost: discovery among 200 distributions, `agl --help`, a hook call with five plugins, a recorded span.

    make bench-plugins            (python benchmarks/plugins.py)

Each figure stands beside its peer, measured in the same run: the standard library's listing of entry points, an empty
`import click`, pluggy's own call. The last line is one JSON object.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pluggy
from rich.console import Console
from rich.table import Table

import agl
from agl import hookspecs
from agl.context import ActiveAttempt
from agl.plugins import Plugins
from agl.resources import Resources
from agl.rollouts import Attempt, Rollout
from agl.spans import Span, SpanKind
from agl.tasks import Mode, Task

DISTRIBUTIONS, WITH_PLUGINS = 200, 10
LIMITS = {"discovery_ms": 10.0, "help_s": 0.35, "hook_us": 5.0}


def main() -> None:
    """Measure, show, and exit with 1 when a limit is passed."""
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder))
        discovery = ask(folder, DISCOVERY)
        scan = ask(folder, SCAN)
    help_s, click_s = started("from agl.cli import main; main()", "--help"), started("import click")
    hook, raw = hook_call()
    span_without, span_with = recorded_span(0), recorded_span(5)
    table = Table(
        "what", "measured", "peer", "ratio", "limit", title=f"Plugins, {DISTRIBUTIONS} distributions, {WITH_PLUGINS} with plugins"
    )
    rows = [
        ("discovery, first in a process (ms)", discovery * 1e3, scan * 1e3, "importlib.metadata.entry_points", LIMITS["discovery_ms"]),
        ("agl --help (s)", help_s, click_s, "import click", LIMITS["help_s"]),
        ("hook call, 5 plugins (µs)", hook * 1e6, raw * 1e6, "pluggy", LIMITS["hook_us"]),
        ("recorded span, 5 plugins (µs)", span_with * 1e6, span_without * 1e6, "no plugin", None),
    ]
    for name, measured, peer, what, limit in rows:
        table.add_row(name, f"{measured:.3g}", f"{peer:.3g} ({what})", f"{measured / peer:.2f}", "" if limit is None else f"{limit:g}")
    console = Console()
    console.print(table)
    about = f"pluggy {version('pluggy')}, stevedore {version('stevedore')}, click {version('click')}"
    console.print(f"Python {platform.python_version()}, {about}, {platform.platform(terse=True)}")
    figures = {"discovery_ms": discovery * 1e3, "help_s": help_s, "hook_us": hook * 1e6}
    peers = {"entry_points_ms": scan * 1e3, "import_click_s": click_s, "pluggy_us": raw * 1e6}
    spans = {"span_us": span_with * 1e6, "span_without_plugins_us": span_without * 1e6}
    print(json.dumps({name: round(value, 4) for name, value in {**figures, **peers, **spans}.items()}), flush=True)
    if late := [name for name, limit in LIMITS.items() if figures[name] > limit]:
        raise SystemExit(f"over the limit: {late}")


# Only the 200 are on the path: those of this environment are not counted, nor is importing what a process has anyway.
DISCOVERY = """
    import importlib.metadata, time
    import agl.plugins, email.parser, packaging.requirements
    from agl.discovery import discover
    from agl.settings import PluginSettings
    sys.path[:] = [folder]
    started = time.perf_counter()
    found = discover(PluginSettings())
    took = time.perf_counter() - started
    assert sum(item.row.name.startswith("p") for item in found) == {count}, found
"""
SCAN = """
    import importlib.metadata, time
    sys.path[:] = [folder]
    started = time.perf_counter()
    found = importlib.metadata.entry_points(group="agl")
    took = time.perf_counter() - started
"""


def install(folder: Path) -> None:
    """Metadata of many distributions, some with a plugin and a supported range."""
    for number in range(DISTRIBUTIONS):
        info = folder / f"dist_{number}-1.0.dist-info"
        info.mkdir()
        needs = 'Requires-Dist: click>=8; extra == "instruments"\n' if number < WITH_PLUGINS else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{number}\nVersion: 1.0\n{needs}\n{'Some text. ' * 200}")
        group = f"[agl]\np{number} = plugin_{number}\n" if number < WITH_PLUGINS else f"[console_scripts]\nx{number} = y:z\n"
        (info / "entry_points.txt").write_text(group)


def ask(folder: str, code: str, times: int = 7) -> float:
    """Median seconds that a snippet measures as `took`, each time in a fresh process."""
    script = f"import sys; folder = {folder!r}\n{textwrap.dedent(code).format(count=WITH_PLUGINS)}\nprint(took)"
    return statistics.median(float(subprocess.check_output([sys.executable, "-c", script])) for _ in range(times))


def started(code: str, *arguments: str, times: int = 9) -> float:
    """Median seconds of a whole process."""
    took: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - begun)
    return statistics.median(took)


class Silent:
    """A plugin that answers nothing."""

    @agl.hookimpl
    def agl_adapt_agent(self, agent: object) -> None:
        return None


def hook_call() -> tuple[float, float]:
    """Seconds of one call with five implementations, by the façade and by pluggy itself."""
    plugins = Plugins([Silent() for _ in range(5)], discover=False)
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for _ in range(5):
        manager.register(Silent())
    agent = object()
    return each(lambda: plugins._decide("agl_adapt_agent", agent=agent)), each(lambda: manager.hook.agl_adapt_agent(agent=agent))


def recorded_span(count: int) -> float:
    """Seconds of recording one span in an attempt that `count` plugins are open for."""
    plugins = Plugins([Silent() for _ in range(count)], discover=False)
    task = Task(task_id="t", data={}, mode=Mode.TRAIN)
    attempt = Attempt(attempt_id="a", rollout_id="r", number=1, worker_id="w", started_at=0.0, heartbeat_at=0.0)
    rollout = Rollout(rollout_id="r", run_id="run", task=task, group_id="g", created_at=0.0, attempt=attempt)
    active = ActiveAttempt(rollout, Resources(version=0, values={}))
    span = Span(span_id="s", trace_id="t", rollout_id="r", attempt_id="a", name="n", kind=SpanKind.TOOL, started_at=0.0, ended_at=1.0)
    with plugins.opened(active):
        return each(lambda: active.add_span(span))


def each(call: Callable[[], object], number: int = 20_000, times: int = 7) -> float:
    """Median seconds of one call."""
    took: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        for _ in range(number):
            call()
        took.append((time.perf_counter() - begun) / number)
    return statistics.median(took)


if __name__ == "__main__":
    main()
