"""What a gateway costs: AGL's, with every call kept in its SQLite store, beside Agent Lightning 1.0.2's and LiteLLM's proxy in the same run.

    make bench-gateway            (python benchmarks/gateway.py [--rounds N] [--seconds S] [--turns N] [--peers …])

A fake engine answers at once with 512 prompt and 128 response tokens, their ids and logprobs; `bare` is a proxy on the same HTTP library that
only passes bytes on, the floor on this machine. Three things are measured, each
on the engine itself and on each gateway in turn, again and again: calls per second of 32 clients, milliseconds of one call of a
single client, and milliseconds to the first token of a stream. Engine, clients and gateways are processes of their own. AGL's calls per second
count the time until the last of them is in the store. At the end each answer that a client got must be there with its own tokens: a run that lost one
fails. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from gateway_systems import AGL, HERE, AgentLightning, Bare, Direct, LiteLLM, Talker, processor_seconds
from gateway_upstream import logprobs, prompt_ids, response_ids
from rich.console import Console
from rich.table import Table

from agl.store.sqlite import SQLiteStore
from agl.testing.running import RUN
from agl.transitions import call_of

CLIENTS = 32
CALLS = {False: 20, True: 5}
"""Calls of a single client in one turn, by whether the answers are streamed."""
RATIO, ADDED_MS, FIRST_TOKEN_MS = 8.0, 0.5, 2.0
"""The limits: calls per second by those of Agent Lightning, milliseconds that AGL adds to a call, and to the first token of a stream."""
PEERS = {"agentlightning": AgentLightning, "litellm": LiteLLM}
Figures = dict[str, dict[str, Any]]


def main() -> None:
    """Measure, show, and exit with 1 when a call was lost or a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often the systems take turns with 32 clients")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=10, help="how often they do with one client")
    parser.add_argument("--peers", nargs="*", choices=sorted(PEERS), default=sorted(PEERS), help="the gateways beside AGL's")
    options = parser.parse_args()
    if options.peers:
        subprocess.run([sys.executable, HERE.parent / "tools" / "setup_gateway_bench.py", *options.peers], check=True)
    with tempfile.TemporaryDirectory(prefix="agl-bench-") as folder:
        figures, calls, lost = measured(Path(folder), options)
    console = Console()
    console.print(table(figures))
    console.print(f"{calls} calls through AGL, {lost} of them not in the store with their own tokens; {about()}")
    told = brief(figures) | {"calls": calls, "lost": lost}
    print(json.dumps(told), flush=True)
    if missed := missed_of(told):
        raise SystemExit(f"not reached: {', '.join(missed)}")


def measured(folder: Path, options: argparse.Namespace) -> tuple[Figures, int, int]:
    """Figures by system; how many calls AGL answered, and how many of them it did not keep."""
    engine, load = Talker("gateway_upstream.py"), Talker("gateway_load.py")
    systems: dict[str, Direct] = {}
    try:
        say("starting the fake engine and the gateways")
        upstream = engine.line().strip()
        systems |= {"direct": Direct(upstream), "bare": Bare(upstream), "agl": AGL(upstream, folder)}
        for name in options.peers:
            (folder / name).mkdir()
            systems[name] = PEERS[name](upstream, folder / name, HERE.parent / f".venv-{name}" / "bin" / "python")
        figures: Figures = {name: {"rate": [], "cpu_ms": [], "numbers": []} for name in systems}
        for number in range(-1, options.rounds):  # the first one warms up
            say(f"32 clients, round {number + 1} of {options.rounds}")
            for name in rotated(list(systems), number):
                turn(load, systems[name], figures[name], options.seconds if number >= 0 else 1.0, counts=number >= 0)
        for stream in CALLS:
            say(f"one client, {'streamed' if stream else 'whole'} answers")
            one_client(load, systems, figures, stream, options.turns)
    finally:
        for system in systems.values():
            system.stop()
        for process in (engine.process, load.process):
            process.kill()
            process.wait()
    numbers = figures["agl"]["numbers"]
    return figures, len(numbers), asyncio.run(lost_of(folder / "store.sqlite", numbers))


def turn(load: Talker, system: Direct, figures: dict[str, Any], seconds: float, *, counts: bool) -> None:
    """32 clients for some seconds.

    Raises:
        SystemExit: a gateway that keeps calls has kept another number of them.
    """
    urls, before = system.open(CLIENTS), processor_seconds(system.process)
    done = load.ask(job="throughput", urls=urls, seconds=seconds)
    took, calls = done["seconds"] + system.close(), len(done["numbers"])
    after = processor_seconds(system.process)
    if (kept := system.kept()) is not None and kept != calls:
        raise SystemExit(f"{type(system).__name__} has answered {calls} calls and kept {kept}")
    figures["numbers"] += done["numbers"]
    if counts:
        figures["rate"].append(calls / took)
        if before is not None and after is not None:
            figures["cpu_ms"].append((after - before) / calls * 1000)


def one_client(load: Talker, systems: dict[str, Direct], figures: Figures, stream: bool, turns: int) -> None:
    """One client that calls each system in turn."""
    able = {name: system for name, system in systems.items() if system.streams or not stream}
    urls = {name: system.open(1)[0] for name, system in able.items()}
    done = load.ask(job="latency", systems=urls, blocks=turns, calls=CALLS[stream], stream=stream)
    for name, system in able.items():
        system.close()
        figures[name]["first_ms" if stream else "ms"] = median(done[name]["ms"][CALLS[stream] :])  # the first turn warms up
        figures[name]["numbers"] += done[name]["numbers"]


async def lost_of(path: Path, numbers: Sequence[int]) -> int:
    """How many of the answers are not in a store, or not with the tokens that the engine gave them."""
    store, right = SQLiteStore(path), set[int]()
    ids = await store.find(RUN)
    for start in range(0, len(ids), CLIENTS):
        for result in await store.results(ids[start : start + CLIENTS]):
            right.update(number for span in result.spans if (number := right_number(span)) is not None)
    store.close()
    return len(set(numbers) - right)


def right_number(span: Any) -> int | None:
    """The number of a recorded answer; None when a token, a logprob or the version is not that of the engine."""
    call, number = call_of(span), int(span.attributes.get("gen_ai.response.id", "chatcmpl--1").rpartition("-")[2])
    if call is None or len(call.choices) != 1:
        return None
    recorded = (call.prompt_ids, call.choices[0].response_ids, call.choices[0].logprobs, call.version)
    return number if recorded == (prompt_ids(number), response_ids(number), logprobs(number), "1") else None


def rotated(names: list[str], by: int) -> list[str]:
    """The same, beginning elsewhere: none is always the one after the slowest."""
    return names[by % len(names) :] + names[: by % len(names)]


def say(what: str) -> None:
    """Tell what is being done now."""
    print(what, file=sys.stderr, flush=True)


def table(figures: Figures) -> Table:
    """One row per system; medians."""
    columns = (
        "system",
        "calls/s, 32 clients",
        "least to most",
        "processor ms per call",
        "one call, ms",
        "added",
        "first token, ms",
        "added",
    )
    shown = Table(*columns, title="Gateways, medians")
    for name, found in figures.items():
        rates, direct = found["rate"], figures["direct"]
        cells = [name, f"{median(rates):.0f}", f"{min(rates):.0f} to {max(rates):.0f}"]
        cells.append(f"{median(found['cpu_ms']):.2f}" if found["cpu_ms"] else "")
        for kind in ("ms", "first_ms"):
            cells += [f"{found[kind]:.2f}", f"{found[kind] - direct[kind]:+.2f}"] if kind in found else ["refused", ""]
        shown.add_row(*cells)
    return shown


def brief(figures: Figures) -> dict[str, float]:
    """What the last line says."""
    rates = {name: median(found["rate"]) for name, found in figures.items()}
    direct = figures["direct"]
    peers = [name for name in PEERS if name in figures]
    found = {
        **{f"throughput_ratio_{name}": rates["agl"] / rates[name] for name in peers},
        "added_p50_ms": figures["agl"]["ms"] - direct["ms"],
        "first_token_added_ms": figures["agl"]["first_ms"] - direct["first_ms"],
        **{f"added_p50_ms_{name}": figures[name]["ms"] - direct["ms"] for name in ("bare", *peers)},
        **{f"calls_per_s_{name}": rate for name, rate in rates.items()},
    }
    if "agentlightning" in figures:
        found = {"throughput_ratio": found.pop("throughput_ratio_agentlightning"), **found}
    return {name: round(value, 3) for name, value in found.items()}


def missed_of(told: dict[str, float]) -> list[str]:
    """The limits that are not kept, in words."""
    return [
        words
        for words, kept in (
            (f"{told['lost']} calls are lost", not told["lost"]),
            (f"{RATIO:g} x the calls of Agent Lightning", told.get("throughput_ratio", RATIO) >= RATIO),
            (f"{ADDED_MS:g} ms added to a call", told["added_p50_ms"] <= ADDED_MS),
            (f"{FIRST_TOKEN_MS:g} ms added to the first token", told["first_token_added_ms"] <= FIRST_TOKEN_MS),
        )
        if not kept
    ]


def about() -> str:
    """The machine and the versions of what is AGL's own; those of the others stand in `tools/setup_gateway_bench.py`."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("aiohttp", "msgspec", "SQLAlchemy")]
    try:
        versions.append(f"uvloop {importlib.metadata.version('uvloop')}")
    except importlib.metadata.PackageNotFoundError:
        versions.append("no uvloop")
    load = f"load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    return f"{os.cpu_count()} cores, {load}; Python {platform.python_version()}, {', '.join(versions)}"


if __name__ == "__main__":
    main()
