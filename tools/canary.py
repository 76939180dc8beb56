"""The tests of each plugin with the frameworks that are newest on PyPI today, whatever its upper bounds say.

    make canary                  (python tools/canary.py PLUGIN …)

For each plugin it tells the versions, what passed and failed, and which rows of its patch table have changed: a row's target is
compared with the same one in the newest supported version. The last line is one JSON object. It says something about the
frameworks, not about a commit, and is no part of CI.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from environments import ROOT
from setup_plugin import folder_of, frameworks_of, installed


def main() -> None:
    """Try every plugin; exit with 1 when a test fails or a patch no longer fits."""
    known = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))
    wanted = sys.argv[1:] or known
    if unknown := sorted(set(wanted) - set(known)):
        raise SystemExit(f"there is no plugin {unknown}; there are {known}")
    found: dict[str, Any] = {}
    for plugin in wanted:
        found[plugin] = tried(plugin)
        print(*told(plugin, found[plugin]), sep="\n", flush=True)
    print(json.dumps(found), flush=True)
    if bad := [plugin for plugin, result in found.items() if not is_well(result)]:
        raise SystemExit(f"not well with today's versions: {bad}")


def tried(plugin: str) -> dict[str, Any]:
    """What came of one plugin."""
    for kind in ((), ("--canary",)):
        if subprocess.run([sys.executable, ROOT / "tools" / "setup_plugin.py", plugin, *kind], check=False).returncode:
            return {"error": f"no environment could be made: setup_plugin.py {plugin} {' '.join(kind)}"}
    supported, today = (dict(installed(folder_of(plugin, kind), frameworks_of(plugin))) for kind in ("", "canary"))
    return {"versions": today, "supported": supported, "rows": compared(plugin), **tests(plugin)}


def compared(plugin: str) -> dict[str, str]:
    """Each row of the patch tables: `same`, `changed`, or what is wrong with it."""
    before, now = (rows(plugin, kind) for kind in ("", "canary"))
    return {target: row["problem"] or ("same" if row == before.get(target) else "changed") for target, row in now.items()}


def rows(plugin: str, kind: str) -> dict[str, dict[str, str]]:
    """The rows in one environment; what kept them from being told is a row itself."""
    done = run(plugin, kind, "tools/patch_rows.py", plugin)
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"all": {"digest": "", "problem": last}}


def tests(plugin: str) -> dict[str, Any]:
    """Passed and skipped by number, failed by name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ("-q", "-n", "2", "--dist", "loadfile", f"--junitxml={report}", f"tests/plugins/{plugin}")
        done = run(plugin, "canary", "-P", "-m", "pytest", *options)
        if not report.exists():
            return {"passed": 0, "skipped": 0, "failed": [f"pytest did not start: {(done.stdout + done.stderr).strip()[-300:]}"]}
        cases = list(ET.parse(report).iter("testcase"))
    failed = [f"{case.get('classname')}::{case.get('name')}" for case in cases if {"failure", "error"} & {part.tag for part in case}]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "failed": failed}


def run(plugin: str, kind: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python of one environment, with all that it says."""
    python = folder_of(plugin, kind) / "bin" / "python"
    environment = {**os.environ, "AGL_TEST_PLUGIN": plugin}
    return subprocess.run([python, *arguments], cwd=ROOT, env=environment, check=False, capture_output=True, text=True)


def told(plugin: str, result: dict[str, Any]) -> list[str]:
    """The result of one plugin in lines for people."""
    if "error" in result:
        return [f"{plugin}: {result['error']}"]
    versions = [
        f"{name} {version}"
        if result["supported"].get(name) == version
        else f"{name} {version} (supported: {result['supported'].get(name)})"
        for name, version in result["versions"].items()
    ]
    counts = f"{result['passed']} passed, {len(result['failed'])} failed, {result['skipped']} skipped"
    rows = [f"  {target}: {row}" for target, row in result["rows"].items() if row != "same"]
    return [f"{plugin}: {', '.join(versions)}: {counts}", *(f"  failed: {name}" for name in result["failed"]), *rows]


def is_well(result: dict[str, Any]) -> bool:
    """Whether all passed and every patch fits; a target whose text has changed may still do."""
    return "error" not in result and not result["failed"] and set(result["rows"].values()) <= {"same", "changed"}


if __name__ == "__main__":
    main()
